"""What each real-time feature is worth to the head: how often it is known, alone, and inside the head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from contracts.feature_worth import FeatureWorth
from models.online.codec import FloatArray

#: Bins of a feature's values for its AUC: in equal steps of ``arctan``, so that every value has one.
BINS = 512
#: Samples of a tick that a worker looks at, at most.
SAMPLES_PER_TICK = 64


class WorthMeter:
    """Adds up what ``FeatureWorth`` tells, over samples given since it was made. Keeps no sample.

    ``first``: where the features begin in ``z``; ``neutral`` (q,): their neutral values as they stand there.
    ``samples_per_tick``: more in one call are thinned out evenly; None for no limit.
    """

    def __init__(
        self,
        names: Sequence[str],
        first: int,
        neutral: FloatArray,
        samples_per_tick: int | None = SAMPLES_PER_TICK,
    ) -> None:
        self.samples_per_tick = samples_per_tick
        self._names, self._first, self._neutral = list(names), first, neutral
        q = len(self._names)
        self._known, self._sums, self._gain = np.zeros(q), np.zeros(q), np.zeros(q)
        self._counts = np.zeros((2, q * BINS))
        self.samples = 0

    def see(self, z: npt.NDArray[np.floating], clicked: FloatArray, mean: FloatArray) -> None:
        """Samples ``z`` (n, p) with their labels (n,), and the head's ``mean`` (p,) before it learns them."""
        q = len(self._names)
        if not q or not len(z):
            return
        if self.samples_per_tick is not None and len(z) > self.samples_per_tick:
            kept = np.linspace(0, len(z) - 1, self.samples_per_tick).astype(np.intp)
            z, clicked = z[kept], clicked[kept]
        z = z.astype(np.float64)
        x = z[:, self._first :]
        self.samples += len(x)
        self._known += np.count_nonzero(x != self._neutral, axis=0)
        self._sums += x.sum(axis=0)
        bins = ((np.arctan(x) / np.pi + 0.5) * BINS).astype(np.intp).clip(0, BINS - 1) + np.arange(q) * BINS
        for label in (0, 1):
            chosen = bins[(clicked > 0.5) == bool(label)]
            self._counts[label] += np.bincount(chosen.ravel(), minlength=q * BINS)
        logits = z @ mean
        without = logits[:, None] - mean[self._first :] * (x - self._sums / self.samples)
        y = clicked[:, None]
        self._gain += (np.logaddexp(0.0, without) - y * without).sum(axis=0)
        self._gain -= (np.logaddexp(0.0, logits) - clicked * logits).sum()

    def worth(self) -> list[FeatureWorth]:
        """Every feature, in the order of the plan."""
        gains = self._gain.clip(min=0.0)
        whole, known = float(gains.sum()), self._known / max(self.samples, 1)
        negative, positive = self._counts.reshape(2, -1, BINS)
        before = np.cumsum(negative, axis=1) - negative
        won = (positive * (before + 0.5 * negative)).sum(axis=1)
        pairs = negative.sum(axis=1) * positive.sum(axis=1)
        return [
            FeatureWorth(
                name=name,
                known=float(known[k]) if self.samples else None,
                auc=float(won[k] / pairs[k]) if pairs[k] else None,
                gain_share=float(gains[k] / whole) if whole > 0.0 else None,
            )
            for k, name in enumerate(self._names)
        ]
