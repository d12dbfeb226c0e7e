"""Failure: figures that lie to whoever is woken by them.

Mechanism: a counter that shows 0 after a restart and then the whole history, one that falls to 0 though it is
said to survive, one that a crash takes back (``rate()`` then sees a reset and the whole history again); a
gauge of what is not known any more, such as the lag of a partition that another worker has.
Required: nothing before the engine is there; then restored values, never more than the last checkpoint holds;
no gauge of what is not known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest
from faust.types import TP
from prometheus_client import CollectorRegistry

from clients.connection import Connection
from contracts.scenario import Scenario, Times
from contracts.weights import LearnerMetrics
from models.deep.trunk import Trunk
from state.joins.columns import JoinCounts
from state.store import Store
from stream.engine import Engine
from stream.metrics import RECENT_S, WorkerMetrics
from stream.pulse import Pulse
from stream.resume import Place
from stream.runtime import Runtime
from tests.unit.test_deploy import EXPORTED, plain

Samples = dict[tuple[str, tuple[str, ...]], float]


def scrape(registry: CollectorRegistry) -> Samples:
    """Every sample under ``surgeline_`` by name and values of its labels."""
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def own(registry: CollectorRegistry) -> set[str]:
    """Counters that begin with the process: their text says so."""
    return {
        f"{family.name}_total"
        for family in registry.collect()
        if family.type == "counter" and family.documentation.endswith("since the process began")
    }


def counters(registry: CollectorRegistry) -> Samples:
    """Those that follow the engine."""
    not_those = own(registry)
    return {
        key: value
        for key, value in scrape(registry).items()
        if key[0].endswith("_total") and key[0] not in not_those
    }


class _Publisher:
    """As much of the publisher as a tick needs; ``broken`` makes it fail as a broker that is away does."""

    def __init__(self) -> None:
        self.broken = False

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def retire(self) -> None:
        pass

    async def dead_letters(self, refused: Any) -> None:
        self._check()

    async def feature_rows(self, rows: Any) -> int:
        self._check()
        return len(list(rows)) + 3

    async def weights(self, weights: Any) -> int:
        return 1234

    def _check(self) -> None:
        if self.broken:
            raise OSError("no broker")


class _Consumer:
    """Reads and commits nothing; what it knows of a partition's lag is in ``lags``."""

    def __init__(self, lags: dict[TP, int]) -> None:
        self.lags = lags

    def ended_at(self, tp: TP) -> float | None:
        return None

    def lag(self, tp: TP) -> int | None:
        return self.lags.get(tp)

    async def commit(self) -> None:
        pass


async def _start(scenario: Scenario) -> tuple[Runtime, CollectorRegistry]:
    registry = CollectorRegistry()
    runtime = Runtime(scenario, Connection("nowhere:9"), "0", registry)
    runtime._publisher = _Publisher()  # type: ignore[assignment]
    runtime._topic_ids = AsyncMock(return_value={})  # type: ignore[method-assign]
    await runtime.start()
    return runtime, registry


@pytest.fixture
def scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scenario:
    monkeypatch.setenv("SURGELINE_HOME", str(tmp_path))
    # A worker tunes the collector of its whole process, which here is that of all tests.
    monkeypatch.setattr("stream.runtime.gc", MagicMock())
    return Scenario()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Store(tmp_path / "state") as store:
        yield Engine(Scenario(), store, Trunk.empty())


def tps(scenario: Scenario, *partitions: int) -> list[TP]:
    return [TP(scenario.topics.impressions, partition) for partition in partitions]


# -- counters


def test_a_worker_that_is_not_ready_shows_none_of_it(scenario: Scenario) -> None:
    registry = CollectorRegistry()
    Runtime(scenario, Connection("nowhere:9"), "0", registry)
    shown = {re.sub(r"_(bucket|count|sum|created|total)$", "", name) for name, _ in scrape(registry)}
    assert "surgeline_publish_failures" in shown
    histograms = {"surgeline_tick_seconds", "surgeline_checkpoint_seconds"}
    assert shown - histograms <= {plain(name) for name in own(registry)}


