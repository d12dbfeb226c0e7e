"""The frozen head: what the deep model says without any online learning. Every figure is held against it."""

from __future__ import annotations

from models.online.base import Features, clipped_sigmoid
from models.online.codec import FloatArray, LearnerStateError, decode_state, encode_state

_KIND, _VERSION = "frozen", 1


class FrozenHead:
    """P = sigmoid(z . weights) with weights (p,) that never move.

    >>> import numpy as np
    >>> FrozenHead(np.array([0.0, 1.0])).predict(np.array([[1.0, 0.0]])).tolist()
    [0.5]
    """

    name = "frozen"

    def __init__(self, weights: FloatArray) -> None:
        self.weights = weights.astype("float64")

    def predict(self, z: Features) -> FloatArray:
        return clipped_sigmoid(z @ self.weights)

    def learn(self, z: Features, y: FloatArray, elapsed_ticks: int) -> int:
        return 0

    def state_bytes(self) -> bytes:
        return encode_state(_KIND, _VERSION, {}, {"weights": self.weights})

    def load_state(self, data: bytes) -> None:
        saved = decode_state(data, _KIND, _VERSION).floats("weights", self.weights.shape)
        if (saved != self.weights).any():
            raise LearnerStateError("the saved frozen head is of another trunk")
