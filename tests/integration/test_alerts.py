"""Failure: an alert that its fault does not raise, or that something raises which is no fault.

Mechanism: real faults on real workers; their ``/metrics`` go to the shipped rules by promtool
(``alerts_harness``). Required: each fault raises exactly the alerts that are meant for it; a rebalance, a
restart, silence and replays raise none.
"""

from __future__ import annotations

import math
import re
import shutil
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import MemberToRemove
from kafka.structs import OffsetAndMetadata

import surgeline.local.broker as brokers
from contracts.scenario import Scenario
from replay.player import play
from tests.integration.alerts_harness import EVERY_S, PROMTOOL, Scrapes, Shop, value
from tests.integration.faults_harness import newest, paused
from tests.integration.harness import T0, TIMES, Playing, Sale, Worker, until

pytestmark = [
    pytest.mark.one_broker,
    pytest.mark.skipif(PROMTOOL is None, reason="no promtool on PATH (Debian: package prometheus)"),
]

Factory = Callable[..., Scenario]
#: Silent partitions hold nothing for long, as in production, but for longer than a producer on a busy machine
#: may pause: what comes after that is late, or an older log.
LIVE = msgspec.structs.replace(TIMES, idle_s=3.0)
#: Counters that begin with the process, as their text says.
OF_THE_PROCESS = re.compile("surgeline_(publish_failures|checked_keys|misplaced_keys|page_errors)_total")
#: SurgelineWorkerDown waits for so long.
DOWN_AFTER_S = 30
#: True of these workers, which have no trunk: the frozen head predicts without having seen anything.
UNTRAINED = {"SurgelineMiscalibrated"}


def test_a_rebalance_and_restarts_raise_nothing(
    broker: str, scenario_factory: Factory, tmp_path: Path
) -> None:
    """Failure: the lag of a partition stays with the worker that gave it away and calls for its restart;
    counters show 0 and then their old total, or fall.

    Mechanism: a second worker joins amid a log, gets ``kill -9`` and comes back, then both stop in order and
    come back; the log ends. Required: no alert, lag is shown by one worker a partition, and no counter of
    the engine ever falls or starts anew. (Seconds are told as two: restarts take as long as they do.)
    """
    scenario = scenario_factory(times=LIVE)
    log = Sale(6000, 60.0)
    workers: list[Worker] = []
    told_s = 1
    try:
        with Scrapes(tmp_path, told_s=told_s) as scrapes:

            def start(worker_id: str) -> Worker:
                workers.append(Worker(scenario, broker, tmp_path / worker_id, worker_id))
                return scrapes.watch(workers[-1])

            first = start("0").ready()
            playing = Playing(log, scenario, broker, rate=250)
            first.reached(impressions=500)
            second = start("1").ready()
            until(lambda: first.reading() == second.reading() == 6, "partitions are shared")
            scrapes.after(6)
            second.kill()
            second = start("1").ready()
            scrapes.after(4)
            assert first.stop() == second.stop() == 0
            first, second = start("0"), start("1")
            playing.report()
            wanted = {"0": first, "1": second}
            until(
                lambda: sum(w.totals().get("impressions", 0) for w in wanted.values()) >= 6000,
                "the log is counted",
            )
            scrapes.after(20)
        counted = sum(worker.totals()["impressions"] for worker in wanted.values())
        # Where a broker refuses the last commit before a move, records are done by both, and that is told.
        allowed = {"SurgelineRecordsDoneTwice"} if counted > 6000 else set()
        # Seconds are told as two, and a busy machine restarts a worker in its own time: half of what the rule
        # waits for is no outage.
        assert scrapes.longest_down() * EVERY_S < DOWN_AFTER_S
        if scrapes.longest_down() * told_s >= DOWN_AFTER_S:
            allowed.add("SurgelineWorkerDown")
        assert scrapes.fired() <= allowed
    finally:
        for worker in workers:
            worker.end()

    shown = 0
    for row in scrapes.rows:
        lags = [
            {(f"{topic}/{partition}") for topic, partition in _lag_of(samples)}
            for samples in row.values()
            if samples
        ]
        assert len(set().union(*lags)) == sum(map(len, lags)), f"two workers show one partition's lag: {row}"
        shown += len(lags) == 2 and all(len(owned) == 6 for owned in lags)
    assert shown > 10, "both workers show what is theirs"
    for worker in (first, second):
        for before, after in pairwise([samples for samples in scrapes.of(worker) if samples]):
            fell = {
                key: (old, after.get(key))
                for key, old in before.items()
                if "_total" in key and not OF_THE_PROCESS.match(key) and after.get(key, math.inf) < old
            }
            assert fell == {}
        final = scrapes.of(worker)[-1]
        assert value(final, "surgeline_weights_published_total") > 5


