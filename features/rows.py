"""Rows of numbers found by 64-bit keys: a hash table with open addressing over one block of memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.compiled import kernel
from features.hashing import Keys

Slots = npt.NDArray[np.int32]
Values = npt.NDArray[np.float64]

INITIAL_ROWS = 1024
#: Places of the index that are taken at most, as a share; above it the index doubles.
FULLEST = 0.6
NO_ROW = -1
_ZERO = np.uint64(0)


class Rows:
    """``width`` float64 numbers a key; a row begins with zeros. Rows are numbered in the order they came.

    Rows are ``values[:used]`` of the keys ``keys[:used]``: there are no holes. Both may be replaced by larger
    arrays whenever a row is added: take them anew after it.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.used = 0
        self.keys: Keys = np.zeros(INITIAL_ROWS, dtype=np.uint64)
        self.values: Values = np.zeros((INITIAL_ROWS, width))
        self._index = _empty_index(INITIAL_ROWS)

    def __len__(self) -> int:
        return self.used

    def find(self, keys: Keys) -> Slots:
        """Row numbers, ``NO_ROW`` where there is none (as for the key 0)."""
        slots = np.empty(len(keys), dtype=np.int32)
        _find(keys, self.keys, self._index, slots)
        return slots

    def locate(self, keys: Keys, begin: npt.NDArray[np.bool_]) -> Slots:
        """Row numbers; where ``begin`` says so, missing rows are begun, in the order of their first keys."""
        slots = np.empty(len(keys), dtype=np.int32)
        done = 0
        while True:
            done, self.used = _locate(
                keys, begin, self.keys, self._index, slots, done, self.used, self._room()
            )
            if done == len(keys):
                return slots
            self._grow()

    def delete(self, keys: Keys) -> int:
        """Forget these rows, where they are there; returns how many were.

        The last rows take the places of the deleted ones, and with them their numbers.
        """
        before = self.used
        self.used = _delete(keys, self.keys, self.values, self._index, self.used)
        return before - self.used

    def keep(self, kept: npt.NDArray[np.intp]) -> None:
        """Forget all rows but these (numbers in ascending order), which are numbered anew."""
        self.used = len(kept)
        size = max(INITIAL_ROWS, self.used)
        keys, values = self.keys[kept], self.values[kept]
        self.keys = np.zeros(size, dtype=np.uint64)
        self.values = np.zeros((size, self.width))
        self.keys[: self.used], self.values[: self.used] = keys, values
        self._reindex()

    def _room(self) -> int:
        return min(len(self.keys), int(len(self._index) * FULLEST))

    def _grow(self) -> None:
        size = max(2 * len(self.keys), 1)
        keys, values = self.keys, self.values
        self.keys = np.zeros(size, dtype=np.uint64)
        self.values = np.zeros((size, self.width))
        self.keys[: self.used], self.values[: self.used] = keys[: self.used], values[: self.used]
        self._reindex()

    def _reindex(self) -> None:
        self._index = _empty_index(len(self.keys))
        _fill(self.keys, self.used, self._index)


def _empty_index(rows: int) -> Slots:
    size = 8
    while size * FULLEST < rows:
        size *= 2
    return np.full(size, NO_ROW, dtype=np.int32)


# Keys are mixed hashes already: their lower bits are their place.


@kernel
def _find(wanted, keys, index, slots):  # type: ignore[no-untyped-def]
    mask = np.uint64(len(index) - 1)
    for i in range(len(wanted)):
        key = wanted[i]
        slots[i] = NO_ROW
        if key == _ZERO:
            continue
        at = np.int64(key & mask)
        while index[at] != NO_ROW:
            if keys[index[at]] == key:
                slots[i] = index[at]
                break
            at = (at + 1) % len(index)


@kernel
def _locate(wanted, begin, keys, index, slots, start, used, room):  # type: ignore[no-untyped-def]
    mask = np.uint64(len(index) - 1)
    for i in range(start, len(wanted)):
        key = wanted[i]
        if key == _ZERO:
            slots[i] = NO_ROW
            continue
        at = np.int64(key & mask)
        while index[at] != NO_ROW and keys[index[at]] != key:
            at = (at + 1) % len(index)
        if index[at] == NO_ROW and begin[i]:
            if used == room:
                return i, used
            index[at] = used
            keys[used] = key
            used += 1
        slots[i] = index[at]
    return len(wanted), used


@kernel
def _fill(keys, used, index):  # type: ignore[no-untyped-def]
    mask = np.uint64(len(index) - 1)
    for row in range(used):
        at = np.int64(keys[row] & mask)
        while index[at] != NO_ROW:
            at = (at + 1) % len(index)
        index[at] = row


@kernel
def _place(key, keys, index):  # type: ignore[no-untyped-def]
    """Where a key stands in the index, or the empty place at which the search for it ends."""
    at = np.int64(key & np.uint64(len(index) - 1))
    while index[at] != NO_ROW and keys[index[at]] != key:
        at = (at + 1) % len(index)
    return at


@kernel
def _delete(gone, keys, values, index, used):  # type: ignore[no-untyped-def]
    size = len(index)
    mask = np.uint64(size - 1)
    for key in gone:
        if key == _ZERO:
            continue
        hole = _place(key, keys, index)
        row = index[hole]
        if row == NO_ROW:
            continue
        # Those behind it move up where that does not put them before their own places (Knuth 6.4, R).
        at = hole
        while True:
            at = (at + 1) % size
            if index[at] == NO_ROW:
                break
            away = (at - np.int64(keys[index[at]] & mask)) % size
            if away >= (at - hole) % size:
                index[hole] = index[at]
                hole = at
        index[hole] = NO_ROW
        used -= 1
        if row != used:
            index[_place(keys[used], keys, index)] = row
            keys[row] = keys[used]
            values[row] = values[used]
        keys[used] = _ZERO
        values[used] = 0.0
    return used
