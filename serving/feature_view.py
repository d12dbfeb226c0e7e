"""The reader's copy of feature rows: bounded tables that a plan reads for whole requests.

Rows of a source partition have one writer at a time; rows that every worker counts are merged by the plan.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from features.events import IntArray
from features.hashing import Keys
from features.plan import SEEN, Plan, partitioned
from features.row_bytes import RowError, unpack
from features.rows import NO_ROW, Rows, Slots, Values
from features.topic import OF_PARTITION, OF_WORKER, parse_row_name

#: More than these are not workers or partitions but garbage.
MAX_SOURCES = 1024
DEFAULT_CAPACITY = 1_000_000
#: Share of the capacity that goes at once, so that rows are not renumbered with every batch.
DROPPED_SHARE = 0.1


class FeatureView:
    """Rows of every table, at most ``capacity`` keys a table.

    Above it the rows that were seen longest ago go first, counted in ``dropped`` by table. Records that cannot
    be used are counted in ``refused`` by reason and leave the row that was there. A row whose newest event
    lies ``forget_ms`` back counts as missing, as it does for the worker. Safe to read and write from several
    threads.
    """

    def __init__(self, plan: Plan, forget_ms: int, capacity: int = DEFAULT_CAPACITY) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, is {capacity}")
        self.plan = plan
        self.forget_ms = forget_ms
        self.capacity = capacity
        self.refused: Counter[str] = Counter()
        self._tables = {name: _Table(plan, name, capacity) for name in plan.tables}
        self._lock = threading.Lock()

    def rows(self) -> dict[str, int]:
        """Keys held, by table."""
        return {name: len(table) for name, table in self._tables.items()}

    @property
    def dropped(self) -> dict[str, int]:
        """Keys dropped for room since the start, by table."""
        return {name: table.dropped for name, table in self._tables.items()}

    def apply(self, records: Iterable[tuple[bytes | None, bytes | None]]) -> int:
        """Take (key, value) records in topic order; an empty value deletes. Returns rows taken.

        One call holds the lock throughout: give at most a thousand or so at once.
        """
        latest: dict[tuple[str, str, int], bytes] = {}
        for key, value in records:
            name = parse_row_name(key)
            if name is None:
                self.refused["key"] += 1
                continue
            layout = self.plan.tables.get(name.table)
            if layout is None or name.kind != (OF_PARTITION if partitioned(layout) else OF_WORKER):
                self.refused["table"] += 1
            else:
                latest[name.table, name.owner, name.key] = value or b""
        grouped: dict[tuple[str, str], list[tuple[int, bytes]]] = {}
        for (table, source, row), value in latest.items():
            grouped.setdefault((table, source), []).append((row, value))
        with self._lock:
            return sum(self._apply(table, source, rows) for (table, source), rows in grouped.items())

    @contextmanager
    def reading(self, times: IntArray) -> Iterator[Mapping[str, Reading]]:
        """The tables for ``plan.observe`` of events at ``times`` (ms), as they are now.

        Writers wait meanwhile. What was missing is in each table's ``absent`` afterwards.
        """
        with self._lock:
            yield {name: Reading(table.merged, times, self.forget_ms) for name, table in self._tables.items()}

    def _apply(self, name: str, source: str, rows: list[tuple[int, bytes]]) -> int:
        table = self._tables[name]
        gone = [row for row, value in rows if not value]
        table.delete(source, np.array(gone, dtype=np.uint64))
        kept = [(row, value) for row, value in rows if value]
        good: list[int] = []
        values: list[Values] = []
        for row, value in kept:
            # One by one: a record that cannot be used must not take its batch along.
            try:
                numbers, _ = unpack(np.array([row], dtype=np.uint64), [value], self.plan.tables[name].width)
            except RowError:
                self.refused["row"] += 1
                continue
            if not np.isfinite(numbers).all():
                self.refused["not_finite"] += 1
                continue
            good.append(row)
            values.append(numbers[0])
        if good and not table.put(source, np.array(good, dtype=np.uint64), np.array(values)):
            self.refused["source"] += len(good)
            return len(gone)
        return len(good) + len(gone)


class Reading:
    """One table as one request sees it (``features.plan.Table``, without updates)."""

    def __init__(self, rows: Rows, times: IntArray, forget_ms: int) -> None:
        self._rows = rows
        self._oldest = times - float(forget_ms)
        self.absent: npt.NDArray[np.bool_] | None = None

    @property
    def values(self) -> Values:
        """All rows."""
        return self._rows.values

    def locate(self, keys: Keys, begin: npt.NDArray[np.bool_]) -> Slots:
        """Row numbers, ``NO_ROW`` for what is not there or forgotten; nothing is begun."""
        slots = self._rows.find(keys)
        stale = (slots >= 0) & (self._rows.values[slots, SEEN] < self._oldest)
        slots[stale] = NO_ROW
        if self.absent is None:
            self.absent = slots < 0
        return slots

    def touch(self, slots: Slots) -> None:
        """Serving counts nothing."""


class _Table:
    """Rows of one table by source, and merged over them."""

    def __init__(self, plan: Plan, name: str, capacity: int) -> None:
        self.dropped = 0
        self._plan, self._name, self._capacity = plan, name, capacity
        self._one_source = partitioned(plan.tables[name])
        self._width = plan.tables[name].width
        self._sources: dict[str, Rows] = {}
        self.merged = Rows(self._width)

    def __len__(self) -> int:
        return len(self.merged)

    def put(self, source: str, keys: Keys, values: Values) -> bool:
        """Take rows of ``source``. False where there are too many sources."""
        everywhere = np.ones(len(keys), dtype=np.bool_)
        if not self._one_source:
            own = self._sources.get(source)
            if own is None:
                if len(self._sources) >= MAX_SOURCES:
                    return False
                own = self._sources[source] = Rows(self._width)
            slots = own.locate(keys, everywhere)
            own.values[slots] = values
            values = self._merge(keys)
        slots = self.merged.locate(keys, everywhere)
        self.merged.values[slots] = values
        self._bound()
        return True

    def delete(self, source: str, keys: Keys) -> None:
        """Forget rows of ``source``."""
        if not len(keys):
            return
        if self._one_source:
            _drop(self.merged, keys)
            return
        own = self._sources.get(source)
        if own is None:
            return
        _drop(own, keys)
        left = np.array([self._known(key) for key in keys], dtype=np.bool_)
        _drop(self.merged, keys[~left])
        if left.any():
            slots = self.merged.locate(keys[left], left[left])
            self.merged.values[slots] = self._merge(keys[left])

    def _known(self, key: np.uint64) -> bool:
        return any(rows.find(np.array([key]))[0] >= 0 for rows in self._sources.values())

    def _merge(self, keys: Keys) -> Values:
        if len(self._sources) == 1:
            (own,) = self._sources.values()
            only: Values = own.values[own.find(keys)]
            return only
        found = [(rows, rows.find(keys)) for rows in self._sources.values()]
        merged = np.empty((len(keys), self._width))
        for i in range(len(keys)):
            several = np.array([rows.values[slots[i]] for rows, slots in found if slots[i] >= 0])
            merged[i] = self._plan.merge(self._name, several)
        return merged

    def _bound(self) -> None:
        surplus = len(self.merged) - self._capacity
        if surplus <= 0:
            return
        surplus = min(len(self.merged), surplus + int(self._capacity * DROPPED_SHARE))
        seen = self.merged.values[: len(self.merged), SEEN]
        oldest = self.merged.keys[np.argsort(seen, kind="stable")[:surplus]]
        for rows in self._sources.values():
            _drop(rows, oldest)
        _drop(self.merged, oldest)
        self.dropped += surplus


def _drop(rows: Rows, keys: Keys) -> None:
    slots = rows.find(keys)
    gone = slots[slots >= 0]
    if len(gone):
        keep = np.ones(len(rows), dtype=np.bool_)
        keep[gone] = False
        rows.keep(np.flatnonzero(keep))


def absent_by_table(tables: Mapping[str, Reading], shown: Sequence[str]) -> dict[str, npt.NDArray[np.bool_]]:
    """Which events had no row, by the tables named in ``shown`` that were read."""
    return {name: mask for name in shown if (mask := tables[name].absent) is not None}
