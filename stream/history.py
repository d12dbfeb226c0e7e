"""The last minutes of a worker, second by second: what the live page draws."""

from __future__ import annotations

import time
from collections import deque

import msgspec

from models.weights import LearnerMetrics
from stream.engine import Engine

SECONDS = 900


class Moment(msgspec.Struct):
    """One wall-clock second. Sums over its samples are by learner, in the order of ``learners``."""

    at: int
    impressions: int
    actions: int
    samples: int
    positives: int
    predicted: list[float]
    loss: list[float]
    version: int
    watermark: int
    buffered: int


class HotItem(msgspec.Struct):
    """An item and its decayed clicks and impressions at the shortest half-life."""

    item: str
    clicks: float
    impressions: float


class LiveView(msgspec.Struct):
    """What ``/live/data`` answers."""

    name: str
    source: str
    now: int
    learners: list[str]
    moments: list[Moment]
    totals: dict[str, int]
    metrics: dict[str, LearnerMetrics]
    window: dict[str, LearnerMetrics]
    hot_items: list[HotItem]
    trunk_hash: str
    weights_created_at: int


class History:
    """A bounded record of ``Moment``s, filled once a tick from the engine's statistics."""

    def __init__(self) -> None:
        self._moments: deque[Moment] = deque(maxlen=SECONDS)
        self._view: LiveView | None = None

    def record(self, engine: Engine, refused: int, created_at: int) -> None:
        """Add one second. Runs in the engine's thread: it reads the engine."""
        now = round(time.time() * 1000)
        learners = engine.panel.learner_names
        moment = Moment(
            at=now,
            impressions=0,
            actions=0,
            samples=0,
            positives=0,
            predicted=[0.0] * len(learners),
            loss=[0.0] * len(learners),
            version=engine.version,
            watermark=max(engine.done_until, 0),
            buffered=engine.timeline.buffered,
        )
        for stats in engine.take_stats():
            moment.impressions += stats.impressions
            moment.actions += stats.actions
            moment.samples += stats.samples
            moment.positives += stats.positives
            moment.predicted = [a + b for a, b in zip(moment.predicted, stats.predicted, strict=True)]
            moment.loss = [a + b for a, b in zip(moment.loss, stats.loss, strict=True)]
        self._moments.append(moment)
        join = engine.join.counts
        totals = {
            "impressions": join.impressions,
            **engine.totals.actions_by_kind,
            "samples": join.samples,
            "positives": join.positives,
            "duplicate_impressions": join.duplicate_impressions,
            "duplicate_actions": join.duplicate_actions,
            "orphans_expired": join.orphans_expired,
            "orphans_waiting": join.orphans_waiting,
            "late": engine.totals.late,
            "dead_letters": refused,
        }
        hot = [
            HotItem(item, float(counts[1, 0]), float(counts[0, 0]))
            for item, counts in engine.features.tables["item"].top(1, 10, engine.done_until)
        ]
        self._view = LiveView(
            name=engine.scenario.name,
            source=engine.source,
            now=now,
            learners=list(learners),
            moments=[],
            totals=totals,
            metrics=engine.panel.metrics(),
            window=engine.panel.window_metrics(),
            hot_items=hot,
            trunk_hash=engine.trunk.hash,
            weights_created_at=created_at,
        )

    def view(self, since: int = 0) -> LiveView | None:
        """The newest view with the moments after ``since`` (ms); None before the first tick."""
        if self._view is None:
            return None
        moments = [moment for moment in list(self._moments) if moment.at > since]
        return msgspec.structs.replace(self._view, moments=moments)
