"""Impressions that are in memory in full, found by id: hashes in a table with open addressing, then the text.

Rows have numbers without gaps, and leave in the order in which they came. An entry of the table is a row's
number; entries of rows that have left stay until the table is built anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from features.compiled import kernel
from features.events import IntArray
from features.hashing import Keys
from state.joins.columns import Column, Shown
from state.row_index import HashArray

#: Entries of the smallest table, a power of two.
SMALLEST_TABLE = 1024
#: The part of the table that is taken at most.
FULLEST = 0.5
_EMPTY = -1


class Recent:
    """Rows ``base`` to ``base + len - 1``."""

    def __init__(self, columns: int) -> None:
        self.base = 0
        self._ids: list[str] = []
        self._hashes = Column(np.uint64)
        self._times = Column(np.int64)
        self._keys = Column(np.uint64, columns)
        self._places = Column(np.int32)
        self._prices = Column(np.float64)
        self._partitions = Column(np.int16)
        self._columns = (
            self._hashes,
            self._times,
            self._keys,
            self._places,
            self._prices,
            self._partitions,
        )
        self._build()

    def __len__(self) -> int:
        return len(self._hashes)

    def append(self, shown: Shown, hashes: HashArray) -> None:
        """More rows, which are not here yet."""
        begin = len(self)
        rows: tuple[npt.NDArray[Any], ...] = (
            hashes,
            shown.times,
            shown.keys,
            shown.places,
            shown.prices,
            shown.partitions,
        )
        for column, values in zip(self._columns, rows, strict=True):
            column.append(values)
        self._ids += shown.ids
        if self._taken + len(hashes) > len(self._table) * FULLEST:
            self._build()
        else:
            _insert(hashes, self.base + begin, self._table)
            self._taken += len(hashes)

    def drop(self, count: int) -> None:
        """The oldest ``count`` rows leave."""
        for column in self._columns:
            column.drop(count)
        self.base += count
        del self._ids[:count]
        if len(self) < len(self._table) * FULLEST / 8 and len(self._table) > SMALLEST_TABLE:
            self._build()

    def clear(self, base: int) -> None:
        """All rows leave; the next one has the number ``base``."""
        self.drop(len(self))
        self.base = base
        self._build()

    def find(self, ids: Sequence[str], hashes: HashArray) -> IntArray:
        """Numbers of rows, -1 where there is none."""
        rows = np.full(len(ids), -1, dtype=np.int64)
        if not len(self):
            return rows
        _find(hashes, self._hashes.values, self.base, self._table, rows)
        hits = np.flatnonzero(rows >= 0)
        known = self._ids
        for i, at in zip(hits.tolist(), (rows[hits] - self.base).tolist(), strict=True):
            if known[at] != ids[i]:
                rows[i] = self._find_slowly(ids[i], hashes[i])
        return rows

    def rows(self, begin: int, end: int) -> Shown:
        """The rows with these numbers, copied."""
        some = slice(begin - self.base, end - self.base)
        return Shown(
            self._ids[some],
            self._times.values[some].copy(),
            self._keys.values[some].copy(),
            self._places.values[some].copy(),
            self._prices.values[some].copy(),
            self._partitions.values[some].copy(),
        )

    def replace_keys(self, begin: int, keys: Keys) -> None:
        """Other key columns (n, c) for the rows from ``begin`` on; rows that have left are passed over."""
        gone = min(max(self.base - begin, 0), len(keys))
        first = begin + gone - self.base
        self._keys.values[first : first + len(keys) - gone] = keys[gone:]

    def hashes(self, begin: int, end: int) -> HashArray:
        """Hashes of the rows with these numbers, copied."""
        some: HashArray = self._hashes.values[begin - self.base : end - self.base].copy()
        return some

    def take(self, rows: IntArray, out: Shown, at: IntArray) -> None:
        """Write what is known of ``rows`` (ids aside) into the rows ``at`` of ``out``."""
        some = rows - self.base
        out.times[at] = self._times.values[some]
        out.keys[at] = self._keys.values[some]
        out.places[at] = self._places.values[some]
        out.prices[at] = self._prices.values[some]
        out.partitions[at] = self._partitions.values[some]

    def _find_slowly(self, impression_id: str, wanted: np.uint64) -> int:
        """Another id has the same hash: look at all that have."""
        for i in np.flatnonzero(self._hashes.values == wanted).tolist():
            if self._ids[i] == impression_id:
                return self.base + int(i)
        return -1

    def _build(self) -> None:
        size = SMALLEST_TABLE
        while size * FULLEST < 2 * len(self):
            size *= 2
        self._table = np.full(size, _EMPTY, dtype=np.int64)
        _insert(self._hashes.values, self.base, self._table)
        self._taken = len(self)


def repeats(hashes: HashArray) -> bool:
    """Whether two of ``hashes`` are equal."""
    size = 8
    while size * FULLEST < len(hashes):
        size *= 2
    return bool(_repeats(hashes, np.full(size, _EMPTY, dtype=np.int64)))


# Hashes of short texts are as good in their lower bits as in the others.


@kernel
def _insert(hashes, base, table):  # type: ignore[no-untyped-def]
    mask = np.uint64(len(table) - 1)
    for i in range(len(hashes)):
        at = np.int64(hashes[i] & mask)
        while table[at] != -1:
            at = (at + 1) % len(table)
        table[at] = base + i


@kernel
def _find(wanted, hashes, base, table, rows):  # type: ignore[no-untyped-def]
    mask = np.uint64(len(table) - 1)
    for i in range(len(wanted)):
        at = np.int64(wanted[i] & mask)
        while table[at] != -1:
            row = table[at] - base
            if row >= 0 and hashes[row] == wanted[i]:
                rows[i] = table[at]
                break
            at = (at + 1) % len(table)


@kernel
def _repeats(hashes, table):  # type: ignore[no-untyped-def]
    mask = np.uint64(len(table) - 1)
    for i in range(len(hashes)):
        at = np.int64(hashes[i] & mask)
        while table[at] != -1:
            if hashes[table[at]] == hashes[i]:
                return True
            at = (at + 1) % len(table)
        table[at] = i
    return False
