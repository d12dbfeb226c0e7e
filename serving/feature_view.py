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

from features.compiled import kernel
from features.events import IntArray
from features.hashing import Keys
from features.plan import SEEN, Plan, oldest, partitioned
from features.row_bytes import intact, unpack
from features.rows import NO_ROW, Rows, Slots, Values
from features.topic import KEY_DIGITS, OF_PARTITION, OF_WORKER, parse_keys, parse_prefix
from serving.merged_rows import MergedRows

#: What is held of a table without a word, in keys.
DEFAULT_CAPACITY = 1_000_000
#: Share of the capacity that goes at once, so that rows are not ranked with every batch.
DROPPED_SHARE = 0.02


class FeatureView:
    """Rows of every table, at most ``capacity`` keys a table.

    Above it the rows that were seen longest ago go first, counted in ``dropped`` by table. Records that
    cannot be used are counted in ``refused`` by reason and leave the row that was there. A row whose newest
    event lies ``forget_ms`` back counts as missing, as it does for the worker. Safe to read and write from
    several threads.
    """

    def __init__(self, plan: Plan, forget_ms: int, capacity: int = DEFAULT_CAPACITY) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, is {capacity}")
        self.plan = plan
        self.forget_ms = forget_ms
        self.capacity = capacity
        self.refused: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter(dict.fromkeys(plan.tables, 0))
        self._tables = {name: MergedRows(plan, name) for name in plan.tables}
        self._lock = threading.Lock()

    def rows(self) -> dict[str, int]:
        """Keys held, by table."""
        return {name: len(table) for name, table in self._tables.items()}

    def apply(self, records: Iterable[tuple[bytes | None, bytes | None]]) -> int:
        """Take (key, value) records in topic order; an empty value deletes. Returns rows taken.

        One call holds the lock throughout: give at most a thousand or so at once.
        """
        groups: dict[bytes, tuple[list[bytes], list[bytes]]] = {}
        for key, value in records:
            key = key or b""
            digits, values = groups.setdefault(key[:-KEY_DIGITS], ([], []))
            digits.append(key[-KEY_DIGITS:])
            values.append(value or b"")
        with self._lock:
            return sum(self._apply(prefix, *group) for prefix, group in groups.items())

    @contextmanager
    def reading(self, times: IntArray) -> Iterator[Mapping[str, Reading]]:
        """The tables for ``plan.observe`` of events at ``times`` (ms), as they are now.

        Writers wait meanwhile. What was missing is in each table's ``absent`` afterwards.
        """
        matters = oldest(times, self.forget_ms).astype(np.float64)
        with self._lock:
            yield {name: Reading(table.rows, matters) for name, table in self._tables.items()}

    def _apply(self, prefix: bytes, digits: Sequence[bytes], data: Sequence[bytes]) -> int:
        """Take the records whose keys begin with ``prefix`` and end with ``digits``."""
        named = parse_prefix(prefix)
        layout = self.plan.tables.get(named.table) if named is not None else None
        if (
            named is None
            or layout is None
            or named.kind != (OF_PARTITION if partitioned(layout) else OF_WORKER)
        ):
            self.refused["key" if named is None else "table"] += len(digits)
            return 0
        keys, values, gone = self._read(digits, data, layout.width)
        table = self._tables[named.table]
        # Rows of a partition have one writer, whichever worker it is.
        worker = named.owner if named.kind == OF_WORKER else ""
        if gone.any():
            table.delete(worker, keys[gone])
            keys, values = keys[~gone], values[~gone]
        if not len(keys):
            return len(gone)
        if not table.put(worker, keys, values):
            self.refused["worker"] += len(keys)
            return len(gone) - len(keys)
        surplus = len(table) - self.capacity
        if surplus > 0:
            surplus += int(self.capacity * DROPPED_SHARE)
            self.dropped[named.table] += table.drop_oldest(surplus)
        return len(gone)

    def _read(
        self, digits: Sequence[bytes], data: Sequence[bytes], width: int
    ) -> tuple[Keys, Values, npt.NDArray[np.bool_]]:
        """Different keys, their rows, and which of them are to be deleted.

        What cannot be used is counted and left out before the last record of a key is looked for, so that a
        broken one never stands in for the good one before it.
        """
        keys = parse_keys(digits)
        gone = np.fromiter(map(len, data), dtype=np.int64, count=len(data)) == 0
        whole = intact(keys, data, width)
        good = (keys != 0) & (gone | whole)
        self.refused += Counter(
            key=int(np.count_nonzero(keys == 0)), row=int(np.count_nonzero((keys != 0) & ~gone & ~whole))
        )
        values = np.zeros((len(keys), width))
        full = np.flatnonzero(good & ~gone)
        if len(full):
            values[full], _ = unpack(keys[full], [data[i] for i in full.tolist()], width)
            finite = np.isfinite(values).all(axis=1)
            self.refused += Counter(not_finite=int(np.count_nonzero(~finite)))
            good &= finite
        if not good.all():
            keys, values, gone = keys[good], values[good], gone[good]
        if len(set(digits)) < len(digits):
            last = len(keys) - 1 - np.unique(keys[::-1], return_index=True)[1]
            keys, values, gone = keys[last], values[last], gone[last]
        return keys, values, gone


class Reading:
    """One table as one request sees it (``features.plan.Table``, without updates)."""

    def __init__(self, rows: Rows, matters: npt.NDArray[np.float64]) -> None:
        self._rows = rows
        self._matters = matters
        self.absent: npt.NDArray[np.bool_] | None = None

    @property
    def values(self) -> Values:
        """All rows."""
        return self._rows.values

    def locate(self, keys: Keys, begin: npt.NDArray[np.bool_]) -> Slots:
        """Row numbers, ``NO_ROW`` for what is not there or forgotten; nothing is begun."""
        slots = self._rows.find(keys)
        _forget(slots, self._rows.values, self._matters)
        if self.absent is None:
            self.absent = slots < 0
        return slots

    def touch(self, slots: Slots) -> None:
        """Serving counts nothing."""


def absent_by_table(tables: Mapping[str, Reading], shown: Sequence[str]) -> dict[str, npt.NDArray[np.bool_]]:
    """Which events had no row, by the tables named in ``shown`` that were read."""
    return {name: mask for name in shown if (mask := tables[name].absent) is not None}


@kernel
def _forget(slots, values, matters):  # type: ignore[no-untyped-def]
    for i in range(len(slots)):
        if slots[i] >= 0 and values[slots[i], SEEN] < matters[i]:
            slots[i] = NO_ROW
