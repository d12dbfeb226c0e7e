"""FTRL-Proximal on top of the frozen head.

McMahan et al. 2013, "Ad Click Prediction: a View from the Trenches", Algorithm 1, dense.
"""

from __future__ import annotations

import numpy as np

from models.online.base import Features, clipped_sigmoid, sigmoid
from models.online.codec import FloatArray, decode_state, encode_state

_KIND, _VERSION = "ftrl", 1

#: Samples that share one set of weights, see ``Ftrl``.
MINIBATCH = 128


class Ftrl:
    """P = sigmoid(z . (start + w)): ``start`` (p,) is the frozen head and stays, ``w`` (p,) learns.

    Algorithm 1 takes one step a sample. Here the samples of a minibatch (at most ``MINIBATCH`` rows, in
    order) are all predicted with the same ``w``; their per-coordinate gradients ``g_i`` then enter as sums:
    ``sigma = (sqrt(n + sum g_i^2) - sqrt(n)) / alpha``, ``u += sum g_i - sigma w``, ``n += sum g_i^2``.
    The sigmas of single steps telescope to this one, so that the delay of ``w`` inside a minibatch is the
    only approximation; with one row a call it is Algorithm 1 itself. ``u`` is the paper's z.

    ``l1`` and ``l2`` pull ``w`` to 0, that is: the model to the frozen head. It does not forget.
    """

    name = "ftrl"

    def __init__(
        self, start: FloatArray, alpha: float = 0.05, beta: float = 1.0, l1: float = 0.0, l2: float = 1.0
    ) -> None:
        if not (alpha > 0.0 and beta > 0.0 and l1 >= 0.0 and l2 >= 0.0):
            raise ValueError("alpha and beta must be positive, l1 and l2 not negative")
        self.start = start.astype(np.float64)
        self.alpha, self.beta, self.l1, self.l2 = alpha, beta, l1, l2
        self._u = np.zeros_like(self.start)
        self._n = np.zeros_like(self.start)

    @property
    def weights(self) -> FloatArray:
        """``start + w`` (p,)."""
        return self.start + self._w()

    def predict(self, z: Features) -> FloatArray:
        return clipped_sigmoid(z @ self.weights)

    def learn(self, z: Features, y: FloatArray, elapsed_ticks: int = 0) -> int:
        Z = np.asarray(z, dtype=np.float64)
        for first in range(0, len(y), MINIBATCH):
            rows, labels = Z[first : first + MINIBATCH], y[first : first + MINIBATCH]
            w = self._w()
            residual = sigmoid(rows @ (self.start + w)) - labels
            gradient = residual @ rows
            squares = (residual * residual) @ (rows * rows)
            grown = self._n + squares
            sigma = (np.sqrt(grown) - np.sqrt(self._n)) / self.alpha
            self._u += gradient - sigma * w
            self._n = grown
        return len(y)

    def state_bytes(self) -> bytes:
        return encode_state(_KIND, _VERSION, {}, {"u": self._u, "n": self._n})

    def load_state(self, data: bytes) -> None:
        state = decode_state(data, _KIND, _VERSION)
        u, n = state.floats("u", self._u.shape), state.floats("n", self._n.shape)
        self._u, self._n = u, np.maximum(n, 0.0)

    def _w(self) -> FloatArray:
        # Algorithm 1: w = 0 where |u| <= l1, else -(u - sign(u) l1) / ((beta + sqrt(n)) / alpha + l2).
        shrunk = np.sign(self._u) * np.maximum(np.abs(self._u) - self.l1, 0.0)
        w: FloatArray = -shrunk / ((self.beta + np.sqrt(self._n)) / self.alpha + self.l2)
        return w
