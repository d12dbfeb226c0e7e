"""The reader's copy of feature rows: a bounded table of decayed counts, gathered for whole requests.

The features topic is compacted under ``<source>/<table>/<entity>``, one source a worker slot. An entity
that several workers count has one row a source; decayed to the same time, their counts add.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, repeat

import numpy as np
import numpy.typing as npt

from state.formulas import COUNTS, GLOBAL, TABLES, FloatArray, decay

BoolArray = npt.NDArray[np.bool_]

#: Every source costs one more look-up an entity; more than this are not workers but garbage.
MAX_SOURCES = 256
DEFAULT_CAPACITY = 1_000_000
_INITIAL_ROWS = 1024
_NEVER = np.iinfo(np.int64).max


class FeatureView:
    """Rows of every table, at most ``capacity`` a table (all sources together).

    Above it the least recently updated rows go first, counted in ``dropped`` by table. Rows that cannot
    be used are counted in ``refused`` by reason and leave the row that was there. Safe to read and write
    from several threads.
    """

    def __init__(self, half_lives_s: Sequence[float], capacity: int = DEFAULT_CAPACITY) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, is {capacity}")
        self.half_lives_s = tuple(half_lives_s)
        self.capacity = capacity
        self.refused: Counter[str] = Counter()
        self._row_bytes = 8 + 8 * len(COUNTS) * len(self.half_lives_s)
        self._row_type = np.dtype([("last", "<i8"), ("counts", "<f8", (len(COUNTS), len(self.half_lives_s)))])
        # `global` has one row a source: no capacity may drop one of those.
        room = dict.fromkeys(TABLES, capacity) | {GLOBAL: max(capacity, MAX_SOURCES)}
        self._tables = {name: _Table(self.half_lives_s, limit) for name, limit in room.items()}
        self._lock = threading.Lock()

    def rows(self) -> dict[str, int]:
        """Rows held, by table."""
        return {name: table.used for name, table in self._tables.items()}

    @property
    def dropped(self) -> dict[str, int]:
        """Rows dropped for room since the start, by table."""
        return {name: table.dropped for name, table in self._tables.items()}

    def apply(self, records: Iterable[tuple[bytes | None, bytes | None]]) -> int:
        """Take (key, value) records in topic order; an empty value deletes. Returns rows taken.

        One call holds the lock throughout: give at most a thousand or so at once.
        """
        latest: dict[tuple[str, str, str], bytes] = {}
        for key, value in records:
            try:
                source, table, entity = (key or b"").decode().split("/", 2)
            except ValueError:
                self.refused["key"] += 1
                continue
            if table not in self._tables or not source:
                self.refused["table" if source else "key"] += 1
            elif value and len(value) != self._row_bytes:
                self.refused["length"] += 1
            else:
                latest[table, source, entity] = value or b""
        by_table: dict[str, list[tuple[str, str, bytes]]] = {}
        for (table, source, entity), row in latest.items():
            by_table.setdefault(table, []).append((source, entity, row))
        with self._lock:
            return sum(self._apply_table(self._tables[name], rows) for name, rows in by_table.items())

    def _apply_table(self, table: _Table, rows: list[tuple[str, str, bytes]]) -> int:
        deleted = sum(table.delete(source, entity) for source, entity, row in rows if not row)
        kept = [row for row in rows if row[2]]
        if not kept:
            return deleted
        data = np.frombuffer(b"".join(row[2] for row in kept), dtype=self._row_type)
        counts: FloatArray = data["counts"].astype(np.float64)
        last: npt.NDArray[np.int64] = data["last"].astype(np.int64)
        # A count that is clearly negative would put a negative number under the features' logarithms.
        good = np.isfinite(counts).all(axis=(1, 2)) & (counts >= -1e-9).all(axis=(1, 2))
        if not good.all():
            self.refused["value"] += int((~good).sum())
            kept = [kept[i] for i in np.flatnonzero(good).tolist()]
            counts, last = counts[good], last[good]
        slots = table.slots([row[0] for row in kept], [row[1] for row in kept])
        if None in slots:
            self.refused["sources"] += slots.count(None)
            fits = np.array([slot is not None for slot in slots], dtype=bool)
            counts, last = counts[fits], last[fits]
        taken = [slot for slot in slots if slot is not None]
        table.put(taken, last, np.maximum(counts, 0.0))
        return deleted + len(taken)

    def lookup(
        self, table: str, entities: Sequence[str], now_ms: int | npt.NDArray[np.int64]
    ) -> tuple[FloatArray, BoolArray]:
        """Counts of ``entities``, decayed to ``now_ms`` (one time, or one an entity), summed over sources.

        Returns (n, len(COUNTS), half-lives) and a mask (n,) of the entities with any row; counts of the
        others are zero.
        """
        now = np.asarray(now_ms, dtype=np.float64)
        if now.ndim == 0:
            now = np.full(len(entities), now)
        with self._lock:
            return self._tables[table].gather(entities, now)

    def counts(self, table: str, entities: Sequence[str], now_ms: int | npt.NDArray[np.int64]) -> FloatArray:
        """The counts of ``lookup`` alone: (n, len(COUNTS), half-lives)."""
        return self.lookup(table, entities, now_ms)[0]


class _Table:
    """Rows of one table in arrays, and one index an source from entity to row number.

    Row 0 is never used and stays zero: it is what an unknown entity gathers.
    """

    def __init__(self, half_lives_s: tuple[float, ...], capacity: int) -> None:
        self.used = 0
        self.dropped = 0
        self._half_lives_s = half_lives_s
        self._capacity = capacity
        self._index: dict[str, dict[str, int]] = {}
        self._owner: list[tuple[str, str] | None] = [None]
        self._free: list[int] = []
        self._clock = 0
        self._counts: FloatArray = np.zeros((_INITIAL_ROWS, len(COUNTS), len(half_lives_s)))
        self._last: FloatArray = np.zeros(_INITIAL_ROWS)
        self._touched = np.full(_INITIAL_ROWS, _NEVER, dtype=np.int64)

    def gather(self, entities: Sequence[str], now: FloatArray) -> tuple[FloatArray, BoolArray]:
        # (sources, n) row numbers: one gather and one decay, however many sources there are.
        found = chain.from_iterable(map(index.get, entities, repeat(0)) for index in self._index.values())
        slots = np.fromiter(found, dtype=np.intp).reshape(len(self._index), len(entities))
        factor = decay((now - self._last[slots]).ravel(), self._half_lives_s)
        rows = self._counts[slots]
        rows *= factor.reshape(*slots.shape, 1, len(self._half_lives_s))
        known: BoolArray = np.any(slots > 0, axis=0)
        return rows.sum(axis=0), known

    def slots(self, sources: Sequence[str], entities: Sequence[str]) -> list[int | None]:
        """Row numbers, begun where there is none; None for a source beyond ``MAX_SOURCES``."""
        found: list[int | None] = []
        for source, entity in zip(sources, entities, strict=True):
            index = self._index.get(source)
            if index is None:
                if len(self._index) >= MAX_SOURCES:
                    found.append(None)
                    continue
                index = self._index[source] = {}
            slot = index.get(entity)
            if slot is None:
                if self._free:
                    slot = self._free.pop()
                    self._owner[slot] = (source, entity)
                else:
                    slot = len(self._owner)
                    self._owner.append((source, entity))
                index[entity] = slot
                self.used += 1
            found.append(slot)
        return found

    def put(self, slots: Sequence[int], last: npt.NDArray[np.int64], counts: FloatArray) -> None:
        self._grow(len(self._owner))
        where = np.array(slots, dtype=np.intp)
        self._counts[where] = counts
        self._last[where] = last
        self._touched[where] = self._clock + np.arange(len(where))
        self._clock += len(where)
        self._evict()

    def delete(self, source: str, entity: str) -> int:
        """Forget a row; 1 if there was one."""
        index = self._index.get(source)
        slot = index.pop(entity, None) if index is not None else None
        if index is None or slot is None:
            return 0
        if not index:
            del self._index[source]
        self._owner[slot] = None
        self._free.append(slot)
        self._counts[slot] = 0.0
        self._touched[slot] = _NEVER
        self.used -= 1
        return 1

    def _evict(self) -> None:
        surplus = self.used - self._capacity
        if surplus <= 0:
            return
        # A twentieth more than needed, so that rows are not ranked again with every batch.
        surplus = min(self.used, surplus + self._capacity // 20)
        for slot in np.argpartition(self._touched, surplus - 1)[:surplus].tolist():
            owner = self._owner[slot]
            if owner is not None:
                self.dropped += self.delete(*owner)

    def _grow(self, needed: int) -> None:
        if needed <= len(self._last):
            return
        size = max(needed, 2 * len(self._last))
        for name, fill in (("_counts", 0), ("_last", 0), ("_touched", _NEVER)):
            old = getattr(self, name)
            # Zeros of rows that are not used yet take no memory; what is written to them would.
            new = np.zeros((size, *old.shape[1:]), dtype=old.dtype)
            new[: len(old)] = old
            if fill:
                new[len(old) :] = fill
            setattr(self, name, new)
