"""What fresh weights are worth: the same learned head, predicted with copies that are published rarely.

Learning goes on every tick. An arm of cadence ``c`` predicts with the weights as they stood at the last
multiple of ``c`` in event time, as if serving got them then and at no other moment. Real-time features are
equally fresh in every arm: only the age of the weights differs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from contracts.errors import SurgelineError
from models.online.base import clipped_sigmoid
from state.joins.join import Closed
from stream.engine import Engine

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
FROZEN = "frozen"

Float32Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]


class CadenceError(SurgelineError, ValueError):
    """A cadence that cannot be used; the message says what is allowed."""


def parse_cadences(text: str) -> list[tuple[str, float | None]]:
    """(name, seconds) of each arm; None for the frozen head.

    >>> parse_cadences("frozen,30m,1s")
    [('frozen', None), ('30m', 1800.0), ('1s', 1.0)]
    """
    arms: list[tuple[str, float | None]] = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        if name in dict(arms):
            raise CadenceError(f"--cadence names {name} twice")
        if name == FROZEN:
            arms.append((name, None))
            continue
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", name)
        if found is None or float(found[1]) <= 0.0:
            raise CadenceError(f"--cadence: {name!r} is not frozen or a time such as 1s, 10s, 1m, 30m, 6h")
        arms.append((name, float(found[1]) * _UNITS_S[found[2]]))
    return arms


def check_ticks(cadences_s: Iterable[float], tick_ms: int) -> list[int]:
    """Each cadence in ms. Raises ``CadenceError`` for one that ticks of ``tick_ms`` cannot keep."""
    found = []
    for seconds in cadences_s:
        every = round(seconds * 1000)
        if every < tick_ms or every % tick_ms:
            raise CadenceError(
                f"--cadence: {seconds:g} s is no multiple of times.tick_s ({tick_ms / 1000:g} s)"
            )
        found.append(every)
    return found


class StaleCopies:
    """Copies of the champion's mean (p,) a cadence; predicts for each as impressions come.

    Give ``predict`` to the engine as ``predict_observer`` and call ``learning`` before each learning step.
    A publication at B holds what ticks up to B learned, and the first impression at or after B has it.
    """

    def __init__(self, engine: Engine, cadences_s: list[float]) -> None:
        self._engine = engine
        self._every_ms = check_ticks(cadences_s, engine.tick_ms)
        champion = engine.panel.champion
        self._means: FloatArray = np.repeat(champion.mean[None, :], len(cadences_s), axis=0)
        self._published = [-1] * len(cadences_s)
        self._predicted: dict[int, Float32Array] = {}

    def predict(self, tick: int, inputs: Float32Array) -> None:
        """Predict a tick's impressions ``inputs`` (n, p) with every copy."""
        now = tick * self._engine.tick_ms
        self._publish([now // every for every in self._every_ms])
        self._predicted[tick] = clipped_sigmoid(inputs.astype(np.float64) @ self._means.T).astype(np.float32)

    def learning(self, tick: int) -> None:
        """What is learned at this tick's start must not stand in publications before it."""
        now = tick * self._engine.tick_ms
        self._publish([(now - 1) // every for every in self._every_ms])

    def take(self, closed: Closed) -> Float32Array:
        """The predictions (n, arms) of samples that closed, in their order; each can be taken once."""
        # Samples close by whole ticks, so each tick stands in one piece.
        ticks = closed.ticks[np.flatnonzero(np.diff(closed.ticks, prepend=-1))]
        return np.concatenate([self._predicted.pop(tick) for tick in ticks.tolist()])

    def _publish(self, due: list[int]) -> None:
        for arm, number in enumerate(due):
            if number > self._published[arm]:
                self._means[arm] = self._engine.panel.champion.mean
                self._published[arm] = number
