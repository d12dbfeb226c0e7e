"""What the engine does under each fault that a replay can add, with a real worker behind a real broker.

Every fault counts what it did; the engine's own counts are held against that, to the event.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import polars as pl
import pytest

import surgeline.broker as brokers
from replay.faulty import FaultyLog
from replay.player import DELIVERED, play
from replay.process_faults import ProcessFaults
from replay.simulate.faults import FLOOD_USER
from state.formulas import COUNTS, unpack_row
from stream.scenario import Scenario
from tests.integration.faults_harness import (
    Laboratory,
    Table,
    broker_pid,
    dead_letters,
    finished,
    laboratory,
    newest,
    paused,
)
from tests.integration.fresh import fresh_scenario
from tests.integration.harness import TIMES, Playing, Sale, Worker, kept, rehearse, until

Factory = Callable[..., Scenario]
#: Impressions of the usual log, over 30 s.
SHOWN = 1500


@pytest.fixture(scope="module")
def lab(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    """One worker for those faults that need no settings of their own: most of a test is a worker's start."""
    with laboratory(broker, fresh_scenario("faults", times=TIMES), tmp_path_factory.mktemp("faults")) as room:
        yield room


@pytest.fixture
def sale() -> Sale:
    return Sale(SHOWN, 30.0)


def test_duplicates_are_dropped_and_counted(lab: Laboratory) -> None:
    """Failure: an event that is delivered twice is learned twice.

    Mechanism: a fifth of all events comes again, up to 2 s later. Required: the totals of a log without
    duplicates, and every duplicate counted as what it is.
    """
    seen = lab.under(["duplicates=0.2:2s"])
    did = seen.did["duplicates"]
    assert min(did.values()) > 50
    assert seen.report.impressions == SHOWN + did["impressions"]
    assert seen.totals["impressions"] == seen.totals["samples"] == SHOWN
    assert seen.joined == seen.actions
    assert seen.totals["positives"] == seen.actions["click"]
    assert seen.totals["duplicate_impressions"] == did["impressions"]
    assert seen.totals["duplicate_actions"] == did["actions"]
    assert seen.letters == []


def test_late_events_are_joined_all_the_same(lab: Laboratory) -> None:
    """Failure: what comes behind the watermark is lost, or joined to nothing.

    Mechanism: a tenth of all events comes 1 s to 8 s late, beyond the allowed lateness of 0.5 s, so also
    impressions after their clicks. The log is halted on its way until the worker's ticks are ``there``: what
    comes of earlier times afterwards is late, however much is read at once. Required: everything is joined
    once; what was late is counted, and nothing that was in time.
    """
    log = lab.sale(SHOWN, 30.0)
    faulty = FaultyLog(log, ["late=0.1:8s"], seed=7)
    rows = pl.concat(list(faulty.chunks()))
    places = rows.with_row_index("place")
    ways = places.pivot("event", index="impression_id", values="place", aggregate_function="first")
    assert ways.filter(pl.col("action") < pl.col("impression")).height > 10, "the fault does too little"
    there = int(log.table["event_time"][0]) // 1000 * 1000 + 14_000
    halt = int((rows[DELIVERED] >= there + 2_000).arg_max() or 0)
    certain = int((rows["event_time"][halt:] < there).sum())
    assert certain > 10

    play(Table(rows.head(halt), "part"), lab.scenario, lab.broker, watermark=False)
    until(lambda: newest(lab.worker.view(), "watermark") >= there, "the ticks are there")
    seen = lab.under([], Table(rows.slice(halt), "part"))
    actions = log.info().by_action
    assert seen.totals["impressions"] == seen.totals["samples"] == SHOWN
    assert {name: seen.totals[name] for name in actions} == actions
    assert certain <= seen.totals["late"] <= faulty.counts[0][1]["late"]
    assert 0.8 * actions["click"] < seen.totals["positives"] <= actions["click"]
    for none in ("orphans_waiting", "orphans_expired", "dead_letters", "duplicate_actions"):
        assert seen.totals[none] == 0


