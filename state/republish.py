"""Rows that have to be published once more after a restart, read from the store a part at a time.

How many there are follows the pause before the restart and the size of the state: millions, perhaps. None
of them takes room in the table's arrays.
"""

from __future__ import annotations

from state.errors import decoding
from state.formulas import row_time
from state.store import Store

#: Stored rows that one part looks at: about 60 ms of every second until all are out.
REPUBLISH_ROWS = 20_000


class Republish:
    """One pass over a table's stored rows that count something after ``since`` (ms)."""

    def __init__(self, store: Store, prefix: bytes, half_lives: int, since: int) -> None:
        self.done = False
        self._store = store
        self._prefix = prefix
        self._half_lives = half_lives
        self._since = since
        self._next = prefix

    def take(self) -> list[tuple[str, bytes]]:
        """(entity, packed row) among the next ``REPUBLISH_ROWS``, as the store holds them now."""
        rows: list[tuple[str, bytes]] = []
        # A new scan each time: an iterator that stays open would go on showing the store as it was.
        for looked, (key, value) in enumerate(self._store.scan(self._prefix, self._next)):
            if looked == REPUBLISH_ROWS:
                self._next = key
                return rows
            with decoding(self._store.path, f"row {key!r}"):
                if row_time(value, self._half_lives) > self._since:
                    rows.append((key[len(self._prefix) :].decode(), value))
        self.done = True
        return rows
