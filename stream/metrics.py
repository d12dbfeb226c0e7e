"""The worker's own figures for Prometheus, all under ``surgeline_``; Faust's own stand beside them."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from stream.engine import Engine

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class WorkerMetrics:
    """Counters follow the engine's totals, which survive restarts; a restart does not reset what is true."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        self._seen: dict[tuple[str, ...], float] = {}
        self.events = counter("surgeline_events_total", "Valid events read", "kind")
        self.dead_letters = counter("surgeline_dead_letters_total", "Records refused, by topic", "topic")
        self.duplicates = counter("surgeline_duplicates_total", "Duplicates dropped", "kind")
        self.orphans = counter("surgeline_orphans_total", "Actions whose impression never came in time")
        self.late = counter(
            "surgeline_late_events_total", "Events behind the watermark (counted all the same)"
        )
        self.samples = counter("surgeline_samples_total", "Samples closed", "label")
        self.unlearned = counter(
            "surgeline_unlearned_total", "Impressions closed without learning, when a new trunk took over"
        )
        self.learned = counter("surgeline_learned_total", "Samples learned from", "learner")
        self.skipped = counter(
            "surgeline_skipped_total", "Samples a learner left out (its budget)", "learner"
        )
        self.published = counter("surgeline_weights_published_total", "Weight versions published")
        self.publish_failures = counter("surgeline_publish_failures_total", "Ticks whose publishing failed")
        self.feature_rows_published = counter("surgeline_feature_rows_published_total", "Feature rows sent")
        self.auc = gauge("surgeline_auc", "Progressive AUC from binned scores", "learner")
        self.log_loss = gauge("surgeline_log_loss", "Progressive log loss", "learner")
        self.pcoc = gauge("surgeline_pcoc", "Predicted over observed clicks, 1 is calibrated", "learner")
        self.auc_window = gauge("surgeline_auc_window", "AUC of the last ten minutes of ticks", "learner")
        self.log_loss_window = gauge(
            "surgeline_log_loss_window", "Log loss of the last ten minutes of ticks", "learner"
        )
        self.pcoc_window = gauge("surgeline_pcoc_window", "PCOC of the last ten minutes of ticks", "learner")
        self.version = gauge("surgeline_weights_version", "Newest published version of this worker")
        self.weights_bytes = gauge("surgeline_weights_bytes", "Size of the newest weights message")
        self.watermark_lag = gauge("surgeline_watermark_lag_seconds", "Wall clock minus feature watermark")
        self.buffered = gauge("surgeline_buffered_events", "Events that wait for the watermark")
        self.pending = gauge("surgeline_pending_impressions", "Impressions remembered by the join")
        self.orphans_waiting = gauge("surgeline_orphans_waiting", "Actions that wait for their impression")
        self.rows = gauge("surgeline_feature_rows", "Rows in memory, by table", "table")
        self.lag = gauge("surgeline_consumer_lag_records", "Records behind the end", "topic", "partition")
        self.tick = Histogram(
            "surgeline_tick_seconds", "Time of a wall-clock tick", buckets=_SECONDS, registry=registry
        )
        self.checkpoint = Histogram(
            "surgeline_checkpoint_seconds", "Time of a checkpoint", buckets=_SECONDS, registry=registry
        )

    def follow(self, engine: Engine, dead_letters: Mapping[str, int], now_ms: int) -> None:
        """Bring every figure up to the engine's totals."""
        totals, join = engine.totals, engine.join.counts
        self._to(self.events, join.impressions, "impression")
        for kind, count in totals.actions_by_kind.items():
            self._to(self.events, count, kind)
        for topic, count in dead_letters.items():
            self._to(self.dead_letters, count, topic)
        self._to(self.duplicates, join.duplicate_impressions, "impression")
        self._to(self.duplicates, join.duplicate_actions, "action")
        self._to(self.orphans, join.orphans_expired)
        self._to(self.late, totals.late)
        self._to(self.unlearned, totals.unlearned)
        self._to(self.samples, join.positives, "positive")
        self._to(self.samples, join.samples - join.positives, "negative")
        skipped = engine.panel.skipped
        for learner, count in skipped.items():
            self._to(self.skipped, count, learner)
        for learner in engine.panel.learner_names:
            self._to(self.learned, engine.panel.samples - skipped.get(learner, 0), learner)
        for summaries, gauges in (
            (engine.panel.metrics(), (self.auc, self.log_loss, self.pcoc)),
            (engine.panel.window_metrics(), (self.auc_window, self.log_loss_window, self.pcoc_window)),
        ):
            for learner, summary in summaries.items():
                for gauge, value in zip(gauges, (summary.auc, summary.log_loss, summary.pcoc), strict=True):
                    if value is not None:
                        gauge.labels(learner).set(value)
        self.buffered.set(engine.timeline.buffered)
        self.pending.set(len(engine.join))
        self.orphans_waiting.set(join.orphans_waiting)
        for name, table in engine.features.tables.items():
            self.rows.labels(name).set(len(table))
        if engine.done_until > 0:
            self.watermark_lag.set((now_ms - engine.done_until) / 1000.0)

    def _to(self, counter: Counter, value: float, *labels: str) -> None:
        key = (counter._name, *labels)
        increase = value - self._seen.get(key, 0.0)
        if increase > 0 or key not in self._seen:
            (counter.labels(*labels) if labels else counter).inc(max(increase, 0.0))
            self._seen[key] = value