def test_an_action_is_never_before_its_impression(lab: Laboratory) -> None:
    """Failure: a phone whose clock is slow stamps its click before the impression that it answers, and the
    label stands in its own features, or the click is lost.

    Mechanism: users with one impression and one click each; all clicks are stamped 5 s too early. Required:
    each is joined within its label, and counts from the moment of its impression: decayed together, one
    click is one impression, to the last digit.
    """
    start, rows = lab.sale(1, 1.0).table["event_time"][0], []
    for k in range(500):
        base = {"impression_id": f"each-{k}", "user_id": f"each-{k}", "item_id": f"item-{k % 20}"}
        for event, action, at in (("impression", None, 0), ("action", "click", 500)):
            rows.append({"event": event, "action": action, "event_time": start + 40 * k + at, **base})
    seen = lab.under(["clock_skew=1:-5s:actions"], Table.of(rows, "each"))
    assert seen.did["clock_skew"]["skewed"] == seen.totals["click"] == seen.totals["positives"] == 500
    assert seen.totals["samples"] == 500 and seen.letters == []
    users = lab.rows("user")
    for k in range(500):
        _, counts = unpack_row(users[f"each-{k}"], len(lab.scenario.features.half_lives_s))
        assert counts[COUNTS.index("click")].tolist() == pytest.approx(counts[0].tolist(), rel=1e-9)


def test_malformed_records_are_set_aside_with_their_reason(lab: Laboratory) -> None:
    """Failure: bytes that are no event stop a worker, or take sound events of their batch with them.

    Mechanism: five kinds of damage to 3 % of the records. Required: exactly these are dead letters, each
    with its reason and its bytes; every other event counts, and an action whose impression was damaged waits.
    """
    seen, topics = lab.under(["malformed=0.03"]), lab.scenario.topics
    did = seen.did["malformed"]
    assert sum(did.values()) == len(seen.letters) == seen.totals["dead_letters"] and min(did.values()) > 0
    assert all(letter.reason and letter.value for letter in seen.letters)
    places = {(letter.topic, letter.partition, letter.offset) for letter in seen.letters}
    assert len(places) == len(seen.letters)
    left = SHOWN - seen.refused(topics.impressions)
    assert seen.totals["impressions"] == seen.totals["samples"] == left
    waiting = seen.totals["orphans_waiting"] + seen.totals["orphans_expired"]
    sound = sum(seen.actions.values()) - seen.refused(topics.actions)
    assert sum(seen.joined.values()) + waiting == sound and waiting > 0


@pytest.mark.parametrize(
    ("change", "refused_kinds", "named"),
    [
        ("extra:item_id", (), ""),
        ("rename:item_id", ("impression",), "item_id"),
        ("retype:event_time", ("impression", "action"), "event_time"),
    ],
)
def test_a_schema_change_costs_what_the_contract_says(
    change: str, refused_kinds: tuple[str, ...], named: str, lab: Laboratory
) -> None:
    """Failure: a producer's new version stops the worker, or its events are read as something else.

    Mechanism: half-way through a log come fields that nobody knows, or an item under another name, or times
    that became texts. Required: unknown fields pass; without its item an impression is a dead letter that
    names it, an action is not; without a time both are.
    """
    seen = lab.under([f"schema_change={change}:15s"], lab.sale(600, 30.0))
    table = seen.log.table
    after = table.filter(pl.col("event_time") >= table["event_time"][0] + 15_000)
    refused = {kind: after.filter(pl.col("event") == kind).height for kind in refused_kinds}
    did = seen.did["schema_change"]
    assert (did["changed"], did["refused"]) == (after.height, sum(refused.values()))
    assert seen.totals["dead_letters"] == len(seen.letters) == did["refused"]
    assert all(named in letter.reason for letter in seen.letters)
    assert seen.totals["impressions"] == seen.totals["samples"] == 600 - refused.get("impression", 0)


def test_a_clock_in_the_future_is_refused(
    broker: str, scenario_factory: Factory, tmp_path: Path, sale: Sale
) -> None:
    """Failure: one wrong clock pushes the watermark ahead, and every sound event is late for good.

    Mechanism: a fifth of the users lives an hour ahead, where five minutes are allowed; the log is of now.
    Required: all of theirs are dead letters that say so, all others are learned in time.
    """
    scenario = scenario_factory(times=TIMES)
    with laboratory(broker, scenario, tmp_path) as room:
        seen = room.under(["clock_skew=0.2:1h"], sale, time="now")
    assert seen.did["clock_skew"]["skewed"] == len(seen.letters) == seen.totals["dead_letters"] > 100
    assert all("ahead of the clock" in letter.reason for letter in seen.letters)
    left = SHOWN - seen.refused(scenario.topics.impressions)
    assert seen.totals["impressions"] == seen.totals["samples"] == left
    sound = sum(seen.actions.values()) - seen.refused(scenario.topics.actions)
    assert sum(seen.joined.values()) == sound
    assert (seen.totals["late"], seen.totals["orphans_waiting"]) == (0, 0)


