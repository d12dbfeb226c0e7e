"""Features that were logged at serving time: they win over what the worker would compute."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from contracts.events import Impression
from features.family import Feature


class Logged:
    """Puts logged values into a snapshot, by the features' names. Other names pass."""

    def __init__(self, features: Sequence[Feature]) -> None:
        self._known = {feature.name: (column, feature) for column, feature in enumerate(features)}

    def override(self, events: Sequence[Impression], snapshot: npt.NDArray[np.float32]) -> int:
        """Write the values of ``events`` into their rows; returns how many were refused.

        A value outside its feature's honest range (NaN too) leaves what was computed.
        """
        refused = 0
        # Few events bring features, most logs none.
        for row, logged in [(row, event.features) for row, event in enumerate(events) if event.features]:
            for name, value in logged.items():
                if (found := self._known.get(name)) is None:
                    continue
                column, feature = found
                if feature.low <= value <= feature.high:
                    snapshot[row, column] = value
                else:
                    refused += 1
        return refused