def _lag_of(samples: dict[str, float]) -> list[tuple[str, str]]:
    keys = [key for key in samples if key.startswith("surgeline_consumer_lag_records")]
    return [(re.findall('topic="(.*?)"', key)[0], re.findall('partition="(.*?)"', key)[0]) for key in keys]


def test_a_broker_that_is_away_is_told_and_silence_is_not(
    running_broker: brokers.Broker, scenario_factory: Factory, tmp_path: Path
) -> None:
    """Failure: while Kafka is away every figure stands, and an alert that asks for events sees none; or a
    quiet hour looks the same.

    Mechanism: the broker stops in the midst of events, which wait for a tick then; it comes back; then
    nobody sends anything. Required: standing ticks and missing versions are told, nothing else; nothing in
    the silence.
    """
    # Longer than the end of a partition counts as known without an answer: silence must not move ticks on.
    scenario = scenario_factory(times=msgspec.structs.replace(TIMES, idle_s=5.0))
    worker = Worker(scenario, running_broker.bootstrap, tmp_path).ready()
    try:
        with Scrapes(tmp_path) as scrapes:
            scrapes.watch(worker)
            with Shop(running_broker.bootstrap, scenario) as shop:
                worker.reached(impressions=200)
                assert scrapes.fired() == set()
                with paused(running_broker):
                    scrapes.after(54)
                assert scrapes.fired() == {"SurgelineTicksStand", "SurgelinePublishesNothing"}
            worker.reached(impressions=shop.shown, samples=shop.shown)
            back = scrapes.after(30)  # the windows of what was before are over
            scrapes.after(44)
            assert scrapes.fired(since=back) == set()
            assert value(scrapes.of(worker)[-1], "surgeline_seconds_since_tick") > 20, "it was silent"
    finally:
        worker.end()


def test_fast_clocks_are_told_and_stop_nothing(
    broker: str, scenario_factory: Factory, tmp_path: Path
) -> None:
    """Failure: an event from the future stops learning, and nothing tells; or one such event wakes somebody.

    Mechanism: honest events in every partition; then one 290 s ahead in each; then three in a hundred.
    Required: no alert for the few, ``SurgelineFastClocks`` alone for the share, and ticks all the while.
    """
    scenario = scenario_factory(times=LIVE)
    worker = Worker(scenario, broker, tmp_path).ready()
    try:
        with Scrapes(tmp_path) as scrapes, Shop(broker, scenario) as shop:
            scrapes.watch(worker)
            worker.reached(impressions=100)
            for partition in range(scenario.topics.partitions):
                shop.show(partition, ahead_ms=290_000)
            few = scrapes.after(50)
            assert scrapes.fired() == set()
            ticks = value(scrapes.of(worker)[-1], "surgeline_ticks_total")
            for _ in range(40):
                shop.show(0, ahead_ms=290_000)
                time.sleep(0.7)
            assert scrapes.fired(since=few) == {"SurgelineFastClocks"}
            until(lambda: value(scrapes.of(worker)[-1], "surgeline_ahead_events_total") >= 44, "all are read")
        final = scrapes.of(worker)[-1]
        assert value(final, "surgeline_ahead_events_total") == 44
        assert value(final, "surgeline_ahead_events") == 44
        assert value(final, "surgeline_ticks_total") > ticks + 20
        marks = [value(row, "surgeline_watermark_lag_seconds") for row in scrapes.of(worker)]
        assert min(mark for mark in marks if not math.isnan(mark)) > -1 - LIVE.lateness_s
    finally:
        worker.end()