def test_lost_labels_are_visible(broker: str, scenario_factory: Factory, tmp_path: Path, sale: Sale) -> None:
    """Failure: clicks that never come are learned as if nobody clicked, and nobody notices.

    Mechanism: from 10 s on no action is delivered. Required: samples close as negatives all the same, and
    the learner, told of fewer clicks than it has learned to expect, shows it (PCOC).
    """
    with laboratory(broker, scenario_factory(times=TIMES), tmp_path) as room:
        seen = room.under(["label_outage=10s:1h:lost"], sale)
        counts = room.stop()
    lost = seen.did["label_outage"]["lost"]
    assert lost > 250
    assert seen.totals["samples"] == SHOWN
    assert sum(seen.joined.values()) == sum(seen.actions.values()) - lost == counts.actions
    assert seen.totals["positives"] == seen.totals["click"]
    assert seen.metrics["last_layer"]["pcoc"] > 1.3
    assert (counts.actions_after_label, seen.totals["orphans_waiting"], seen.totals["dead_letters"]) == (
        0,
        0,
        0,
    )


def test_delayed_labels_are_joined_after_their_samples(
    broker: str, scenario_factory: Factory, tmp_path: Path, sale: Sale
) -> None:
    """Failure: an outage of the click stream stops the ticks, or its clicks are lost when they come.

    Mechanism: the actions of 12 s to 24 s come at once at its end, when the samples have closed: the log is
    halted there until they have. Required: those samples are negatives and stay it; every late click is
    joined, and counted as one that came after its label; the predictions show the outage while it lasts.
    """
    # A producer on a busy machine must not seem silent while it sends the second part.
    scenario = scenario_factory(times=msgspec.structs.replace(TIMES, idle_s=2.0))
    faulty = FaultyLog(sale, ["label_outage=12s:12s"])
    rows = pl.concat(list(faulty.chunks()))
    start = int(rows[DELIVERED][0])
    end = int((rows["event_time"] < rows[DELIVERED]).arg_max() or 0)
    silent, back = Table(rows.head(end), "part"), Table(rows.slice(end), "part")
    clicked = pl.col("action") == "click"
    delayed = back.table.filter(clicked & (pl.col("event_time") < start + 24_000))["impression_id"]
    shown = pl.col("event") == "impression"
    old = silent.table.filter(shown & (pl.col("event_time") < start + 19_000))["impression_id"]
    certain = delayed.is_in(old.implode()).sum()
    assert 100 < certain <= delayed.len() < faulty.counts[0][1]["delayed"]

    with laboratory(broker, scenario, tmp_path) as room:
        play(silent, scenario, broker, watermark=False)
        room.worker.reached(samples=old.len())
        amid = room.worker.view()
        assert newest(amid, "watermark") >= start + 19_000
        view = finished(room.worker, play(back, scenario, broker))
        counts = room.stop()
    totals, clicks = view["totals"], sale.info().by_action["click"]
    assert totals["samples"] == totals["impressions"] == SHOWN, totals
    assert {name: totals[name] for name in sale.info().by_action} == sale.info().by_action
    assert certain <= clicks - totals["positives"] <= counts.actions_after_label <= counts.actions
    # How far back it comes depends on how long the halt took: silence moves the ticks by the clock.
    assert amid["metrics"]["last_layer"]["pcoc"] > 1.1
    assert amid["metrics"]["last_layer"]["pcoc"] > view["metrics"]["last_layer"]["pcoc"]
    assert (totals["orphans_waiting"], totals["dead_letters"]) == (0, 0)


def test_a_flood_from_one_key_is_counted_and_forgotten(
    broker: str, scenario_factory: Factory, tmp_path: Path, sale: Sale
) -> None:
    """Failure: one user who floods a partition holds the others back, or stays in the state for ever.

    Mechanism: from 5 s to 10 s each impression comes 20 times more, from one user and so in one partition;
    impressions are remembered for 8 s. Required: everything is counted and nothing is late, user and item
    are one row of features each, and at the end of the log the state holds its last seconds only.
    """
    scenario = scenario_factory(times=msgspec.structs.replace(TIMES, join_limit_s=8.0))
    with laboratory(broker, scenario, tmp_path) as room:
        seen = room.under(["hot_key=5s:5s:20:item-hot"], sale)
        assert {FLOOD_USER} < set(room.rows("user")) and {"item-hot"} < set(room.rows("item"))
        room.stop()
    flooded = seen.did["hot_key"]["flooded"]
    assert flooded > 4000
    assert seen.totals["impressions"] == seen.totals["samples"] == SHOWN + flooded
    assert seen.joined == seen.actions
    assert [seen.totals[name] for name in ("late", "dead_letters", "duplicate_impressions")] == [0, 0, 0]
    state = kept(scenario, room.worker.state_folder)
    assert FLOOD_USER not in state.users and 0 < len(state.ids) < SHOWN


