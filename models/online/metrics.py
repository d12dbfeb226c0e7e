"""Progressive validation in constant memory: AUC, log loss and calibration of what was predicted."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.weights import LearnerMetrics
from models.online.base import CLIP
from models.online.codec import FloatArray, LearnerStateError, State, decode_state, encode_state

_KIND, _VERSION = "metrics", 2

#: Scores are binned by logit over [-LOGIT_RANGE, LOGIT_RANGE]; logit(CLIP) is -16.1.
LOGIT_RANGE = 16.0
BINS = 4096
#: The sliding window is a ring of blocks with coarser bins: recent figures, in 64 kB a learner.
WINDOW_TICKS = 600
WINDOW_BLOCKS = 8
WINDOW_BINS = 512
_COARSER = BINS // WINDOW_BINS

_IntArray = npt.NDArray[np.int64]


class ProgressiveMetrics:
    """Figures over everything, and over the last ``window_ticks`` ticks, of ``learners`` side by side.

    **AUC** comes from counts of positives and negatives in ``BINS`` equal bins of the logit (1/128 wide):
    pairs in one bin count half, as ties do in the Mann-Whitney statistic. The error is at most half the
    share of (positive, negative) pairs that fall in one bin (``auc_error``). **Log loss** is in nats, from
    probabilities clipped to [CLIP, 1 - CLIP], unbinned. **PCOC** is the sum of predictions over the number
    of positives (1 is calibrated).

    The window is a ring of ``WINDOW_BLOCKS`` blocks of ``window_ticks / WINDOW_BLOCKS`` ticks with
    ``WINDOW_BINS`` bins: it covers between 7/8 of ``window_ticks`` and all of it.

    >>> metrics = ProgressiveMetrics(learners=2)
    >>> metrics.update(np.array([[0.9, 0.5], [0.2, 0.5]]), np.array([1.0, 0.0]))
    >>> metrics.summary(0).auc, round(metrics.summary(0).pcoc, 3), metrics.summary(1).auc
    (1.0, 1.1, 0.5)
    """

    def __init__(self, window_ticks: int = WINDOW_TICKS, learners: int = 1) -> None:
        if window_ticks < 1:
            raise ValueError(f"window_ticks is {window_ticks}; at least 1 is needed")
        self.window_ticks = window_ticks
        self._learners = learners
        self._block_ticks = -(-window_ticks // WINDOW_BLOCKS)
        self._tick = 0
        # counts[k, 0] negatives, counts[k, 1] positives; sums: log loss, predictions.
        self._counts = np.zeros((learners, 2, BINS), dtype=np.int64)
        self._sums = np.zeros((2, learners))
        self._block_counts = np.zeros((WINDOW_BLOCKS, learners, 2, WINDOW_BINS), dtype=np.int64)
        self._block_sums = np.zeros((WINDOW_BLOCKS, 2, learners))
        self._first_bin = 2 * BINS * np.arange(learners)[:, None]

    def update(
        self, p: npt.NDArray[np.floating[Any]], y: npt.NDArray[np.floating[Any]], elapsed_ticks: int = 0
    ) -> None:
        """Count predictions ``p`` (n, learners) with labels ``y`` (n,), ``elapsed_ticks`` after the last.

        For one learner ``p`` may be (n,).
        """
        block = self._advance(elapsed_ticks)
        if len(p) == 0:
            return
        # A row a learner, in one piece: sums along it are pairwise, and exact to the last digits.
        rows = np.array(p.T, dtype=np.float64, order="C", ndmin=2)
        np.minimum(np.maximum(rows, CLIP, out=rows), 1.0 - CLIP, out=rows)
        log_p, log_q = np.log(rows), np.log1p(-rows)
        positive = np.asarray(y) > 0.5
        bins = ((log_p - log_q + LOGIT_RANGE) * (BINS / (2.0 * LOGIT_RANGE))).astype(np.int64)
        np.minimum(np.maximum(bins, 0, out=bins), BINS - 1, out=bins)
        bins += BINS * positive
        bins += self._first_bin
        np.add.at(self._counts.reshape(-1), bins, 1)
        # Fine bins of one learner and label lie one after the other, so that dividing keeps their order.
        np.add.at(self._block_counts[block].reshape(-1), bins // _COARSER, 1)
        sums = (-np.where(positive, log_p, log_q).sum(axis=1), rows.sum(axis=1))
        self._sums += sums
        self._block_sums[block] += sums

    def summary(self, learner: int = 0) -> LearnerMetrics:
        """Figures of a learner over everything."""
        return _figures(self._counts[learner], self._sums[:, learner])

    def window_summary(self, learner: int = 0) -> LearnerMetrics:
        """Figures of a learner over the last ``window_ticks`` ticks."""
        counts = self._block_counts[:, learner].sum(axis=0)
        return _figures(counts, self._block_sums[:, :, learner].sum(axis=0))

    def auc_error(self, learner: int = 0) -> float | None:
        """Bound on |binned AUC - AUC|: half the share of (positive, negative) pairs in one bin."""
        negatives, positives = self._counts[learner].astype(np.float64)
        pairs = negatives.sum() * positives.sum()
        return float(0.5 * (negatives @ positives) / pairs) if pairs else None

    def state_bytes(self) -> bytes:
        # Most bins are empty: a sparse layout keeps the checkpoint of every second small.
        filled, blocks = np.flatnonzero(self._counts), np.flatnonzero(self._block_counts)
        arrays: dict[str, npt.NDArray[Any]] = {
            "filled": filled,
            "counts": self._counts.reshape(-1)[filled],
            "sums": self._sums,
            "block_filled": blocks,
            "block_counts": self._block_counts.reshape(-1)[blocks],
            "block_sums": self._block_sums,
        }
        return encode_state(_KIND, _VERSION, {"tick": self._tick, "window": self.window_ticks}, arrays)

    def load_state(self, data: bytes) -> None:
        state = decode_state(data, _KIND, _VERSION)
        if state.integer("window") != self.window_ticks:
            raise LearnerStateError(f"metrics state: of a window of {state.integer('window')} ticks")
        tick = state.integer("tick")
        counts = _spread(state, "filled", "counts", self._counts.shape)
        block_counts = _spread(state, "block_filled", "block_counts", self._block_counts.shape)
        sums = state.floats("sums", self._sums.shape)
        block_sums = state.floats("block_sums", self._block_sums.shape)
        self._tick, self._counts, self._block_counts = tick, counts, block_counts
        self._sums, self._block_sums = sums, block_sums

    def _advance(self, elapsed_ticks: int) -> int:
        before = self._tick // self._block_ticks
        self._tick += elapsed_ticks
        now = self._tick // self._block_ticks
        for block in range(max(before + 1, now - WINDOW_BLOCKS + 1), now + 1):
            self._block_counts[block % WINDOW_BLOCKS] = 0
            self._block_sums[block % WINDOW_BLOCKS] = 0.0
        return now % WINDOW_BLOCKS


def _figures(counts: _IntArray, sums: FloatArray) -> LearnerMetrics:
    negatives, positives = int(counts[0].sum()), int(counts[1].sum())
    samples = negatives + positives
    auc = None
    if negatives and positives:
        below = np.cumsum(counts[0]) - counts[0]
        wins = counts[1] @ (below + 0.5 * counts[0])
        auc = float(wins / (float(negatives) * float(positives)))
    return LearnerMetrics(
        samples=samples,
        positives=positives,
        auc=auc,
        log_loss=float(sums[0]) / samples if samples else None,
        pcoc=float(sums[1]) / positives if positives else None,
    )


def _spread(state: State, where: str, what: str, shape: tuple[int, ...]) -> _IntArray:
    positions = state.integers(where, (-1,))
    values = state.integers(what, (len(positions),))
    size = int(np.prod(shape))
    if len(positions) and (positions.min() < 0 or positions.max() >= size or values.min() < 0):
        raise LearnerStateError(f"metrics state: {where} lies outside of the bins")
    spread = np.zeros(size, dtype=np.int64)
    spread[positions] = values
    return spread.reshape(shape)
