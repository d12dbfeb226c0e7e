"""AUC, log loss and MRR of the clicked item, and paired bootstrap intervals of their differences.

Users are drawn with all that they saw (cluster bootstrap: Field & Welsh 2007, "Bootstrapping clustered
data", J. R. Stat. Soc. B 69(3)), and both sides are measured on the same draws. AUC is exact in every draw.
"""

from __future__ import annotations

import numpy as np

from bench._registry import Result
from bench._rows import BoolArray, FloatArray, IntArray

#: Predictions are held off 0 and 1 by this much before their logarithm is taken.
CLIP = 1e-7
DRAWS = 500
LEVEL = 0.95
METRICS = ("auc", "logloss", "mrr")


def losses(scores: FloatArray, clicked: BoolArray) -> FloatArray:
    """Log loss of each row (n,), nats."""
    p = np.clip(scores, CLIP, 1.0 - CLIP)
    result: FloatArray = -np.where(clicked, np.log(p), np.log1p(-p))
    return result


class Scored:
    """One side's ``scores`` (n,) beside ``clicked`` (n,), the ``lists`` (n,) and the ``users`` (n,) of rows.

    ``lists`` and ``users`` are codes 0 .. count - 1. MRR is over the lists with a click: the reciprocal of
    the average rank of the best clicked item among those with its score.
    """

    def __init__(self, scores: FloatArray, clicked: BoolArray, lists: IntArray, users: IntArray) -> None:
        scores = np.asarray(scores, dtype=np.float64)
        self._loss = losses(scores, clicked)
        order = np.argsort(scores, kind="stable")
        ranked = scores[order]
        self._order, self._clicked = order, clicked[order]
        self._blocks = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]) if len(scores) else order
        self._users = users
        self._reciprocal, self._of_list = _reciprocal_ranks(scores, clicked, lists, users)

    def figures(self, weights: FloatArray | None = None) -> dict[str, float]:
        """The metrics; ``weights`` (users,): how often each user was drawn. Undefined ones are NaN."""
        count = int(self._users.max(initial=-1)) + 1
        drawn = np.ones(count) if weights is None else weights
        rows = drawn[self._users]
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                "auc": self._auc(rows[self._order]),
                "logloss": float(rows @ self._loss / rows.sum()),
                "mrr": float(drawn[self._of_list] @ self._reciprocal / drawn[self._of_list].sum()),
            }

    def _auc(self, rows: FloatArray) -> float:
        """Mann-Whitney with weights; ties count half. ``rows``: weights in the order of scores."""
        if not len(rows):
            return float("nan")
        positive = np.add.reduceat(rows * self._clicked, self._blocks)
        negative = np.add.reduceat(rows * ~self._clicked, self._blocks)
        below = np.cumsum(negative) - 0.5 * negative
        return float(positive @ below / (positive.sum() * negative.sum()))


def _reciprocal_ranks(
    scores: FloatArray, clicked: BoolArray, lists: IntArray, users: IntArray
) -> tuple[FloatArray, IntArray]:
    """Of each list with a click: reciprocal rank of its best clicked item, and the list's user."""
    count = int(lists.max(initial=-1)) + 1
    best = np.full(count, -np.inf)
    np.maximum.at(best, lists[clicked], scores[clicked])
    higher = np.bincount(lists, scores > best[lists], count)
    equal = np.bincount(lists, scores == best[lists], count)
    owner = np.zeros(count, dtype=np.int64)
    owner[lists] = users
    has = best > -np.inf
    reciprocal: FloatArray = 1.0 / (higher[has] + (equal[has] + 1.0) / 2.0)
    return reciprocal, owner[has]


def paired(one: Scored, other: Scored, users: int, seed: int = 0) -> Result:
    """``one`` minus ``other`` in every metric: ``difference``, ``low`` and ``high`` (95 %).

    ``users``: how many there are. The interval is of the draws' percentiles.
    """
    rng = np.random.default_rng(seed)
    exact = {name: one.figures()[name] - other.figures()[name] for name in METRICS}
    drawn: dict[str, list[float]] = {name: [] for name in METRICS}
    for _ in range(DRAWS):
        weights = np.bincount(rng.integers(0, users, users), minlength=users).astype(np.float64)
        first, second = one.figures(weights), other.figures(weights)
        for name in METRICS:
            drawn[name].append(first[name] - second[name])
    tail = (1.0 - LEVEL) / 2.0
    result: Result = {}
    for name in METRICS:
        low, high = np.nanquantile(drawn[name], [tail, 1.0 - tail]).tolist()
        result[name] = {"difference": exact[name], "low": low, "high": high}
    return result


def better(difference: Result) -> list[str]:
    """Metrics of ``paired`` in which the first side is not better beyond the interval."""
    return [name for name in METRICS if not _is_better(name, difference[name], 1.0)]


def worse(difference: Result) -> list[str]:
    """Metrics of ``paired`` in which the first side is worse beyond the interval."""
    return [name for name in METRICS if _is_better(name, difference[name], -1.0)]


def _is_better(name: str, one: Result, side: float) -> bool:
    """Whether the first side (``side`` 1), or the second (-1), is better beyond the interval."""
    side = -side if name == "logloss" else side
    return bool(side * one["low"] > 0.0 and side * one["high"] > 0.0)