def test_an_older_log_is_told_and_a_replay_is_not(
    broker: str, scenario_factory: Factory, tmp_path: Path
) -> None:
    """Failure: an older log that is read and never learned, without a word; or every replay wakes somebody.

    Mechanism: a night at full speed with its own times, and silence; then a night of the week before.
    Required: nothing for the first; ``SurgelineOlderLog`` alone for the second, all of which is learned.
    """
    scenario = scenario_factory(times=LIVE)
    worker = Worker(scenario, broker, tmp_path).ready()
    try:
        with Scrapes(tmp_path) as scrapes:
            scrapes.watch(worker)
            play(Sale(20_000, 600.0, start=T0 + 7 * 86_400_000), scenario, broker)
            worker.reached(samples=20_000)
            again = scrapes.after(50)
            assert scrapes.fired() - UNTRAINED == set()
            play(Sale(5_000, 120.0, seed=12, name="before"), scenario, broker)
            worker.reached(samples=25_000)
            scrapes.after(30)
            assert scrapes.fired(since=again) - UNTRAINED == {"SurgelineOlderLog"}
        assert [notice["kind"] for notice in worker.view()["notices"]] == ["older_log"]
    finally:
        worker.end()


def test_a_state_from_a_backup_is_told(broker: str, scenario_factory: Factory, tmp_path: Path) -> None:
    """Failure: a folder put back loses what came after it, in silence.

    Mechanism: a copy of the state, more events, ``kill -9``, the copy put back. Required:
    ``SurgelineRecordsRewound`` alone, with the worker's own number, and every event is counted.
    """
    scenario = scenario_factory(times=LIVE)
    log, rest = Sale(3000, 30.0).parts(2)
    worker = Worker(scenario, broker, tmp_path).ready()
    try:
        play(log, scenario, broker, watermark=False)
        before = until(lambda: worker.totals().get("impressions", 0) > 500 and worker.totals(), "half")
        assert worker.stop() == 0
        backup = shutil.copytree(worker.state_folder, tmp_path / "backup")
        worker = Worker(scenario, broker, tmp_path).ready()
        play(rest, scenario, broker)
        worker.reached(impressions=3000, samples=3000)
        version = newest(worker.view(), "version")
        until(lambda: newest(worker.view(), "version") > version + 1, "it is committed, too")
        worker.kill()
        shutil.rmtree(worker.state_folder)
        shutil.copytree(backup, worker.state_folder)
        worker = Worker(scenario, broker, tmp_path).ready()
        with Scrapes(tmp_path) as scrapes:
            scrapes.watch(worker)
            worker.reached(impressions=3000, samples=3000)
            scrapes.after(10)
            assert scrapes.fired() - UNTRAINED == {"SurgelineRecordsRewound"}
        final = scrapes.of(worker)[-1]
        rewound = value(final, "surgeline_rewound_records_total")
        assert rewound >= 3000 - before["impressions"]
        assert value(final, "surgeline_recent_mishaps", kind="rewound") == rewound
    finally:
        worker.end()


def test_records_that_retention_took_are_told(
    running_broker: brokers.Broker, scenario_factory: Factory, tmp_path: Path
) -> None:
    """Failure: an outage longer than retention loses events without a word, and the first scrape after it has
    the loss already in its total.

    Mechanism: a worker stops; 400 more impressions; records are deleted up to the last 100. Required:
    ``SurgelineRecordsLost`` alone, with the true number.
    """
    if running_broker.kind == "embedded":
        pytest.skip("the embedded broker deletes no records")
    scenario, broker = scenario_factory(times=LIVE), running_broker.bootstrap
    worker = Worker(scenario, broker, tmp_path).ready()
    try:
        with Shop(broker, scenario, 200) as shop:
            until(lambda: shop.shown >= 400, "traffic")
        worker.reached(impressions=shop.shown)
        assert worker.stop() == 0
        tp = TopicPartition(scenario.topics.impressions, 0)
        with Shop(broker, scenario, 200) as more:
            until(lambda: more.shown >= 400, "traffic while the worker is away")
        consumer = KafkaConsumer(bootstrap_servers=broker)
        end = consumer.end_offsets([tp])[tp]
        consumer.close()
        admin = KafkaAdminClient(bootstrap_servers=broker)
        admin.delete_records({tp: end - 25})
        admin.close()
        worker = Worker(scenario, broker, tmp_path).ready()
        with Scrapes(tmp_path) as scrapes:
            scrapes.watch(worker)
            scrapes.after(20)
            assert scrapes.fired() - UNTRAINED == {"SurgelineRecordsLost"}
        assert value(scrapes.of(worker)[-1], "surgeline_lost_records_total") == more.shown / 4 - 25
    finally:
        worker.end()


