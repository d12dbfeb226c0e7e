"""The worker's own figures for Prometheus, all under ``surgeline_``; Faust's own stand beside them.

Counters follow the engine's totals as of its last checkpoint. They survive restarts with it: they show their
restored value from the first scrape on that has them at all, and never one that a crash could take back, so
that ``rate()`` sees neither the whole history at once nor a reset. Until the engine is there nothing of it
is shown. The histograms, and counters whose text says "since the process began", begin at 0 with it.

Gauges are what is known now. One that nothing is known of any more, such as the lag of a partition that went
to another worker, is not shown.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from faust.types import TP
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from contracts.events import BEHAVIOUR, IMPRESSION
from contracts.weights import LearnerMetrics
from stream.engine import Engine
from stream.pulse import Pulse

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: What happened to offsets is told this long, so that a scrape sees it and a restart does not tell it again.
RECENT_S = 600.0


class WorkerMetrics(Collector):
    """What ``/metrics`` shows. The engine's thread calls ``follow``, any thread the rest."""

    def __init__(self, pulse: Pulse, registry: CollectorRegistry = REGISTRY) -> None:
        self._pulse = pulse
        self._followed: list[Metric] = []
        self._watermark: int | None = None
        self._mishaps = _Recent(RECENT_S)
        self._lag: dict[TP, int] = {}
        self._published: tuple[int, int] | None = None
        self.checked_keys = Counter(
            "surgeline_checked_keys_total",
            "Keys compared with their partition (a sample), since the process began",
            ["topic"],
            registry=registry,
        )
        self.misplaced_keys = Counter(
            "surgeline_misplaced_keys_total",
            "Of these, in another one than murmur2's, since the process began",
            ["topic", "reason"],
            registry=registry,
        )
        self.page_errors = Counter(
            "surgeline_page_errors_total",
            "Requests to this worker's pages that were refused, since the process began",
            ["status"],
            registry=registry,
        )
        self.publish_failures = Counter(
            "surgeline_publish_failures_total",
            "Ticks whose publishing failed, since the process began",
            registry=registry,
        )
        self.tick = Histogram(
            "surgeline_tick_seconds", "Time of a wall-clock tick", buckets=_SECONDS, registry=registry
        )
        self.checkpoint = Histogram(
            "surgeline_checkpoint_seconds", "Time of a checkpoint", buckets=_SECONDS, registry=registry
        )
        registry.register(self)

    def follow(self, engine: Engine) -> None:
        """Show the engine's totals from now on. Call after a restore and after each checkpoint."""
        totals = engine.totals
        followed = [*_counters(engine), *_gauges(engine)]
        self._mishaps.see(
            lost=totals.lost,
            rewound=totals.rewound,
            done_twice=totals.done_twice,
            older_log=totals.older_logs,
        )
        self._watermark = engine.done_until if engine.done_until > 0 else None
        # Replaced as one: a scrape meanwhile gets all of one checkpoint.
        self._followed = followed

    def own(self, lags: Mapping[TP, int | None]) -> None:
        """The partitions that this worker has, each with its records behind the end where that is known.

        What is not among them is shown no longer.
        """
        self._lag = {tp: lag for tp, lag in lags.items() if lag is not None}

    def published(self, version: int, size: int) -> None:
        """Version and bytes of the weights that went out last."""
        self._published = version, size

    def collect(self) -> Iterator[Metric]:
        """Everything that is known when Prometheus asks."""
        followed = self._followed
        if not followed:
            return
        yield from followed
        pulse, mark = self._pulse, self._watermark
        if mark is not None:
            yield gauge(
                "surgeline_watermark_lag_seconds",
                "Wall clock minus feature watermark; negative where the watermark is ahead of the clock",
                time.time() - mark / 1000.0,
            )
        yield gauge(
            "surgeline_seconds_since_tick",
            "Since an event-time tick with events last ran (where none has: since the start)",
            pulse.since_tick_s(),
        )
        yield gauge(
            "surgeline_waiting_without_tick_seconds",
            "For how long events have waited while no tick ran; 0 where none waits",
            pulse.waiting_s(),
        )
        yield gauge(
            "surgeline_ticks_stand",
            "1 while events wait without a tick for longer than the scenario's times explain",
            float(pulse.standing_s() > 0),
        )
        yield gauge(
            "surgeline_recent_mishaps",
            "In the last ten minutes: records lost, read again (rewound) or done twice, older logs begun",
            {(kind,): count for kind, count in self._mishaps.counts().items()},
            "kind",
        )
        lags: dict[tuple[str, ...], float] = {
            (tp.topic, str(tp.partition)): lag for tp, lag in sorted(self._lag.items())
        }
        yield gauge("surgeline_consumer_lag_records", "Records behind the end", lags, "topic", "partition")
        if self._published is not None:
            version, size = self._published
            yield gauge("surgeline_weights_version", "Newest published version of this worker", version)
            yield gauge("surgeline_weights_bytes", "Size of the newest weights message", size)


def counter(name: str, text: str, values: float | Mapping[tuple[str, ...], float], *labels: str) -> Metric:
    """A counter with one value, or with a value for each tuple of its labels' values."""
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in values.items() if isinstance(values, Mapping) else [((), values)]:
        family.add_metric(key, value)
    return family