def test_a_paused_broker_is_waited_for(
    running_broker: brokers.Broker, scenario_factory: Factory, tmp_path: Path, sale: Sale
) -> None:
    """Failure: a worker that dies, or does events twice or never, because its broker did not answer.

    Mechanism: the replay of a log with duplicates stops the broker's processes on its way, twice.
    Required: the same worker goes on, and ends with the state of an engine that never saw a broker.
    """
    scenario, broker = scenario_factory(times=TIMES), running_broker.bootstrap
    worker = Worker(scenario, broker, tmp_path).ready()
    try:
        faulty = FaultyLog(sale, ["duplicates=0.1:1s"], seed=1)
        pauses = ["broker_pause=8s:3s", "broker_pause=20s-25s:1s"]
        processes = ProcessFaults(pauses, seed=1, broker_pid=broker_pid(running_broker))
        playing = Playing(faulty, scenario, broker, rate=400, processes=processes)
        assert until(lambda: not brokers.answers(running_broker.port, 0.5), "the broker is paused")
        finished(worker, playing.report())
        assert worker.stop() == 0
    finally:
        worker.end()
    lines = list(processes.lines())
    assert len(lines) == 2 and all("paused 1 (process" in line for line in lines), lines
    state = kept(scenario, worker.state_folder)
    assert (state.impressions, state.samples) == (SHOWN, SHOWN)
    assert state.duplicates == sum(faulty.counts[0][1].values()) > 0
    assert state.digest == rehearse(scenario, broker, tmp_path / "rehearsed").digest


def test_an_outage_of_the_broker_makes_nothing_late(
    running_broker: brokers.Broker, scenario_factory: Factory, tmp_path: Path
) -> None:
    """Failure: while no broker answers, silence moves the ticks on, and the backlog comes behind them.

    Mechanism: the broker stops for longer than the silence that would do so. Required: nothing is late.
    """
    scenario = scenario_factory(times=msgspec.structs.replace(TIMES, idle_s=8.0))
    worker = Worker(scenario, running_broker.bootstrap, tmp_path).ready()
    try:
        processes = ProcessFaults(["broker_pause=20s:14s"], broker_pid=broker_pid(running_broker))
        log = Sale(SHOWN, 60.0)
        report = play(log, scenario, running_broker.bootstrap, rate=300, processes=processes)
        totals = finished(worker, report)["totals"]
    finally:
        worker.end()
    assert all("paused 1 (process" in line for line in processes.lines())
    assert totals["impressions"] == totals["samples"] == SHOWN
    assert {name: totals[name] for name in log.info().by_action} == log.info().by_action
    assert totals["late"] == 0


def test_a_killed_worker_leaves_no_trace_among_other_faults(
    broker: str, scenario_factory: Factory, tmp_path: Path, sale: Sale
) -> None:
    """Failure: after ``kill -9`` a duplicate counts as new, a dead letter is lost, or the state differs.

    Mechanism: the replay of a log with duplicates and damaged records kills the worker on its way, and goes
    on while it is dead. Required: counts and digest of an engine that was fed once; no record's dead letter
    is missing (it may come twice: delivery is at least once).
    """
    scenario = scenario_factory(times=TIMES)
    worker = Worker(scenario, broker, tmp_path).ready()
    try:
        faulty = FaultyLog(sale, ["duplicates=0.1:1s", "malformed=0.02"], seed=2)
        processes = ProcessFaults(["worker_kill=20s"], worker_pid=worker.child.pid)
        playing = Playing(faulty, scenario, broker, rate=200, processes=processes)
        worker.reached(impressions=100)
        assert worker.ended() == -signal.SIGKILL
        assert playing.running, "the log must go on while the worker is dead"
        # What a supervisor does.
        worker = Worker(scenario, broker, tmp_path).ready()
        finished(worker, playing.report())
        assert worker.stop() == 0
    finally:
        worker.end()
    state, once = kept(scenario, worker.state_folder), rehearse(scenario, broker, tmp_path / "rehearsed")
    assert state.digest == once.digest
    for count in ("impressions", "actions", "samples", "positives", "duplicates"):
        assert getattr(state, count) == getattr(once, count) > 0
    letters = {(letter.topic, letter.partition, letter.offset) for letter in dead_letters(broker, scenario)}
    assert len(letters) == sum(dict(faulty.counts)["malformed=0.02"].values()) > 0


def test_a_pause_is_one(running_broker: brokers.Broker) -> None:
    """Failure: an outage that is none proves nothing. Required: no answer within it, and one after it."""
    assert brokers.answers(running_broker.port)
    with paused(running_broker):
        assert not brokers.answers(running_broker.port, timeout_s=0.5)
    assert until(lambda: brokers.answers(running_broker.port), "the broker is back")
