"""One byte a remembered impression: the kinds of actions that were done about it, as bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.compiled import kernel
from features.events import IntArray
from state.joins.columns import Bits, Column


class Masks:
    """Masks of rows ``base`` and up, which are numbered without gaps."""

    def __init__(self) -> None:
        self.base = 0
        self._masks = Column(np.uint8)

    def append(self, masks: Bits) -> None:
        """More rows."""
        self._masks.append(masks)

    def drop_below(self, base: int) -> None:
        """Lose the rows below ``base``, which the next row that is not there may be."""
        self._masks.drop(min(base - self.base, len(self._masks)))
        self.base = base

    def rows(self, begin: int, end: int) -> Bits:
        """A copy of the masks of rows ``begin`` to ``end - 1``."""
        some: Bits = self._masks.values[begin - self.base : end - self.base].copy()
        return some

    def mark(self, rows: IntArray, bits: Bits) -> npt.NDArray[np.bool_]:
        """Set a bit of each row, in the order given; whether it was not set before."""
        fresh = np.zeros(len(rows), dtype=np.bool_)
        _mark(self._masks.values, rows - self.base, bits, fresh)
        return fresh


@kernel
def _mark(masks, rows, bits, fresh):  # type: ignore[no-untyped-def]
    for i in range(len(rows)):
        if masks[rows[i]] & bits[i] == 0:
            masks[rows[i]] |= bits[i]
            fresh[i] = True
