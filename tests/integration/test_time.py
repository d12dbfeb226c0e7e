"""Failure: a wrong clock or an older log stops a worker's learning, through real brokers and restarts.

The units (tests/unit/stream/test_clocks.py, test_older_log.py) have every case with moved clocks; here stand
those that need a process: a fast clock beside live traffic with a ``kill -9``, and an older log after a newer
one, the same log twice, in order and out of it, each equal to its rehearsal bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import polars as pl
import pytest

from contracts.events import Watermark
from contracts.scenario import Scenario, Times
from models.deep.trunk import Trunk
from replay.records import to_records
from state.store import Store
from stream.engine import Engine
from surgeline.evaluation.rehearse import RehearsalReport, rehearse_logs
from tests.integration.harness import T0, TIMES, Playing, Sale, Worker, produce, until

LIVE = Times(label_window_s=2.0, lateness_s=1.0, join_limit_s=300.0, idle_s=5.0)


def impression(name: str, user: int, at: int) -> bytes:
    return msgspec.json.encode(
        {"impression_id": name, "event_time": at, "user_id": f"user-{user}", "item_id": "x"}
    )


@pytest.mark.parametrize("fast", [1, 2, 4], ids=["one partition", "some", "all"])
def test_honest_events_are_learned_beside_a_fast_clock(
    fast: int, broker: str, scenario_factory: Callable[..., Scenario], tmp_path: Path
) -> None:
    """In every partition an honest impression a second, in ``fast`` of them one that is 12 s ahead."""
    scenario = scenario_factory(times=LIVE)
    topic = scenario.topics.impressions
    worker = Worker(scenario, broker, tmp_path).ready()
    sent, waits = 0, []

    def second(number: int) -> None:
        nonlocal sent
        now = round(time.time() * 1000)
        produce(broker, [(topic, p, None, impression(f"i{number}-{p}", p, now)) for p in range(4)])
        sent += 4
        began = time.monotonic()
        until(lambda: worker.totals().get("samples", 0) >= sent - 4 * 8, "honest samples close")
        waits.append(time.monotonic() - began)

    try:
        for number in range(3):
            second(number)
            time.sleep(0.7)
        now = round(time.time() * 1000)
        ahead = [(topic, p, None, impression(f"ahead-{p}", p, now + 25_000)) for p in range(fast)]
        produce(broker, ahead)
        for number in range(3, 9):
            second(number)
            time.sleep(0.7)
        assert worker.totals()["impressions"] <= sent, "what is ahead waits for its time"
        worker.kill()
        worker = Worker(scenario, broker, tmp_path).ready()
        for number in range(9, 15):
            second(number)
            time.sleep(0.7)
        # At its time it is learned as well, once.
        worker.reached(impressions=sent + fast, samples=sent + fast)
        text = worker.metrics()
        assert f"surgeline_ahead_events_total {float(fast)}" in text
        assert worker.totals()["impressions"] == sent + fast
        said = (tmp_path / f"worker-{scenario.name}-0.log").read_text(errors="replace")
        assert "s ahead of this machine's clock" in said
    finally:
        worker.end()


class Disordered(Sale):
    """A sale whose rows are sent out of order, by up to 5 s of event time."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        table = self.table.with_row_index("n").with_columns(
            delivered=pl.col("event_time") + (pl.col("n") * 7919) % 5000
        )
        self.table = table.sort("delivered", maintain_order=True).drop("n", "delivered")


def rehearsed(scenario: Scenario, logs: list[Sale], ordered: bool) -> RehearsalReport:
    return rehearse_logs([log.chunks(200) for log in logs], scenario, Trunk.empty(), ordered=ordered)


def send(broker: str, scenario: Scenario, log: Sale) -> None:
    """The log as it stands, and the watermarks by which a replay ends it."""
    from replay.produce import partitions_of

    records = to_records(log.table)
    places = partitions_of(log.table["user_id"], scenario.topics.partitions)
    topics = scenario.topics.sources
    rows = [
        (topics[int(kind)], int(place), key, value)
        for kind, place, key, value in zip(records.kinds, places, records.keys, records.values, strict=True)
    ]
    mark = int(log.table["event_time"].max()) + scenario.times.closing_ms  # type: ignore[arg-type]
    end = msgspec.json.encode(Watermark(watermark=mark))
    rows += [(t, p, None, end) for t in topics for p in range(scenario.topics.partitions)]
    produce(broker, rows)


@pytest.mark.parametrize("disordered", [False, True], ids=["in order", "out of it"])
def test_older_logs_through_a_broker_are_what_their_rehearsal_says(
    disordered: bool, broker: str, scenario_factory: Callable[..., Scenario], tmp_path: Path
) -> None:
    """A newer log, an older one, the older one again; with a restart in between."""
    # Every partition has enough events that are further behind than this to be taken for an older log.
    scenario = scenario_factory(times=msgspec.structs.replace(TIMES, join_limit_s=20.0))
    kind = Disordered if disordered else Sale
    newer = kind(1500, 150.0, seed=1, name="new", start=T0)
    older = kind(1500, 150.0, seed=2, name="old", start=T0 - 86_400_000)
    logs = [newer, older, older]
    expected = rehearsed(scenario, logs, ordered=not disordered)
    assert expected.impressions == expected.samples == 4500

    worker = Worker(scenario, broker, tmp_path / "home").ready()
    try:
        for number, log in enumerate(logs, start=1):
            send(broker, scenario, log)
            if number == 2:
                worker.reached(impressions=1600)
                worker.kill()
                worker = Worker(scenario, broker, tmp_path / "home").ready()
        worker.reached(impressions=4500, samples=4500)
        text = worker.text()
        assert "An older log" in text and "--time now" in text
        assert worker.stop() == 0
    finally:
        worker.end()
    with Store(worker.state_folder) as store:
        engine = Engine(scenario, store, Trunk.empty(), worker.worker_id)
        assert engine.totals.older_logs == 2
        assert engine.totals.late >= 3000
        assert engine.joins.counts.positives == expected.positives
        assert engine.weights_digest() == expected.weights_digest
        assert engine.panel.metrics() == expected.metrics


def test_the_same_log_again_by_replay_after_a_silence(
    broker: str, scenario_factory: Callable[..., Scenario], tmp_path: Path
) -> None:
    """README's second day: the worker has been idle, and the same log comes once more."""
    scenario = scenario_factory(times=msgspec.structs.replace(LIVE, join_limit_s=60.0))
    log = Sale(1500, 150.0, seed=4)
    worker = Worker(scenario, broker, tmp_path / "home").ready()
    try:
        Playing(log, scenario, broker).report()
        worker.reached(samples=1500)
        time.sleep(7.0)
        Playing(log, scenario, broker).report()
        worker.reached(impressions=3000, samples=3000)
        assert worker.stop() == 0
    finally:
        worker.end()
