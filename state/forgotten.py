"""Rows that matter no more, on their way out: found, then told to everybody, then deleted on disk.

A row is deleted only after its tombstone has reached the broker: a crash in between tells it once more
instead of leaving the row in the topic for ever.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.hashing import Keys
from state.row_keys import Partitions

#: Not told yet.
_NEW = 2**62


class Forgotten:
    """Keys with their source partitions, and the number of the take that told them."""

    def __init__(self) -> None:
        self.keys: Keys = np.empty(0, dtype=np.uint64)
        self._partitions: Partitions = np.empty(0, dtype=np.int16)
        self._told: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.keys)

    def add(self, keys: Keys, partitions: Partitions) -> int:
        """More of them. Those that are here already are left out; returns how many are not."""
        fresh = ~self.has(keys)
        self.keys = np.concatenate([self.keys, keys[fresh]])
        self._partitions = np.concatenate([self._partitions, partitions[fresh]])
        self._told = np.concatenate([self._told, np.full(np.count_nonzero(fresh), _NEW)])
        return int(np.count_nonzero(fresh))

    def has(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Which of ``keys`` are here."""
        return np.isin(keys, self.keys)

    def keep(self, some: npt.NDArray[np.bool_]) -> None:
        """Drop all but these."""
        self.keys, self._partitions, self._told = self.keys[some], self._partitions[some], self._told[some]

    def take(self, number: int) -> tuple[Keys, Partitions]:
        """Those that have not been told; take ``number`` tells them."""
        new = self._told == _NEW
        self._told[new] = number
        return self.keys[new], self._partitions[new]

    def published(self, number: int) -> tuple[Keys, Partitions]:
        """Remove and return those that were told by take ``number`` or before."""
        out = self._told <= number
        gone = self.keys[out], self._partitions[out]
        self.keep(~out)
        return gone
