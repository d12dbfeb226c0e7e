"""What every online learner offers: predict, learn, and a state that continues bit for bit."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from models.online.codec import FloatArray

#: Predictions stay inside [CLIP, 1 - CLIP], so that log loss is finite.
CLIP = 1e-7

#: ``z`` (n, p): float32 as the engine assembles it, or float64 where a caller converted it already.
Features = npt.NDArray[np.floating[Any]]


class Learner(Protocol):
    """An online learner of P(y = 1 | z), with ``z`` (n, p) = [1 | hidden | real-time features].

    ``learn`` takes the samples of one event-time tick and the ticks that passed since the last call;
    it returns how many samples it learned from. ``load_state(state_bytes())`` continues bit for bit and
    raises ``LearnerStateError`` for a state that does not fit.
    """

    name: str

    def predict(self, z: Features) -> FloatArray:
        """Probabilities (n,), inside [CLIP, 1 - CLIP]."""
        ...

    def learn(self, z: Features, y: FloatArray, elapsed_ticks: int) -> int:
        """Learn from labels ``y`` (n,) of 0 and 1."""
        ...

    def state_bytes(self) -> bytes:
        """All that ``learn`` has changed."""
        ...

    def load_state(self, data: bytes) -> None:
        """Take up a state; leaves the learner as it was where it raises."""
        ...


def sigmoid(logits: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x)) without overflow.

    >>> sigmoid(np.array([-1e4, 0.0, 1e4])).tolist()
    [0.0, 0.5, 1.0]
    """
    half: FloatArray = 0.5 * np.tanh(0.5 * logits)
    half += 0.5
    return half


def clipped_sigmoid(logits: FloatArray) -> FloatArray:
    """Probabilities inside [CLIP, 1 - CLIP]."""
    p = sigmoid(logits)
    return np.clip(p, CLIP, 1.0 - CLIP, out=p)
