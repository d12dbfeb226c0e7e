"""Features that were logged at serving time: they win over what the worker would compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from features.family import Feature


class Logged:
    """Puts logged values into a snapshot, by the features' names. Other names pass."""

    def __init__(self, features: Sequence[Feature]) -> None:
        self._known = {feature.name: (column, feature) for column, feature in enumerate(features)}

    def override(
        self, logged: Sequence[Mapping[str, float] | None], snapshot: npt.NDArray[np.float32]
    ) -> int:
        """Write what events have ``logged`` (n,) into their rows; returns how many values were refused.

        A value outside its feature's honest range (NaN too) leaves what was computed.
        """
        refused = 0
        for row, values in enumerate(logged):
            for name, value in (values or {}).items():
                if (found := self._known.get(name)) is None:
                    continue
                column, feature = found
                if feature.low <= value <= feature.high:
                    snapshot[row, column] = value
                else:
                    refused += 1
        return refused
