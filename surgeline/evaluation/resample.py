"""Bootstrap intervals over users: whole users are drawn, with everything that they saw and clicked.

Rows of one user depend on each other, users much less, so the user is the unit (cluster bootstrap: Field &
Welsh 2007, "Bootstrapping clustered data", J. R. Stat. Soc. B 69(3)).
All columns use the same draws, so that differences are paired. The interval speaks about other users in
the same stretch of time, not about other nights.

Users are dealt at random into at most ``GROUPS`` groups, and groups are drawn: sums over whole users are
exchangeable as users are. A group's scores are kept as counts in ``BINS`` bins between quantiles of the
scores; a draw's AUC is then a product of matrices. Intervals are centred on the exact figure.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from replay.report.schema import Bootstrap, Estimate, Figures, Interval
from surgeline.evaluation.figures import BoolArray, Codes, FloatArray, Scored, defined

GROUPS = 500
BINS = 2048
REPLICATES = 1000
LEVEL = 0.95
#: With fewer users an interval would promise more than it knows.
FEWEST_UNITS = 20


class Draws(dict[str, FloatArray]):
    """Replicates of ``auc``, ``log_loss`` and ``pcoc`` of one column, each (REPLICATES,)."""


class Resampler:
    """Draws for one set of rows. ``users`` (n,): codes of their users, 0 .. count - 1."""

    def __init__(self, users: Codes, count: int, clicked: BoolArray, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self._groups = min(count, GROUPS)
        deal = rng.permutation(count) % max(self._groups, 1)
        self._group: npt.NDArray[np.int64] = deal[users]
        self._clicked = clicked
        self.usable = count >= FEWEST_UNITS
        if self.usable:
            chance = np.full(self._groups, 1.0 / self._groups)
            self._weights = rng.multinomial(self._groups, chance, size=REPLICATES).astype(np.float64)
        self.meta = Bootstrap(
            unit="user", units=count, groups=self._groups, replicates=REPLICATES, level=LEVEL, seed=seed
        )

    def draws(self, scored: Scored) -> Draws:
        """Figures of one column under every draw."""
        rows, clicks = self._sums(np.ones(len(self._clicked))), self._sums(self._clicked)
        loss, predicted = self._sums(scored.losses()), self._sums(scored.scores)
        with np.errstate(invalid="ignore", divide="ignore"):
            return Draws(auc=self._auc(scored), log_loss=loss / rows, pcoc=predicted / clicks)

    def _sums(self, values: npt.NDArray[np.generic]) -> FloatArray:
        sums = np.bincount(self._group, weights=values.astype(np.float64), minlength=self._groups)
        drawn: FloatArray = self._weights @ sums
        return drawn

    def _auc(self, scored: Scored) -> FloatArray:
        edges = np.unique(np.quantile(scored.scores, np.linspace(0.0, 1.0, BINS)))
        bins = np.searchsorted(edges, scored.scores)
        cells = self._group * (len(edges) + 1) + bins
        shape = (self._groups, len(edges) + 1)
        clicked = self._clicked
        positives = self._weights @ np.bincount(cells[clicked], minlength=shape[0] * shape[1]).reshape(shape)
        negatives = self._weights @ np.bincount(cells[~clicked], minlength=shape[0] * shape[1]).reshape(shape)
        below = np.cumsum(negatives, axis=1) - 0.5 * negatives
        pairs = positives.sum(axis=1) * negatives.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            result: FloatArray = (positives * below).sum(axis=1) / pairs
        return result


def estimate(
    figures: Figures, draws: Draws | None, reference: Figures | None, reference_draws: Draws | None
) -> Estimate:
    """``figures`` with intervals, and the paired difference to ``reference`` where there is one."""
    result = Estimate(figures=figures)
    if draws is not None:
        result.auc = _interval(draws["auc"], figures.auc)
        result.log_loss = _interval(draws["log_loss"], figures.log_loss)
        result.pcoc = _interval(draws["pcoc"], figures.pcoc)
    if reference is not None:
        if figures.auc is not None and reference.auc is not None:
            result.auc_difference = figures.auc - reference.auc
        if figures.log_loss is not None and reference.log_loss is not None:
            result.log_loss_difference = figures.log_loss - reference.log_loss
        if draws is not None and reference_draws is not None:
            result.auc_difference_interval = _interval(
                draws["auc"] - reference_draws["auc"], result.auc_difference
            )
            result.log_loss_difference_interval = _interval(
                draws["log_loss"] - reference_draws["log_loss"], result.log_loss_difference
            )
    return result


def _interval(draws: FloatArray, centre: float | None) -> Interval | None:
    """Percentiles of the draws around their mean, moved to the exact figure."""
    draws = draws[np.isfinite(draws)]
    if centre is None or not len(draws):
        return None
    low, high = np.quantile(draws - draws.mean(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low_value, high_value = defined(centre + low), defined(centre + high)
    return None if low_value is None or high_value is None else Interval(low=low_value, high=high_value)