def test_a_clock_that_was_set_back_is_told(broker: str, scenario_factory: Factory, tmp_path: Path) -> None:
    """Failure: everything that comes is late, and no figure but the watermark's says so.

    Mechanism: a worker on a machine whose clock is 200 s ahead learns events of that clock; the clock is set
    right and the worker starts again. Required: ``SurgelineWatermarkAhead`` alone, and only after that.
    """
    scenario = scenario_factory(times=LIVE)
    worker = Worker(scenario, broker, tmp_path, clock_ahead_s=200.0).ready()
    try:
        with Scrapes(tmp_path) as scrapes:
            scrapes.watch(worker)
            with Shop(broker, scenario, ahead_ms=200_000) as shop:
                worker.reached(impressions=200)
            worker.reached(samples=shop.shown)
            assert scrapes.fired() - UNTRAINED == set()
            assert worker.stop() == 0
        worker = Worker(scenario, broker, tmp_path).ready()
        with Scrapes(tmp_path) as scrapes:
            scrapes.watch(worker)
            scrapes.after(20)
            assert scrapes.fired() == {"SurgelineWatermarkAhead"}
    finally:
        worker.end()


@pytest.mark.parametrize(
    ("fault", "rows", "alert"),
    [
        pytest.param({"ahead_ms": -600_000}, 70, "SurgelineWatermarkBehind", id="late"),
        pytest.param({"misplaced": True}, 50, "SurgelineMisplacedKeys", id="misplaced"),
    ],
)
def test_producers_at_fault_are_told(
    fault: dict[str, Any],
    rows: int,
    alert: str,
    broker: str,
    scenario_factory: Factory,
    tmp_path: Path,
) -> None:
    """Failure: every event comes ten minutes old, and what is served is as old, though lag in records shows
    none of it; or a partitioner of the producer's own breaks joins across workers, unseen.

    Required: each raises its own alert, and no other one.
    """
    scenario = scenario_factory(times=LIVE)
    worker = Worker(scenario, broker, tmp_path).ready()
    try:
        with Scrapes(tmp_path) as scrapes, Shop(broker, scenario, **fault):
            scrapes.watch(worker)
            worker.reached(samples=40)
            scrapes.after(rows)
            assert scrapes.fired() - UNTRAINED == {alert}
    finally:
        worker.end()


def test_records_that_two_workers_did_are_told(
    running_broker: brokers.Broker, scenario_factory: Factory, tmp_path: Path
) -> None:
    """Failure: somebody sets the group's offsets back, a new worker does those records again, and the one
    that had done them comes back without a word (``remove`` frees its partitions before they time out).

    Required: ``SurgelineRecordsDoneTwice`` alone, with the true number: what was set back, not what is below.
    """
    if running_broker.kind == "embedded":
        pytest.skip("the embedded broker never expires a departed static member, so nobody takes over")
    scenario, broker = scenario_factory(times=LIVE), running_broker.bootstrap
    back, group = 25, scenario.name
    admin = KafkaAdminClient(bootstrap_servers=broker)

    def remove(name: str) -> None:
        admin.remove_group_members(group, [MemberToRemove(group_instance_id=f"{group}-{name}")])

    sources = [TopicPartition(scenario.topics.impressions, p) for p in range(scenario.topics.partitions)]
    workers = [Worker(scenario, broker, tmp_path / "a", "a").ready()]
    try:
        with Shop(broker, scenario, 200) as shop:
            until(lambda: shop.shown >= 400, "traffic")
        workers[0].reached(impressions=shop.shown, samples=shop.shown)
        assert workers[0].stop() == 0
        remove("a")
        committed = admin.list_group_offsets(group)[group]
        earlier = {tp: OffsetAndMetadata(committed[tp].offset - back, "", -1) for tp in sources}
        assert all(error.errno == 0 for error in admin.alter_group_offsets(group, earlier).values())
        workers.append(Worker(scenario, broker, tmp_path / "b", "b").ready())
        workers[1].reached(impressions=back * len(sources))
        assert workers[1].stop() == 0
        remove("b")
        workers[0] = Worker(scenario, broker, tmp_path / "a", "a").ready()
        with Scrapes(tmp_path) as scrapes:
            scrapes.watch(workers[0])
            until(lambda: workers[0].reading() == 3 * len(sources), "it has everything again")
            scrapes.after(20)
            assert scrapes.fired() - UNTRAINED == {"SurgelineRecordsDoneTwice"}
        twice = value(scrapes.of(workers[0])[-1], "surgeline_done_twice_records_total")
        assert twice == back * len(sources)
    finally:
        admin.close()
        for worker in workers:
            worker.end()
