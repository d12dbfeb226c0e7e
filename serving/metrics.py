"""Serving's figures for Prometheus, one registry a server."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.follower import Follower
from serving.scorer import Scorer

PREFIX = "surgeline_serving"
_BUCKETS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)


class ServingMetrics:
    """Counts requests itself; everything else is read from the scorer when Prometheus asks."""

    def __init__(self, scorer: Scorer, follower: Follower | None) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            f"{PREFIX}_requests",
            "Score requests, and what was none, by HTTP status",
            ["status"],
            registry=self.registry,
        )
        self.items = Counter(f"{PREFIX}_items", "Items that were scored", registry=self.registry)
        self.latency = Histogram(
            f"{PREFIX}_request_seconds",
            "Seconds from a score request's headers to its answer",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(_State(scorer, follower))

    def render(self) -> bytes:
        """The text format."""
        return generate_latest(self.registry)


class _State(Collector):
    def __init__(self, scorer: Scorer, follower: Follower | None) -> None:
        self._scorer = scorer
        self._follower = follower
        self._began = time.time()

    def collect(self) -> Iterator[Metric]:
        yield from self._weights()
        yield from self._features()
        if self._follower is not None:
            yield from self._feeds(self._follower)

    def _weights(self) -> Iterator[Metric]:
        scorer, now = self._scorer, self._scorer.clock_ms() / 1000
        snapshot = scorer.snapshot
        yield GaugeMetricFamily(
            f"{PREFIX}_weights_version", "Version on the stamp; 0 is the frozen head", value=snapshot.version
        )
        # Before any weights the age counts from the start, so that an alert on it fires then too.
        created = self._began if snapshot.created_at is None else snapshot.created_at / 1000
        yield GaugeMetricFamily(
            f"{PREFIX}_weights_age_seconds",
            "Since the newest source's weights were made (before any: since the start)",
            value=max(0.0, now - created),
        )
        ages = GaugeMetricFamily(
            f"{PREFIX}_source_age_seconds", "Since a source's weights were made", labels=["source"]
        )
        versions = GaugeMetricFamily(
            f"{PREFIX}_source_version", "Version that serves of a source", labels=["source"]
        )
        for source, weights in snapshot.sources.items():
            ages.add_metric([source], max(0.0, now - weights.created_at / 1000))
            versions.add_metric([source], weights.version)
        yield ages
        yield versions
        yield CounterMetricFamily(
            f"{PREFIX}_swaps", "Times that other weights began to serve", value=scorer.swaps
        )
        refused = CounterMetricFamily(f"{PREFIX}_refused", "Weights refused, by reason", labels=["reason"])
        for reason, count in sorted(scorer.refused.items()):
            refused.add_metric([reason], count)
        yield refused

    def _features(self) -> Iterator[Metric]:
        view = self._scorer.view
        rows = GaugeMetricFamily(f"{PREFIX}_feature_rows", "Feature rows held", labels=["table"])
        dropped = CounterMetricFamily(
            f"{PREFIX}_feature_rows_dropped", "Feature rows dropped for room", labels=["table"]
        )
        for table, count in view.rows().items():
            rows.add_metric([table], count)
            dropped.add_metric([table], view.dropped[table])
        yield rows
        yield dropped
        refused = CounterMetricFamily(
            f"{PREFIX}_feature_rows_refused", "Feature rows refused, by reason", labels=["reason"]
        )
        for reason, count in sorted(view.refused.items()):
            refused.add_metric([reason], count)
        yield refused

    @staticmethod
    def _feeds(follower: Follower) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            f"{PREFIX}_ready", "1 once both topics were read to their end", value=float(follower.ready)
        )
        connected = GaugeMetricFamily(
            f"{PREFIX}_broker_connected", "1 while the broker answers for the topic", labels=["topic"]
        )
        lag = GaugeMetricFamily(
            f"{PREFIX}_feed_lag_records", "Records of the topic that are not read yet", labels=["topic"]
        )
        for feed in follower.feeds:
            connected.add_metric([feed.topic], float(feed.connected))
            if feed.lag is not None:
                lag.add_metric([feed.topic], feed.lag)
        yield connected
        yield lag
