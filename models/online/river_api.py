"""The Bayesian last layer as a River classifier, for River's own pipelines and comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from river import base

from models.online.bayes import BayesianLogistic


class SurgelineBayesianLogistic(base.Classifier):
    """Online Bayesian logistic regression with a full precision matrix.

    One Laplace step a sample (see `models.online.bayes`). Features may come and go: a new one starts from
    its prior, a missing one counts as 0. A constant feature for the bias is added.

    Parameters
    ----------
    prior_precision
        Precision of the zero-mean Gaussian prior of every weight.
    forgetting
        Share of the evidence that is kept from one sample to the next, in (0, 1].

    Examples
    --------

    >>> from river import datasets, evaluate, metrics, preprocessing
    >>> model = preprocessing.StandardScaler() | SurgelineBayesianLogistic()
    >>> auc = evaluate.progressive_val_score(datasets.Phishing().take(500), model, metrics.ROCAUC())
    >>> bool(auc.get() > 0.9)
    True

    References
    ----------
    [^1]: Spiegelhalter, D.J. and Lauritzen, S.L., 1990. Sequential updating of conditional probabilities on
          directed graphical structures. Networks, 20(5), pp.579-605.

    """

    def __init__(self, prior_precision: float = 1.0, forgetting: float = 1.0) -> None:
        self.prior_precision = prior_precision
        self.forgetting = forgetting
        self._positions: dict[Any, int] = {}
        self._learner = self._fresh(1)

    def learn_one(self, x: Mapping[Any, float], y: Any) -> None:
        new = [name for name in x if name not in self._positions]
        if new:
            for name in new:
                self._positions[name] = 1 + len(self._positions)
            self._grow()
        self._learner.learn(self._row(x), np.array([float(bool(y))]), elapsed_ticks=1)

    def predict_proba_one(self, x: Mapping[Any, float], **_: Any) -> dict[bool, float]:
        p = float(self._learner.predict(self._row(x))[0])
        return {False: 1.0 - p, True: p}

    @property
    def weights(self) -> dict[Any, float]:
        """Posterior means by feature."""
        return {name: float(self._learner.mean[k]) for name, k in self._positions.items()}

    def _row(self, x: Mapping[Any, float]) -> np.ndarray:
        row = np.zeros((1, 1 + len(self._positions)))
        row[0, 0] = 1.0
        for name, value in x.items():
            if name in self._positions:
                row[0, self._positions[name]] = value
        return row

    def _fresh(self, size: int) -> BayesianLogistic:
        return BayesianLogistic(np.zeros(size), np.full(size, self.prior_precision), self.forgetting)

    def _grow(self) -> None:
        old, grown = self._learner, self._fresh(1 + len(self._positions))
        known = len(old.mean)
        grown.mean[:known] = old.mean
        grown.eta[:known] = old.eta
        grown.precision[:known, :known] = old.precision
        self._learner = grown