async def test_every_counter_goes_on_after_a_restart_and_never_falls(scenario: Scenario) -> None:
    """A worker's whole history in scrapes, with ``kill -9`` after a tick: no sample is below the one before,
    and the first after the restart is that of the last checkpoint."""
    runtime, registry = await _start(scenario)
    engine = runtime.engine
    seen = [counters(registry)]
    for second in range(1, 6):
        for name in ("late", "ahead", "older_logs", "rewound", "lost", "done_twice", "ticks"):
            setattr(engine.totals, name, 100 * second)
        events = 1000 * second
        counts = JoinCounts(
            impressions=events, samples=events, duplicate_actions=second, orphans_expired=second
        )
        engine.joins.restore({0: counts})
        engine.panel.samples = 900 * second
        runtime._refused = [(scenario.topics.actions, 0, SimpleNamespace())] * 7  # type: ignore[list-item]
        await runtime.tick(None)
        seen.append(counters(registry))
    # Killed: nothing of the second engine knows what the first did after its last checkpoint.
    await runtime._call(engine.store.close)
    runtime, registry = await _start(scenario)
    seen.append(counters(registry))
    assert seen[-1] == seen[-2]
    await runtime.tick(None)
    seen.append(counters(registry))
    for before, after in pairwise(seen):
        assert {key: after[key] for key in before if after[key] < before[key]} == {}
    shown = {name for (name, _), value in seen[-2].items() if value > 0}
    followed = "events dead_letters duplicates orphans late_events ahead_events older_logs rewound_records"
    followed += " lost_records done_twice_records ticks samples learned weights_published"
    followed += " feature_rows_published"
    assert {f"surgeline_{name}_total" for name in followed.split()} <= shown
    assert seen[-2]["surgeline_dead_letters_total", (scenario.topics.actions,)] == 35
    # One version and its rows a tick, shown from the next checkpoint on.
    assert [shots["surgeline_weights_published_total", ()] for shots in seen] == [0, 0, 1, 2, 3, 4, 4, 4]
    assert seen[-2]["surgeline_feature_rows_published_total", ()] == 12
    await runtime.stop()


async def test_what_failed_to_go_out_is_not_published(scenario: Scenario) -> None:
    runtime, registry = await _start(scenario)
    runtime._publisher.broken = True  # type: ignore[attr-defined]
    for _ in range(3):
        await runtime.tick(None)
    shown = scrape(registry)
    assert shown["surgeline_weights_published_total", ()] == 0
    assert shown["surgeline_publish_failures_total", ()] == 3
    assert ("surgeline_weights_version", ()) not in shown, "a version that nobody can have read"
    runtime._publisher.broken = False  # type: ignore[attr-defined]
    for _ in range(2):
        await runtime.tick(None)
    shown = scrape(registry)
    assert shown["surgeline_weights_published_total", ()] == 1
    assert shown["surgeline_weights_version", ()] == 5
    await runtime.stop()


# -- gauges


async def test_lag_is_shown_of_owned_partitions_alone(scenario: Scenario) -> None:
    """Revoked ones vanish at once: also where the last tick cannot publish, and where the consumer is gone.

    They would stay as they were, and with nothing else to do for this worker call for its restart.
    """
    runtime, registry = await _start(scenario)
    mine = tps(scenario, 0, 1, 2)
    consumer = _Consumer({mine[0]: 5000, mine[1]: 7, TP("other", 0): 9})

    def shown() -> dict[str, float]:
        return {key[1][1]: value for key, value in scrape(registry).items() if "lag_records" in key[0]}

    async def assign(*owned: TP) -> None:
        epoch = runtime._epoch + 1
        await runtime.resume({tp: Place(end=0) for tp in owned}, {}, epoch)

    assert shown() == {}
    await assign(*mine)
    await runtime.tick(consumer)
    assert shown() == {"0": 5000, "1": 7}, "of partition 2 nothing is known yet"
    await runtime.revoked(consumer)
    assert shown() == {}
    await runtime.tick(consumer)
    assert shown() == {}, "a tick between a revocation and the next assignment"
    await assign(mine[1])
    await runtime.tick(consumer)
    assert shown() == {"1": 7}
    runtime._publisher.broken = True  # type: ignore[attr-defined]
    await runtime.revoked(None)
    assert shown() == {}
    await assign(*mine)
    await runtime.tick(consumer)
    assert len(shown()) == 2
    await runtime.stop()
    assert shown() == {}


