"""River's learners on the panel, as a River user would run them: one ``learn_one`` a sample.

They read the real-time features; River's own intercept is the bias. What a tick cannot afford is skipped
and counted. Only models whose state is written down here in full are offered: River has no format of its
own but pickle, and a checkpoint must not be able to run code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from river import linear_model, optim, utils

from models.online.base import CLIP, Features
from models.online.codec import FloatArray, LearnerStateError, decode_state, encode_state

_KIND, _VERSION = "river", 1

#: River starts at even odds; clicks are rare, so that its first figures would say nothing else.
_START_LOGIT = math.log(0.02 / 0.98)

#: Dictionaries that an optimizer keeps beside the weights.
_SLOTS: dict[str, tuple[str, ...]] = {"SGD": (), "AdaGrad": ("g2",), "FTRLProximal": ("z", "n")}


def _logistic(optimizer: Any) -> Any:
    return linear_model.LogisticRegression(optimizer, intercept_init=_START_LOGIT)


#: Names that a scenario may give under ``learners.river``.
RIVER_MODELS: dict[str, Callable[[], Any]] = {
    "logistic": lambda: _logistic(optim.AdaGrad(0.05)),
    "sgd": lambda: _logistic(optim.SGD(0.01)),
    "ftrl": lambda: _logistic(optim.FTRLProximal()),
}


def river_learner(name: str, feature_names: Sequence[str], samples_per_tick: int) -> RiverLearner:
    """The learner ``river_<name>``. Raises ``ValueError`` with the allowed names for an unknown one.

    >>> river_learner("forest", ["x"], 10)
    Traceback (most recent call last):
    ValueError: no River learner 'forest'; allowed are ftrl, logistic, sgd
    """
    if name not in RIVER_MODELS:
        raise ValueError(f"no River learner {name!r}; allowed are {', '.join(sorted(RIVER_MODELS))}")
    return RiverLearner(f"river_{name}", RIVER_MODELS[name](), feature_names, samples_per_tick)


class RiverLearner:
    """A River ``linear_model.LogisticRegression`` over the last ``len(feature_names)`` columns of z.

    Of n samples in a tick it learns at most ``samples_per_tick``, evenly spaced; ``skipped`` counts the
    rest. Predictions are River's formula on River's weights, for all rows at once.
    """

    def __init__(self, name: str, model: Any, feature_names: Sequence[str], samples_per_tick: int) -> None:
        optimizer = type(model.optimizer).__name__
        if not isinstance(model, linear_model.LogisticRegression) or optimizer not in _SLOTS or model.l1:
            raise ValueError(
                f"{name}: what can be saved exactly is LogisticRegression without l1, "
                f"optimized by {', '.join(_SLOTS)}"
            )
        if samples_per_tick < 1:
            raise ValueError(f"samples_per_tick is {samples_per_tick}; at least 1 is needed")
        self.name = name
        self.model = model
        self.feature_names = list(feature_names)
        self.samples_per_tick = samples_per_tick
        self.skipped = 0
        self._optimizer = optimizer

    def predict(self, z: Features) -> FloatArray:
        known = self.model.weights
        weights = np.array([known.get(name, 0.0) for name in self.feature_names])
        logits = self._rows(z) @ weights + self.model.intercept
        p: FloatArray = np.clip(self.model.loss.mean_func(logits), CLIP, 1.0 - CLIP)
        return p

    def learn(self, z: Features, y: FloatArray, elapsed_ticks: int = 0) -> int:
        n = len(y)
        taken = min(n, self.samples_per_tick)
        chosen = np.arange(taken) * n // max(taken, 1)
        labels = (y[chosen] > 0.5).tolist()
        for row, label in zip(self._rows(z)[chosen].tolist(), labels, strict=True):
            # A feature that is zero moves nothing, so it is left out, as in any sparse sample.
            sample = {name: value for name, value in zip(self.feature_names, row, strict=True) if value}
            self.model.learn_one(sample, label)
        self.skipped += n - taken
        return taken

    def state_bytes(self) -> bytes:
        optimizer = self.model.optimizer
        values: dict[str, int | float | str] = {
            "optimizer": self._optimizer,
            "features": "\n".join(self.feature_names),
            "steps": optimizer.n_iterations,
            "intercept": float(self.model.intercept),
            "skipped": self.skipped,
        }
        arrays = {"weights": self._vector(self.model.weights)}
        for slot in _SLOTS[self._optimizer]:
            arrays[slot] = self._vector(getattr(optimizer, slot))
        return encode_state(_KIND, _VERSION, values, arrays)

    def load_state(self, data: bytes) -> None:
        state = decode_state(data, _KIND, _VERSION)
        if state.text("optimizer") != self._optimizer:
            raise LearnerStateError(f"{self.name} state: of optimizer {state.text('optimizer')}")
        if state.text("features") != "\n".join(self.feature_names):
            raise LearnerStateError(f"{self.name} state: of other features")
        size = (len(self.feature_names),)
        steps, intercept, skipped = (
            state.integer("steps"),
            state.number("intercept"),
            state.integer("skipped"),
        )
        weights = state.floats("weights", size)
        slots = {slot: state.floats(slot, size) for slot in _SLOTS[self._optimizer]}
        # River has no public way to set weights; the package's version is bounded for that reason.
        self.model._weights = utils.VectorDict(self._mapping(weights, steps))
        for slot, vector in slots.items():
            kept = getattr(self.model.optimizer, slot)
            kept.clear()
            kept.update(self._mapping(vector, steps))
        self.model.optimizer.n_iterations = steps
        self.model.intercept, self.skipped = intercept, skipped

    def _rows(self, z: Features) -> npt.NDArray[np.float64]:
        return np.asarray(z[:, z.shape[1] - len(self.feature_names) :], dtype=np.float64)

    def _vector(self, mapping: Any) -> FloatArray:
        return np.array([mapping.get(name, 0.0) for name in self.feature_names])

    def _mapping(self, vector: FloatArray, steps: int) -> dict[str, float]:
        # Before the first step River has no entries at all.
        return dict(zip(self.feature_names, vector.tolist(), strict=True)) if steps else {}
