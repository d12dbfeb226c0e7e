"""Online Bayesian logistic regression in natural parameters: the champion whose weights are served.

Sequential Laplace approximation: the posterior after one batch is the Gaussian prior of the next
(Spiegelhalter & Lauritzen 1990, "Sequential updating of conditional probabilities on directed graphical
structures", section 5; for click rates Chapelle & Li 2011, Algorithm 3, here with a full precision matrix).
Forgetting is a power prior toward the *initial* prior (Ibrahim & Chen 2000), so that without evidence the
head returns to the frozen one instead of to ignorance.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import lapack

from models.online.base import Features, clipped_sigmoid, sigmoid
from models.online.codec import FloatArray, LearnerStateError, decode_state, encode_state
from models.online.posterior import Posterior, from_head, merge, pack_triangle, to_head, unpack_triangle

__all__ = ["BayesianLogistic", "Posterior", "from_head", "merge", "to_head"]

_KIND, _VERSION = "bayes", 1

#: Newton stops this close to the optimum, in posterior standard deviations.
TOLERANCE = 0.03
MAX_STEPS = 8
MAX_HALVINGS = 20


class BayesianLogistic:
    """Gaussian posterior over the weights (p,) of a logistic model.

    Natural parameters: precision ``Lambda`` (p, p) and ``eta = Lambda m``. One ``learn``:

    1. forget: ``Lambda <- g Lambda + (1 - g) Lambda0``, the same for ``eta``, ``g = forgetting ** ticks``;
    2. Newton (IRLS) on ``sum log loss + w' Lambda w / 2 - eta' w``. A step that does not lower this
       objective is halved. Stops within ``TOLERANCE`` posterior standard deviations of the optimum, far
       below what the data can tell: one step a tick once the stream is steady;
    3. ``Lambda <- Lambda + Z' S Z`` with ``S = p (1 - p)`` where the last step was linearised, and
       ``m`` = the last iterate, ``eta = Lambda m``.

    O(n p^2 + p^3) a step, float64. Deterministic for one BLAS thread count (the engine pins it to one).
    """

    def __init__(
        self,
        prior_mean: FloatArray,
        prior_precision: FloatArray,
        forgetting: float = 1.0,
        name: str = "last_layer",
    ) -> None:
        if prior_mean.ndim != 1 or prior_mean.shape != prior_precision.shape:
            raise ValueError("prior_mean and prior_precision must be vectors of one length")
        if not (np.isfinite(prior_precision).all() and (prior_precision > 0.0).all()):
            raise ValueError("prior_precision must be positive")
        if not 0.0 < forgetting <= 1.0:
            raise ValueError(f"forgetting is {forgetting}; allowed is 0 < forgetting <= 1 a tick")
        self.name = name
        self.forgetting = forgetting
        self.prior_mean = prior_mean.astype(np.float64)
        self.prior_precision = prior_precision.astype(np.float64)
        self.mean = self.prior_mean.copy()
        self.precision = np.diag(self.prior_precision)
        self.eta = self.prior_precision * self.prior_mean

    def predict(self, z: Features) -> FloatArray:
        return clipped_sigmoid(z @ self.mean)

    def learn(self, z: Features, y: FloatArray, elapsed_ticks: int = 0) -> int:
        precision, eta = self._forget(elapsed_ticks)
        if len(y) == 0:
            if precision is not self.precision:
                self.precision, self.eta = precision, eta
                self.mean = _solve(precision, eta)
            return 0
        Z = np.asarray(z, dtype=np.float64)
        w = self.mean
        logits = Z @ w
        p = sigmoid(logits)
        slope = eta - precision @ w + (y - p) @ Z
        value = _objective(logits, y, w, precision, eta)
        for _ in range(MAX_STEPS):
            rows = Z * np.sqrt(p * (1.0 - p))[:, None]
            curved = precision + rows.T @ rows
            factor = _factor(curved)
            step = lapack.dpotrs(factor, slope)[0]
            for halvings in range(MAX_HALVINGS):
                moved = w + 0.5**halvings * step
                moved_logits = Z @ moved
                moved_value = _objective(moved_logits, y, moved, precision, eta)
                # Rounding may raise the objective by a few ulps at the optimum itself.
                if moved_value <= value + 1e-12 * abs(value):
                    break
            else:
                break
            w, logits, value = moved, moved_logits, moved_value
            p = sigmoid(logits)
            slope = eta - precision @ w + (y - p) @ Z
            # What is left to go, in posterior standard deviations; the factor at hand is close enough.
            if float(slope @ lapack.dpotrs(factor, slope)[0]) < TOLERANCE**2:
                break
        self.precision, self.mean, self.eta = curved, w, curved @ w
        return len(y)

    def posterior(self) -> Posterior:
        """A copy of the posterior with its prior."""
        return Posterior(
            self.mean.copy(), self.precision.copy(), self.prior_mean.copy(), self.prior_precision.copy()
        )

    def state_bytes(self) -> bytes:
        arrays = {
            "prior_mean": self.prior_mean,
            "prior_precision": self.prior_precision,
            "mean": self.mean,
            "eta": self.eta,
            "precision": pack_triangle(self.precision),
        }
        return encode_state(_KIND, _VERSION, {}, arrays)

    def load_state(self, data: bytes) -> None:
        state = decode_state(data, _KIND, _VERSION)
        p = len(self.mean)
        for name in ("prior_mean", "prior_precision"):
            if (state.floats(name, (p,)) != getattr(self, name)).any():
                raise LearnerStateError(f"bayes state: learned from another {name}")
        mean, eta = state.floats("mean", (p,)), state.floats("eta", (p,))
        precision = unpack_triangle(state.floats("precision", (p * (p + 1) // 2,)), p)
        if lapack.dpotrf(precision, lower=0)[1] != 0:
            raise LearnerStateError("bayes state: precision is not positive definite")
        self.mean, self.eta, self.precision = mean, eta, precision

    def _forget(self, elapsed_ticks: int) -> tuple[FloatArray, FloatArray]:
        kept = self.forgetting ** max(elapsed_ticks, 0)
        if kept == 1.0:
            return self.precision, self.eta
        precision = kept * self.precision
        precision.flat[:: len(precision) + 1] += (1.0 - kept) * self.prior_precision
        eta = kept * self.eta + (1.0 - kept) * self.prior_precision * self.prior_mean
        return precision, eta


def _objective(
    logits: FloatArray, y: FloatArray, w: FloatArray, precision: FloatArray, eta: FloatArray
) -> float:
    log_loss = np.logaddexp(0.0, logits).sum() - y @ logits
    return float(log_loss + 0.5 * w @ (precision @ w) - eta @ w)


# LAPACK directly: the checks of scipy.linalg.cho_factor cost more than the solution at p = 63.
def _factor(precision: FloatArray) -> FloatArray:
    factor, failed = lapack.dpotrf(precision, clean=0)
    if failed:
        raise ArithmeticError("the posterior precision is not positive definite")
    result: FloatArray = factor
    return result


def _solve(precision: FloatArray, target: FloatArray) -> FloatArray:
    solution: FloatArray = lapack.dpotrs(_factor(precision), target)[0]
    return solution