def gauge(name: str, text: str, values: float | Mapping[tuple[str, ...], float], *labels: str) -> Metric:
    """As ``counter``, of something that may fall."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values.items() if isinstance(values, Mapping) else [((), values)]:
        family.add_metric(key, value)
    return family


def _counters(engine: Engine) -> Iterator[Metric]:
    totals, join, panel = engine.totals, engine.joins.counts, engine.panel
    sent, skipped = totals.sent, engine.panel.skipped
    events = {
        IMPRESSION: join.impressions,
        **totals.actions_by_kind,
        BEHAVIOUR: totals.behaviours_read,
    }
    yield counter(
        "surgeline_events_total",
        "Events that ticks have taken",
        {(kind,): count for kind, count in events.items()},
        "kind",
    )
    yield counter(
        "surgeline_dead_letters_total",
        "Records refused, by topic",
        {(topic,): count for topic, count in sent.dead_letters.items()},
        "topic",
    )
    yield counter(
        "surgeline_duplicates_total",
        "Duplicates dropped",
        {("impression",): join.duplicate_impressions, ("action",): join.duplicate_actions},
        "kind",
    )
    yield counter(
        "surgeline_orphans_total", "Actions whose impression never came in time", join.orphans_expired
    )
    yield counter(
        "surgeline_orphans_shed_total",
        "Those of them that expired early, for room: too many waited",
        join.orphans_shed,
    )
    yield counter(
        "surgeline_late_events_total", "Events behind the watermark (counted all the same)", totals.late
    )
    yield counter(
        "surgeline_ahead_events_total", "Events ahead of the clock, which wait for their time", totals.ahead
    )
    yield counter("surgeline_older_logs_total", "Times that all input went back in time", totals.older_logs)
    yield counter(
        "surgeline_rewound_records_total",
        "Records read again because the state was older than its own commit",
        totals.rewound,
    )
    yield counter("surgeline_lost_records_total", "Records gone before they were read", totals.lost)
    yield counter(
        "surgeline_done_twice_records_total",
        "Records done here and, after a move, by another worker",
        totals.done_twice,
    )
    yield counter(
        "surgeline_unlearned_total",
        "Impressions closed without learning, when a new trunk took over",
        totals.unlearned,
    )
    yield counter("surgeline_ticks_total", "Event-time ticks that had events", totals.ticks)
    yield counter(
        "surgeline_samples_total",
        "Samples closed",
        {("positive",): join.positives, ("negative",): join.samples - join.positives},
        "label",
    )
    yield counter(
        "surgeline_learned_total",
        "Samples learned from",
        {(name,): panel.samples - skipped.get(name, 0) for name in panel.learner_names},
        "learner",
    )
    yield counter(
        "surgeline_skipped_total",
        "Samples a learner left out (its budget)",
        {(name,): count for name, count in skipped.items()},
        "learner",
    )
    yield counter("surgeline_weights_published_total", "Weight versions published", sent.weights)
    yield counter("surgeline_feature_rows_published_total", "Feature rows sent", sent.feature_rows)


def _gauges(engine: Engine) -> Iterator[Metric]:
    whole, window = engine.panel.metrics(), engine.panel.window_metrics()

    def known(
        learners: Mapping[str, LearnerMetrics], figure: Literal["auc", "log_loss", "pcoc"]
    ) -> dict[tuple[str, ...], float]:
        values = {(learner,): getattr(figures, figure) for learner, figures in learners.items()}
        return {learner: value for learner, value in values.items() if value is not None}

    yield gauge(
        "surgeline_auc",
        "Progressive AUC from binned scores",
        known(whole, "auc"),
        "learner",
    )
    yield gauge(
        "surgeline_log_loss",
        "Progressive log loss",
        known(whole, "log_loss"),
        "learner",
    )
    yield gauge(
        "surgeline_pcoc",
        "Predicted over observed clicks, 1 is calibrated",
        known(whole, "pcoc"),
        "learner",
    )
    yield gauge(
        "surgeline_auc_window",
        "AUC of the last ten minutes of ticks",
        known(window, "auc"),
        "learner",
    )
    yield gauge(
        "surgeline_log_loss_window",
        "Log loss of the last ten minutes of ticks",
        known(window, "log_loss"),
        "learner",
    )
    yield gauge(
        "surgeline_pcoc_window",
        "PCOC of the last ten minutes of ticks",
        known(window, "pcoc"),
        "learner",
    )
    yield gauge("surgeline_buffered_events", "Events that wait for a tick", engine.timeline.buffered)
    yield gauge(
        "surgeline_ahead_events", "Events ahead of the clock that wait now", engine.timeline.waiting_ahead
    )
    yield gauge("surgeline_pending_impressions", "Impressions remembered by the join", len(engine.joins))
    yield gauge(
        "surgeline_pending_impressions_in_memory",
        "Those of them that are in memory in full",
        engine.joins.rows_in_memory,
    )
    yield gauge(
        "surgeline_orphans_waiting",
        "Actions that wait for their impression",
        engine.joins.counts.orphans_waiting,
    )
    yield gauge(
        "surgeline_feature_rows",
        "Rows in memory, by table",
        {(name,): len(table) for name, table in engine.features.tables.items()},
        "table",
    )


class _Recent:
    """How much each count grew in the last ``seconds``. The first look is the start, not a growth."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._last: dict[str, int] = {}
        self._grown: deque[tuple[float, str, int]] = deque()

    def see(self, **counts: int) -> None:
        """The counts as they stand."""
        now = self._clock()
        for kind, count in counts.items():
            more = count - self._last.get(kind, count)
            if more > 0:
                self._grown.append((now, kind, more))
        self._last = counts
        while self._grown and self._grown[0][0] < now - self._seconds:
            self._grown.popleft()

    def counts(self) -> dict[str, int]:
        """By kind; 0 where nothing grew."""
        since = self._clock() - self._seconds
        found = dict.fromkeys(self._last, 0)
        for at, kind, more in list(self._grown):
            if at >= since:
                found[kind] += more
        return found
