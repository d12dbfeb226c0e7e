"""What a Bayesian mixture of the learners would have weighed each by: computed afterwards, serves nothing.

The exponentially weighted average forecaster with fixed share (Herbster & Warmuth, "Tracking the Best
Expert", Machine Learning 32, 1998; Cesa-Bianchi & Lugosi, "Prediction, Learning, and Games", 2006, ch. 3
and 5.2). Log loss is 1-exp-concave, so ``ETA`` is 1: without sharing the weights are the posterior of a
uniform prior over the learners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from replay.report.schema import ExpertWeights

ETA = 1.0
#: Share of all weight that is dealt out evenly after every bucket. A timeline has at most 90 buckets: the
#: prior then is that the best learner changes about once within it.
ALPHA = 0.01
#: Nats that stand for a loss that is undefined: such a learner is left with its share alone.
UNDEFINED = 1e12

FloatArray = npt.NDArray[np.float64]


def fixed_share(losses: FloatArray, eta: float = ETA, alpha: float = ALPHA) -> FloatArray:
    """Weights (t, k) that stand at the start of each bucket, from ``losses`` (t, k): sums of log loss, nats.

    Updates are per bucket, not per row: a bucket's loss *sum* is used as one step,
    ``v(t) ~ w(t) exp(-eta losses[t])`` and ``w(t + 1) = (1 - alpha) v(t) + alpha / k``. Row t depends on rows
    before t alone, and the first is even. With ``alpha`` 0, ``w(t) ~ exp(-eta cumulative loss before t)``.
    Computed in logarithms, as a bucket's losses run into thousands of nats.

    What this leaves out: a bucket's labels count as known when it ends, although a click may come up to a
    label window later; and as weights stand still within a bucket, the regret bounds of a forecaster that
    is updated row by row do not carry over.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha is a share from 0 to 1, not {alpha:g}")
    steps, count = losses.shape
    cost = eta * np.nan_to_num(losses, nan=UNDEFINED, posinf=UNDEFINED)
    weights = np.empty((steps, count))
    now = np.full(count, -np.log(max(count, 1)))
    with np.errstate(divide="ignore"):
        keep, deal = np.log1p(-alpha), np.log(alpha) - np.log(max(count, 1))
    for step in range(steps):
        weights[step] = np.exp(now)
        now = now - cost[step]
        now = now - np.logaddexp.reduce(now)
        now = np.logaddexp(now + keep, deal)
    return weights


def expert_weights(
    start_ms: Sequence[int], losses: Mapping[str, FloatArray], alpha: float = ALPHA
) -> list[ExpertWeights]:
    """Weights by bucket of ``start_ms``; ``losses``: each learner's loss sum (t,) in them."""
    if not losses:
        return []
    table = fixed_share(np.column_stack(list(losses.values())), alpha=alpha)
    return [
        ExpertWeights(at=at, weights=dict(zip(losses, row, strict=True)))
        for at, row in zip(start_ms, table.tolist(), strict=True)
    ]
