"""Exact figures of predictions: AUC, log loss, PCOC and MRR, overall and by group.

Arrays are aligned: ``scores`` (n,) float32 as they stand in the predictions file, ``clicked`` (n,) bool,
``groups`` (n,) small non-negative integers. Undefined figures are NaN in arrays and None in ``Figures``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from models.online.base import CLIP
from replay.report.schema import Figures

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
Scores = npt.NDArray[np.floating[Any]]
Codes = npt.NDArray[np.integer[Any]]


class Scored:
    """One column of predictions beside the labels; sorts once and answers for any grouping."""

    def __init__(self, scores: Scores, clicked: BoolArray) -> None:
        self.scores, self.clicked = scores, clicked
        self._order = np.argsort(scores, kind="stable")
        # Of float32, 1 - CLIP is 1 - 2^-23: clip after widening.
        wide = np.clip(scores.astype(np.float64), CLIP, 1.0 - CLIP)
        self._loss = -np.where(clicked, np.log(wide), np.log1p(-wide))

    def figures(self) -> Figures:
        """Figures over all rows."""
        return self.by(np.zeros(len(self.scores), dtype=np.uint8), 1)[0]

    def by(self, groups: Codes, count: int) -> list[Figures]:
        """Figures of groups 0 .. count - 1."""
        n, positives = sizes(groups, self.clicked, count)
        loss = self.loss_sums(groups, count)
        predicted = self.predicted(groups, count)
        auc = self.auc(groups, count)
        with np.errstate(invalid="ignore", divide="ignore"):
            log_loss, pcoc = loss / n, np.where(positives > 0, predicted / positives, np.nan)
        return [
            Figures(auc=defined(a), log_loss=defined(b), pcoc=defined(c))
            for a, b, c in zip(auc, log_loss, pcoc, strict=True)
        ]

    def predicted(self, groups: Codes, count: int) -> FloatArray:
        """Sum of predictions of each group."""
        return _sums(groups, self.scores, count)

    def loss_sums(self, groups: Codes, count: int) -> FloatArray:
        """Sum of log losses of each group, nats."""
        return _sums(groups, self._loss, count)

    def losses(self) -> FloatArray:
        """Log loss of each row, nats."""
        return self._loss

    def auc(self, groups: Codes, count: int) -> FloatArray:
        """Exact AUC within each group: the Mann-Whitney statistic, ties count half."""
        order = self._order[np.argsort(groups[self._order], kind="stable")]
        g, s, y = groups[order], self.scores[order], self.clicked[order]
        blocks, of_block = _blocks(g, s)
        size = len(blocks)
        negatives = np.bincount(of_block, weights=~y, minlength=size)
        positives = np.bincount(of_block, weights=y, minlength=size)
        before = np.cumsum(negatives) - negatives
        group_of_block = g[blocks]
        # Negatives of earlier groups do not count.
        starts = np.zeros(count)
        starts[group_of_block[::-1]] = before[::-1]
        wins = positives * (before - starts[group_of_block] + 0.5 * negatives)
        total = np.bincount(group_of_block, weights=wins, minlength=count)
        n, p = sizes(groups, self.clicked, count)
        with np.errstate(invalid="ignore", divide="ignore"):
            result: FloatArray = total / (p * (n - p))
        return result

    def mrr(self, lists: Codes, count: int) -> float | None:
        """Mean reciprocal rank of the best clicked item, over lists of at least two items with a click.

        Ties: the expected rank of the first of k clicked among m equal items, (m + 1) / (k + 1).
        """
        order = self._order[np.argsort(lists[self._order], kind="stable")][::-1]
        g, s, y = lists[order], self.scores[order], self.clicked[order]
        if not len(g):
            return None
        blocks, of_block = _blocks(g, s)
        size = np.bincount(of_block, minlength=len(blocks))
        clicks = np.bincount(of_block, weights=y, minlength=len(blocks))
        group_of_block = g[blocks]
        before = np.cumsum(size) - size
        starts = np.zeros(count)
        starts[group_of_block[::-1]] = before[::-1]
        rank = before - starts[group_of_block] + (size + 1) / (clicks + 1)
        hit = np.flatnonzero(clicks > 0)
        # The first block with a click is the best of its list.
        found, first = np.unique(group_of_block[hit], return_index=True)
        long = np.bincount(lists, minlength=count)[found] > 1
        return defined(float(np.mean(1.0 / rank[hit[first[long]]]))) if long.any() else None


def sizes(groups: Codes, clicked: BoolArray, count: int) -> tuple[FloatArray, FloatArray]:
    """(rows, clicks) of each group."""
    n = np.bincount(groups, minlength=count).astype(np.float64)
    return n, _sums(groups, clicked, count)


def _sums(groups: Codes, values: npt.NDArray[Any], count: int) -> FloatArray:
    return np.asarray(np.bincount(groups, values.astype(np.float64), count), dtype=np.float64)


def defined(value: float) -> float | None:
    """``value`` as a plain float; None for NaN and infinity."""
    return float(value) if np.isfinite(value) else None


def _blocks(groups: Codes, scores: Scores) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Runs of equal (group, score): index of each run's first row, and the run of each row."""
    if not len(groups):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    new = np.ones(len(groups), dtype=bool)
    new[1:] = (groups[1:] != groups[:-1]) | (scores[1:] != scores[:-1])
    return np.flatnonzero(new), np.cumsum(new) - 1
