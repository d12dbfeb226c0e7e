"""Passes over all stored rows of a table, a part at a time: rows to publish once more, rows to forget.

How many rows there are follows from the size of the state: millions, perhaps. A part takes some milliseconds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from features.events import IntArray
from features.hashing import Keys
from features.row_bytes import first_numbers, unpack
from features.rows import Values
from state.disk_keys import DiskKeys
from state.errors import decoding
from state.row_keys import Partitions, parsed
from state.store import Store

#: Stored rows that one part looks at: about 20 ms.
PART_ROWS = 20_000
NEVER = -(2**62)


class Part(NamedTuple):
    """Rows of one part, not decoded yet."""

    keys: Keys
    partitions: Partitions
    data: list[bytes]


class RowPass:
    """All rows behind ``prefix``, in the order of their keys, as the store holds them at each part."""

    def __init__(self, store: Store, prefix: bytes) -> None:
        self.done = False
        self._store = store
        self._prefix = prefix
        self._next = prefix

    def take(self, limit: int) -> Part:
        """At most ``limit`` rows. ``done`` once there are no more."""
        found: list[bytes] = []
        data: list[bytes] = []
        self.done = True
        # A new scan each time: an iterator that stays open would go on showing the store as it was.
        for key, value in self._store.scan(self._prefix, self._next):
            if len(data) == limit:
                self._next, self.done = key, False
                break
            found.append(key)
            data.append(value)
        with decoding(self._store.path, f"rows from {self._prefix!r} on"):
            partitions, keys = parsed(found)
        return Part(keys, partitions, data)


class Republish:
    """Rows that may have changed at ``since`` (ms of event time) or later."""

    def __init__(self, store: Store, prefix: bytes, width: int, since: int) -> None:
        self._store = store
        self._width = width
        self._since = since
        self._pass = RowPass(store, prefix)

    @property
    def done(self) -> bool:
        """Whether all have been taken."""
        return self._pass.done

    def take(self) -> tuple[Keys, Partitions, Values]:
        """Those of the next part, as the store holds them."""
        part = self._pass.take(PART_ROWS)
        rows, changed_at = decoded(self._store, part, self._width)
        some = changed_at >= self._since
        return part.keys[some], part.partitions[some], rows[some]


class Sweep:
    """Rows that know nothing newer than ``before`` (ms). ``kept`` has the keys of all others, once ``done``.

    ``oldest``: the smallest ``SEEN`` among these.
    """

    def __init__(self, store: Store, prefix: bytes, width: int, before: float, expected: int) -> None:
        self.kept = DiskKeys(expected)
        self.oldest = float("inf")
        self._store = store
        self._width = width
        self._before = before
        self._pass = RowPass(store, prefix)

    @property
    def done(self) -> bool:
        """Whether all have been looked at."""
        return self._pass.done

    def take(self, limit: int) -> tuple[int, Keys, Partitions]:
        """How many rows the next part has, and which are to be forgotten, as far as the store knows."""
        part = self._pass.take(limit)
        with decoding(self._store.path, "rows of features"):
            seen = first_numbers(part.data)
        old = seen < self._before
        self.kept.add(part.keys[~old])
        self.oldest = min(self.oldest, seen[~old].min(initial=np.inf))
        some = np.flatnonzero(old)
        # What is to be deleted is read in full: a damaged time must not delete a row.
        chosen = Part(part.keys[some], part.partitions[some], [part.data[i] for i in some.tolist()])
        decoded(self._store, chosen, self._width)
        return len(part.data), chosen.keys, chosen.partitions


def decoded(store: Store, part: Part, width: int) -> tuple[Values, IntArray]:
    """Rows and the times of their last changes. Raises ``StateDamagedError``."""
    with decoding(store.path, "rows of features"):
        return unpack(part.keys, part.data, width)