def test_a_window_without_samples_shows_no_figure(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gauge that keeps its last value would call a learner miscalibrated for as long as nothing comes."""
    registry = CollectorRegistry()
    metrics = WorkerMetrics(Pulse(Times()), registry)
    known: dict[str, Any] = {"auc": 0.7, "log_loss": 0.2, "pcoc": 2.0}
    for figures in (known, dict.fromkeys(known)):
        summary = LearnerMetrics(samples=10, positives=1, **figures)
        monkeypatch.setattr(engine.panel, "window_metrics", lambda summary=summary: {"bayes": summary})
        metrics.follow(engine)
        shown = {name for name, _ in scrape(registry)}
        wanted = {f"surgeline_{name}_window" for name in known}
        assert wanted & shown == (wanted if figures is known else set())


def test_the_watermark_s_distance_is_that_of_the_scrape(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Computed in a tick it would stand with it, and look well. Ahead of the clock it is negative."""
    registry = CollectorRegistry()
    metrics = WorkerMetrics(Pulse(Times()), registry)
    engine.done_until = 1_700_000_000_000
    metrics.follow(engine)
    for now, distance in ((1_700_000_003.0, 3.0), (1_700_000_090.0, 90.0), (1_699_999_710.0, -290.0)):
        monkeypatch.setattr("stream.metrics.time", SimpleNamespace(time=lambda now=now: now))
        assert scrape(registry)["surgeline_watermark_lag_seconds", ()] == distance
    monkeypatch.undo()
    engine.done_until = Engine(engine.scenario, engine.store, engine.trunk).done_until
    metrics.follow(engine)
    assert ("surgeline_watermark_lag_seconds", ()) not in scrape(registry), "before the first tick"


def test_what_happened_to_offsets_is_told_for_a_while_and_not_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The totals stay; an alert on them must see a loss at the very start, and none that is years old."""
    now = 50.0
    monkeypatch.setattr("stream.metrics.time", SimpleNamespace(monotonic=lambda: now, time=lambda: now))
    engine.totals.lost, engine.totals.rewound = 12, 3
    metrics = WorkerMetrics(Pulse(Times()), registry := CollectorRegistry())
    metrics._mishaps._clock = lambda: now

    def told(kind: str) -> float:
        return scrape(registry)["surgeline_recent_mishaps", (kind,)]

    metrics.follow(engine)  # restored: told in an earlier life
    assert (told("lost"), told("rewound")) == (0, 0)
    engine.totals.lost = 5012
    metrics.follow(engine)
    assert (told("lost"), told("rewound"), told("older_log")) == (5000, 0, 0)
    now += RECENT_S / 2
    engine.totals.lost, engine.totals.older_logs = 5013, 1
    metrics.follow(engine)
    assert (told("lost"), told("older_log")) == (5001, 1)
    now += RECENT_S / 2 + 1
    assert (told("lost"), told("older_log")) == (1, 1)
    now += RECENT_S
    assert (told("lost"), told("older_log")) == (0, 0)
    assert scrape(registry)["surgeline_lost_records_total", ()] == 5013


def test_a_scrape_amid_a_tick_is_of_one_checkpoint(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = WorkerMetrics(Pulse(Times()), registry := CollectorRegistry())
    metrics.follow(engine)
    meanwhile: list[Samples] = []
    window = engine.panel.window_metrics

    def asked() -> dict[str, LearnerMetrics]:
        meanwhile.append(counters(registry))
        return window()

    monkeypatch.setattr(engine.panel, "window_metrics", asked)
    before = counters(registry)
    engine.joins.restore({0: JoinCounts(impressions=5)})
    engine.totals.late = 5
    metrics.follow(engine)
    assert meanwhile == [before]
    assert counters(registry) != before


async def test_every_name_in_the_code_is_shown(scenario: Scenario) -> None:
    """One that is written down and never shown makes an alert that is dead, though its name exists."""
    runtime, registry = await _start(scenario)
    runtime.engine.done_until = 1_700_000_000_000
    await runtime.tick(None)
    shown = {plain(name) for name, _ in scrape(registry)} | {family.name for family in registry.collect()}
    await runtime.stop()
    assert {name for name in EXPORTED if not name.startswith("surgeline_serving")} <= shown


# -- ready


async def test_ready_says_whether_the_worker_does_its_work(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failure: a rollout that goes on over workers that stand. Required: not ready before the first
    checkpoint, nor once none comes any more, nor while events wait without a tick."""
    runtime = Runtime(scenario, Connection("nowhere:9"), "0", CollectorRegistry())
    assert "starting" in (runtime.unready() or "")
    runtime._publisher = _Publisher()  # type: ignore[assignment]
    await runtime.start()
    assert "starting" in (runtime.unready() or "")
    await runtime.tick(None)
    assert runtime.unready() is None
    runtime.pulse._clock = lambda: 1e9
    runtime.pulse._waiting_since = 1e9 - 40
    assert runtime.unready() == "events wait and no tick has run for 40 s"
    runtime.pulse._waiting_since = None
    assert runtime.unready() is None
    assert runtime._ticked_at is not None
    runtime._ticked_at -= 60
    assert (runtime.unready() or "").startswith("no checkpoint for 60")
    await runtime.stop()
    assert "starting" in (runtime.unready() or "")
