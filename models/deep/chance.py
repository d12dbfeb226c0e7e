"""Whether an AUC says anything: its interval, and how many clicks it takes to tell a model from chance."""

from __future__ import annotations

from math import ceil, sqrt

#: Two-sided 95 %, and 80 % power beside it.
Z, Z_POWER = 1.96, 0.84
#: A gain that is worth having: what a log should be able to show.
WORTHWHILE_AUC = 0.55


def auc_interval(auc: float, positives: int, negatives: int) -> tuple[float, float]:
    """95 % interval of an AUC: all true values that it does not contradict (a score interval).

    The standard error is that of Hanley & McNeil (Radiology 143, 1982) at the true value, as in Newcombe's
    fifth method (Statistics in Medicine 25, 2006): so the interval is not empty at 0 or 1, and it holds 0.5
    exactly where the rank test cannot tell the model from chance.

    >>> [round(bound, 3) for bound in auc_interval(0.5, 48, 8952)]
    [0.419, 0.581]
    >>> [round(bound, 2) for bound in auc_interval(1.0, 1, 50)]
    [0.43, 1.0]
    """
    return _bound(auc, 0.0, positives, negatives), _bound(auc, 1.0, positives, negatives)


def clicks_to_tell(auc: float = WORTHWHILE_AUC) -> int:
    """Held-out clicks by which a model of this AUC is told from chance four times in five.

    With far more impressions than clicks the variance at 0.5 is 1 / (12 clicks).

    >>> clicks_to_tell(0.55)
    262
    """
    return ceil(((Z + Z_POWER) / (auc - 0.5)) ** 2 / 12.0)


def _bound(auc: float, limit: float, positives: int, negatives: int) -> float:
    """The value furthest towards ``limit`` from which ``auc`` is at most ``Z`` standard errors away."""
    inside, outside = auc, limit
    if _agrees(auc, limit, positives, negatives):
        return limit
    for _ in range(40):
        middle = (inside + outside) / 2.0
        if _agrees(auc, middle, positives, negatives):
            inside = middle
        else:
            outside = middle
    return inside


def _agrees(auc: float, true: float, positives: int, negatives: int) -> bool:
    both = true / (2.0 - true)
    twice = 2.0 * true * true / (1.0 + true)
    # One mean size for both classes, so that an AUC and its mirror image have mirrored intervals.
    size = (positives + negatives) / 2.0 - 1.0
    spread = true * (1.0 - true) + size * (both + twice - 2.0 * true * true)
    variance = spread / (positives * negatives)
    return abs(auc - true) <= Z * sqrt(max(variance, 0.0))
