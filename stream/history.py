"""The last minutes of a worker, second by second: what the live page draws."""

from __future__ import annotations

import time
from collections import deque

import msgspec

from contracts.feature_worth import FeatureWorth
from contracts.weights import LearnerMetrics
from models.online.metrics import WINDOW_TICKS
from stream.engine import Engine
from stream.hot_items import HotItem, hottest
from stream.notices import Notice
from stream.pulse import Pulse

SECONDS = 900
#: The peak is that of the mean rate over this many seconds: one late tick is not a peak.
PEAK_SPAN_MS = 5_000
HOT_ITEMS = 10
#: Real-time features that the page lists, those of the most worth.
FEATURES = 12


class Moment(msgspec.Struct):
    """One wall-clock second. Sums over its samples are by learner, in the order of ``learners``.

    ``ticks`` are the event-time ticks that ran in it; ``version`` moves without them, too.
    """

    at: int
    impressions: int
    actions: int
    behaviours: int
    samples: int
    positives: int
    predicted: list[float]
    loss: list[float]
    version: int
    ticks: int
    watermark: int
    buffered: int


class LiveView(msgspec.Struct):
    """What ``/live/data`` answers. Times are ms UTC of the worker's clock.

    ``learners`` orders the lists in ``moments``; ``champion`` is the one that is published. ``metrics``
    count since the state began, ``window`` over the last ``window_s`` of event time. ``peak_rate`` is the
    highest number of events a second since ``started_at``, as a mean over five seconds that end at
    ``peak_at`` (0 before there was one). ``skipped`` are samples that a learner did not learn from.

    ``waiting`` events wait for a tick, ``waiting_ahead`` for their own time, which the clock has not reached.
    ``standing_s`` is 0, or for how many seconds the former have waited without any tick, which is a fault;
    ``since_tick_s`` goes on in a silence as well. ``notices`` are oldest first.
    """

    name: str
    source: str
    now: int
    started_at: int
    kept_s: int
    learners: list[str]
    champion: str
    moments: list[Moment]
    waiting: int
    waiting_ahead: int
    standing_s: float
    since_tick_s: float
    notices: list[Notice]
    totals: dict[str, int]
    metrics: dict[str, LearnerMetrics]
    window: dict[str, LearnerMetrics]
    window_s: float
    label_window_s: float
    lateness_s: float
    skipped: dict[str, int]
    peak_rate: float
    peak_at: int
    hot_items: list[HotItem]
    hot_half_life_s: float
    features: list[FeatureWorth]
    features_declared: int
    features_samples: int
    trunk_hash: str
    weights_created_at: int


class History:
    """A bounded record of ``Moment``s, filled once a tick from the engine's statistics."""

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse
        self._ticks: int | None = None
        self._moments: deque[Moment] = deque(maxlen=SECONDS)
        # Replaced as one: a page that asks meanwhile gets a moment with its totals, or neither.
        self._newest: tuple[LiveView, tuple[Moment, ...]] | None = None
        self._started_at = round(time.time() * 1000)
        self._window_ticks = WINDOW_TICKS
        self._peak_rate, self._peak_at = 0.0, 0

    def record(self, engine: Engine, refused: int, created_at: int) -> None:
        """Add one second. Runs in the engine's thread: it reads the engine."""
        now = round(time.time() * 1000)
        learners = engine.panel.learner_names
        # The first second has no second before it, only a total that was restored.
        before = engine.totals.ticks if self._ticks is None else self._ticks
        self._ticks = engine.totals.ticks
        moment = Moment(
            at=now,
            impressions=0,
            actions=0,
            behaviours=0,
            samples=0,
            positives=0,
            predicted=[0.0] * len(learners),
            loss=[0.0] * len(learners),
            version=engine.version,
            ticks=self._ticks - before,
            watermark=max(engine.done_until, 0),
            buffered=engine.timeline.buffered,
        )
        for stats in engine.stats.take():
            moment.impressions += stats.impressions
            moment.actions += stats.actions
            moment.behaviours += stats.behaviours
            moment.samples += stats.samples
            moment.positives += stats.positives
            moment.predicted = [a + b for a, b in zip(moment.predicted, stats.predicted, strict=True)]
            moment.loss = [a + b for a, b in zip(moment.loss, stats.loss, strict=True)]
        self._moments.append(moment)
        self._follow_peak()
        join = engine.joins.counts
        totals = {
            "impressions": join.impressions,
            **engine.totals.actions_by_kind,
            "behaviours": engine.totals.behaviours_read,
            "samples": join.samples,
            "positives": join.positives,
            "duplicate_impressions": join.duplicate_impressions,
            "duplicate_actions": join.duplicate_actions,
            "duplicates": join.duplicate_impressions + join.duplicate_actions,
            "orphans_expired": join.orphans_expired,
            "orphans_waiting": join.orphans_waiting,
            "late": engine.totals.late,
            "unlearned": engine.totals.unlearned,
            "ahead": engine.totals.ahead,
            "ticks": engine.totals.ticks,
            "older_logs": engine.totals.older_logs,
            "rewound": engine.totals.rewound,
            "lost": engine.totals.lost,
            "done_twice": engine.totals.done_twice,
            "dead_letters": refused,
        }
        hot, half_life_s = hottest(engine, HOT_ITEMS)
        worth = engine.panel.worth
        view = LiveView(
            name=engine.scenario.name,
            source=engine.source,
            now=now,
            started_at=self._started_at,
            kept_s=SECONDS,
            learners=list(learners),
            champion=engine.panel.champion.name,
            moments=[],
            waiting=engine.timeline.buffered,
            waiting_ahead=engine.timeline.waiting_ahead,
            standing_s=self._pulse.standing_s(),
            since_tick_s=self._pulse.since_tick_s(),
            notices=engine.notices.all(),
            totals=totals,
            metrics=engine.panel.metrics(),
            window=engine.panel.window_metrics(),
            window_s=self._window_ticks * engine.tick_ms / 1000,
            label_window_s=engine.scenario.times.label_window_s,
            lateness_s=engine.scenario.times.lateness_s,
            skipped=engine.panel.skipped,
            peak_rate=self._peak_rate,
            peak_at=self._peak_at,
            hot_items=hot,
            hot_half_life_s=half_life_s,
            features=sorted(worth.worth(), key=lambda one: -(one.gain_share or 0.0))[:FEATURES],
            features_declared=len(engine.plan.names),
            features_samples=worth.samples,
            trunk_hash=engine.trunk.hash,
            weights_created_at=created_at,
        )
        self._newest = view, tuple(self._moments)

    def _follow_peak(self) -> None:
        """Raise the peak if the last seconds were busier. A moment counts from the one before it."""
        newest = self._moments[-1].at
        events = 0
        for moment in reversed(self._moments):
            if newest - moment.at >= PEAK_SPAN_MS:
                rate = events * 1000 / (newest - moment.at)
                if rate > self._peak_rate:
                    self._peak_rate, self._peak_at = rate, newest
                return
            events += moment.impressions + moment.actions + moment.behaviours

    def view(self, since: int = 0) -> LiveView | None:
        """The newest view with the moments after ``since`` (ms); None before the first tick."""
        if self._newest is None:
            return None
        view, moments = self._newest
        return msgspec.structs.replace(view, moments=[moment for moment in moments if moment.at > since])
