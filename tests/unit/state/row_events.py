"""Batches of events through every table of a small plan, a reference, and what a topic then holds."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from features.hashing import hash_numbers
from features.plan import SEEN, Layout
from features.row_bytes import unpack
from state.feature_rows import FeatureRows
from state.feature_table import CLOCK_MS
from state.keys import ROWS
from state.store import Batch, Store

FORGET = 100_000
START = 1_700_000_000_000
COUNT = 1
PLAN: Any = SimpleNamespace(
    hash="plan", tables={"user_id": Layout(("user_id",), 2), "item_id": Layout(("item_id",), 3)}
)
KEYS = hash_numbers(np.arange(64))


class Event(NamedTuple):
    """``key``: number of a key, -1 for none. ``begin``: moves its row."""

    key: int
    time: int
    begin: bool = True


def new_rows(store: Store, cached_rows: int = 1000) -> FeatureRows:
    return FeatureRows(store, PLAN, cached_rows, FORGET)


def partition_of(key: int) -> int:
    return key % 3


def run(
    rows: FeatureRows, events: Sequence[Event], now: int = 0, moved: int = 0
) -> dict[str, list[tuple[float, float] | None]]:
    """A batch as a plan runs it over every table: what each event found, read before it is counted.

    ``moved``: users' partitions are other ones by so much.
    """
    numbers = np.array([event.key for event in events], dtype=np.int64)
    keys = np.where(numbers < 0, 0, KEYS[numbers]).astype(np.uint64)
    begin = np.array([event.begin for event in events], dtype=np.bool_)
    partitions = np.array([partition_of(event.key) + moved for event in events], dtype=np.int16)
    rows.begin(partitions, now)
    found: dict[str, list[tuple[float, float] | None]] = {}
    for name, table in rows.tables.items():
        slots = table.locate(keys, begin)
        table.touch(slots[begin & (slots >= 0)])
        seen: list[tuple[float, float] | None] = []
        values = table.values
        for slot, event in zip(slots.tolist(), events, strict=True):
            row = values[slot] if slot >= 0 else None
            seen.append(None if row is None or row[COUNT] == 0 else (row[SEEN], row[COUNT]))
            if row is not None and event.begin:
                row[SEEN] = max(row[SEEN], event.time)
                row[COUNT] += 1
        found[name] = seen
    return found


class Reference:
    def __init__(self) -> None:
        self.rows: dict[int, tuple[float, float]] = {}

    def run(self, events: Sequence[Event], now: int) -> list[tuple[float, float] | None]:
        found = []
        for key, time, begin in events:
            row = self.rows.get(key)
            if row is not None and now // CLOCK_MS * CLOCK_MS - row[SEEN] > FORGET:
                row = None
            found.append(row)
            if begin and key >= 0:
                seen, count = row or (0.0, 0.0)
                self.rows[key] = max(seen, time), count + 1
        return found

    def alive(self, now: int) -> dict[int, tuple[float, float]]:
        minute = now // CLOCK_MS * CLOCK_MS
        return {key: row for key, row in self.rows.items() if minute - row[SEEN] <= FORGET}


def checkpoint(rows: FeatureRows, store: Store) -> int:
    batch = Batch()
    written = rows.write(batch)
    store.commit(batch)
    return written


class Topic:
    """What a compacted topic holds of the published rows: by (table, partition, key), (seen, count)."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int, int], tuple[float, float]] = {}

    def take(self, rows: FeatureRows, acknowledge: bool = True) -> None:
        for one in rows.take_changed():
            places = zip(one.partitions.tolist(), one.keys.tolist(), strict=True)
            values, _ = unpack(one.keys, one.packed, rows.tables[one.table].width)
            for (partition, key), row in zip(places, values.tolist(), strict=True):
                self.rows[one.table, partition, key] = row[SEEN], row[COUNT]
            for partition, key in zip(one.gone_partitions.tolist(), one.gone.tolist(), strict=True):
                assert key not in one.keys.tolist()
                self.rows.pop((one.table, partition, key), None)
        if acknowledge:
            rows.acknowledge(rows.takes)


def on_disk(store: Store) -> int:
    return sum(1 for _ in store.keys(ROWS))


def sweep(rows: FeatureRows, now: int) -> int:
    """Everything that a sweep finds at ``now``."""
    return sum(rows.expire(now) for _ in range(200))


def clear(store: Store) -> None:
    batch = Batch()
    for key in store.keys(b""):
        batch.delete(key)
    store.commit(batch)
