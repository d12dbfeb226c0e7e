"""What each event-time tick did: the raw material of the live page and of reports."""

from __future__ import annotations

import msgspec
import numpy as np

from state.joins.join import Closed


class TickStats(msgspec.Struct):
    """Counts of one tick; ``predicted`` and ``loss`` are sums over its samples, one a learner."""

    tick_end: int
    impressions: int
    actions: int
    behaviours: int
    samples: int
    positives: int
    predicted: list[float]
    loss: list[float]


class TickLog:
    """Statistics of the ticks since they were last taken. ``learners``: how many predict."""

    def __init__(self, learners: int) -> None:
        self._learners = learners
        self._ticks: list[TickStats] = []

    def seen(self, tick_end: int, impressions: int, actions: int, behaviours: int) -> None:
        """A tick that ended at ``tick_end`` (ms) had so many new impressions, joined actions, behaviours."""
        stats = self._at(tick_end)
        stats.impressions += impressions
        stats.actions += actions
        stats.behaviours += behaviours

    def closed(self, tick_end: int, closed: Closed) -> None:
        """Samples that closed at ``tick_end`` (ms)."""
        stats = self._at(tick_end)
        predictions = closed.predictions.astype(np.float64)
        clipped = np.minimum(np.maximum(predictions, 1e-7), 1 - 1e-7)
        labels = closed.labels[:, None]
        loss = -(labels * np.log(clipped) + (1 - labels) * np.log1p(-clipped)).sum(axis=0)
        stats.samples += len(closed.labels)
        stats.positives += int(closed.labels.sum())
        stats.predicted = [
            a + b for a, b in zip(stats.predicted, predictions.sum(axis=0).tolist(), strict=True)
        ]
        stats.loss = [a + b for a, b in zip(stats.loss, loss.tolist(), strict=True)]

    def take(self) -> list[TickStats]:
        """The ticks since the last call, oldest first."""
        taken, self._ticks = self._ticks, []
        return taken

    def _at(self, tick_end: int) -> TickStats:
        if not self._ticks or self._ticks[-1].tick_end != tick_end:
            zeros = [0.0] * self._learners
            self._ticks.append(TickStats(tick_end, 0, 0, 0, 0, 0, zeros, list(zeros)))
        return self._ticks[-1]
