"""Online Bayesian logistic regression in natural parameters: the champion whose weights are served.

Sequential Laplace approximation: the posterior after one batch is the Gaussian prior of the next
(Spiegelhalter & Lauritzen 1990, "Sequential updating of conditional probabilities on directed graphical
structures", section 5; for click rates Chapelle & Li 2011, Algorithm 3, here with a full precision matrix).
Forgetting is a power prior toward the *initial* prior (Ibrahim & Chen 2000), so that without evidence the
head returns to the frozen one instead of to ignorance. Where the trunk says how much its own training told
of the head (``models.deep.evidence``), that is part of the prior: what is learned live moves first in
directions that training left open.
"""

from __future__ import annotations

import hashlib

import numpy as np
from scipy.linalg import blas, lapack

from models.online.base import Features, clipped_sigmoid, sigmoid
from models.online.codec import FloatArray, LearnerStateError, decode_state, encode_state
from models.online.posterior import Posterior, from_head, merge, pack_triangle, to_head, unpack_triangle

__all__ = ["BayesianLogistic", "Posterior", "from_head", "merge", "to_head"]

_KIND, _VERSION = "bayes", 2

#: Newton stops this close to the optimum, in posterior standard deviations.
TOLERANCE = 0.03
MAX_STEPS = 8
MAX_HALVINGS = 20


class BayesianLogistic:
    """Gaussian posterior over the weights (p,) of a logistic model.

    Natural parameters: precision ``Lambda`` (p, p) and ``eta = Lambda m``. The prior's precision is (p, p),
    or (p,) for a diagonal. One ``learn``:

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
        if prior_precision.ndim == 1:
            prior_precision = np.diag(prior_precision)
        if prior_mean.ndim != 1 or prior_precision.shape != (len(prior_mean), len(prior_mean)):
            raise ValueError("prior_mean and prior_precision must be of one length")
        if not np.isfinite(prior_precision).all() or lapack.dpotrf(prior_precision)[1] != 0:
            raise ValueError("prior_precision must be positive definite")
        if not 0.0 < forgetting <= 1.0:
            raise ValueError(f"forgetting is {forgetting}; allowed is 0 < forgetting <= 1 a tick")
        self.name = name
        self.forgetting = forgetting
        self.prior_mean = prior_mean.astype(np.float64)
        self.prior_precision = prior_precision.astype(np.float64)
        self._prior_eta = self.prior_precision @ self.prior_mean
        self._prior_digest = _digest(self.prior_mean, self.prior_precision)
        self.mean = self.prior_mean.copy()
        self.precision = self.prior_precision.copy()
        self.eta = self._prior_eta.copy()

    def predict(self, z: Features) -> FloatArray:
        return clipped_sigmoid(z @ self.mean)

    def learn(self, z: Features, y: FloatArray, elapsed_ticks: int = 0) -> int:
        precision, eta = self._forget(elapsed_ticks)
        if len(y) == 0:
            if precision is not self.precision:
                self.precision, self.eta = precision, eta
                self.mean = _solve(precision, eta)
            return 0
        Z, single = np.asarray(z, dtype=np.float64), np.asarray(z, dtype=np.float32)
        w = self.mean
        logits = Z @ w
        p = sigmoid(logits)
        slope = eta - precision @ w + (y - p) @ Z
        value = _objective(logits, y, w, precision, eta)
        for _ in range(MAX_STEPS):
            # The curvature in single precision has seven digits and takes half the time. The optimum does not
            # depend on it: slope and objective are in double precision.
            rows = single * np.sqrt(p * (1.0 - p)).astype(np.float32)[:, None]
            upper = np.triu(blas.ssyrk(1.0, rows.T))
            curved = precision + upper + np.triu(upper, 1).T
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
        arrays = {"mean": self.mean, "eta": self.eta, "precision": pack_triangle(self.precision)}
        return encode_state(_KIND, _VERSION, {"prior": self._prior_digest}, arrays)

    def load_state(self, data: bytes) -> None:
        state = decode_state(data, _KIND, _VERSION)
        p = len(self.mean)
        if state.text("prior") != self._prior_digest:
            raise LearnerStateError("bayes state: learned from another prior")
        mean, eta = state.floats("mean", (p,)), state.floats("eta", (p,))
        precision = unpack_triangle(state.floats("precision", (p * (p + 1) // 2,)), p)
        if lapack.dpotrf(precision, lower=0)[1] != 0:
            raise LearnerStateError("bayes state: precision is not positive definite")
        self.mean, self.eta, self.precision = mean, eta, precision

    def _forget(self, elapsed_ticks: int) -> tuple[FloatArray, FloatArray]:
        kept = self.forgetting ** max(elapsed_ticks, 0)
        if kept == 1.0:
            return self.precision, self.eta
        precision = kept * self.precision + (1.0 - kept) * self.prior_precision
        return precision, kept * self.eta + (1.0 - kept) * self._prior_eta


def _objective(
    logits: FloatArray, y: FloatArray, w: FloatArray, precision: FloatArray, eta: FloatArray
) -> float:
    log_loss = np.logaddexp(0.0, logits).sum() - y @ logits
    return float(log_loss + 0.5 * w @ (precision @ w) - eta @ w)


def _digest(mean: FloatArray, precision: FloatArray) -> str:
    return hashlib.sha256(mean.tobytes() + precision.tobytes()).hexdigest()


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
