"""The sides of the state figure, each in a process of its own: ``python -m bench._state_sides SIDE ROWS``.

A side prints one JSON object. The rows are those of one table of 21 numbers, keyed by users, as the
engine's default features have them; what a plan computes is not part of it.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil

from bench._registry import Result
from features.families.counts import Counts
from features.hashing import Keys, hash_numbers
from features.plan import SEEN, Plan
from features.row_bytes import pack
from features.scope import Scope, kinds_of
from state.feature_rows import FeatureRows
from state.keys import ROWS
from state.memory import FreedMemory
from state.row_keys import row_keys
from state.store import Batch, Store

START = 1_700_000_000_000
TICK_ROWS = 20_000
PARTITIONS = 12
#: Rows in memory, as ``features.cached_rows`` sets them.
CACHED_ROWS = 500_000
FOREVER_MS = 10**15
NIGHT_MS, STEP_MS, FORGET_MS = 12 * 3_600_000, 60_000, 3_600_000
#: A worker looks for what is to be forgotten every second; a step of the night is a minute.
LOOKS = 3


def plan() -> Plan:
    """Decayed counts of six kinds of events at three half-lives for each user: 21 numbers a row."""
    actions = ("click", "cart", "favourite", "purchase", "refund")
    counts = Counts(
        keys=("user_id",),
        half_lives_s=(60.0, 3600.0, 86_400.0),
        rates=("click/impression",),
        volumes=("impression", *actions),
    )
    scope = Scope(kinds_of(actions, ()), actions, gap_s=1800.0, smoothing=20.0, sale_starts_at=None)
    return Plan([("features.counts", counts)], scope)


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="surgeline-bench-") as name:
        yield Path(name) / "state"


def resident() -> int:
    """Bytes of this process in memory, without what is garbage or free."""
    gc.collect()
    FreedMemory().follow()
    return int(psutil.Process().memory_info().rss)


def on_disk(path: Path) -> int:
    """Bytes of a folder's files."""
    found = 0
    for file in path.iterdir():
        # RocksDB deletes files while this looks.
        with suppress(FileNotFoundError):
            found += file.stat().st_size
    return found


class Users:
    """A worker's rows of users, and how it moves them."""

    def __init__(self, store: Store, forget_ms: int = FOREVER_MS) -> None:
        self.rows = FeatureRows(store, plan(), CACHED_ROWS, forget_ms)
        self.table = self.rows.tables["user_id"]
        self._store = store
        self._random = np.random.default_rng(0)

    def move(self, numbers: npt.NDArray[np.int64], now: int) -> Keys:
        """A tick in which these users did something. Returns their keys."""
        keys = hash_numbers(numbers)
        self.rows.begin((numbers % PARTITIONS).astype(np.int16), now)
        slots = self.table.locate(keys, np.ones(len(keys), dtype=np.bool_))
        self.table.touch(slots)
        self.table.values[slots] = self._random.random((len(keys), self.table.width))
        self.table.values[slots, SEEN] = now
        return keys

    def written(self) -> int:
        """A checkpoint, everything published. Returns rows."""
        batch = Batch()
        self.rows.take_changed()
        self.rows.acknowledge(self.rows.takes)
        count = self.rows.write(batch)
        self._store.commit(batch)
        self.rows.evict()
        return count


def write(rows: int) -> Result:
    """CPU of a row's way to disk, a tick's rows a batch, and of a bare WriteBatch with the same bytes."""
    kept: list[list[tuple[bytes, bytes]]] = []
    random = np.random.default_rng(1)
    ticks = [random.permutation(rows)[:TICK_ROWS].astype(np.int64) for _ in range(max(rows // TICK_ROWS, 2))]
    with folder() as path, Store(path) as store:
        users = Users(store)
        users.move(ticks[0], START)
        users.written()
        spent, count = 0.0, 0
        for number, numbers in enumerate(ticks):
            keys = users.move(numbers, START + number)
            begin = time.process_time()
            batch = Batch()
            count += users.rows.write(batch)
            store.commit(batch)
            spent += time.process_time() - begin
            values = users.table.values[users.table.locate(keys, np.ones(len(keys), dtype=np.bool_))]
            stored = row_keys(0, (numbers % PARTITIONS).astype(np.int16), keys)
            kept.append(list(zip(stored, pack(keys, values, START + number), strict=True)))
        width, size = users.table.width, len(kept[0][0][0]) + len(kept[0][0][1])
    return {
        "us_per_row": 1e6 * spent / count,
        "bare_us_per_row": _bare(kept) / count * 1e6,
        "bare_sorted_us_per_row": _bare([sorted(part) for part in kept]) / count * 1e6,
        "numbers": width,
        "bytes": size,
    }


def _bare(parts: list[list[tuple[bytes, bytes]]]) -> float:
    """CPU seconds of putting and writing nothing but these bytes."""
    with folder() as path, Store(path) as store:
        begin = time.process_time()
        for part in parts:
            batch = Batch()
            for key, row in part:
                batch.put(key, row)
            store.commit(batch)
        return time.process_time() - begin


def keys(rows: int) -> Result:
    """Many keys, each seen once, more than memory may hold: memory, CPU, and how long a restart takes."""
    with folder() as path:
        with Store(path) as store:
            users = Users(store)
            before, peak = resident(), 0
            # Arrays have room for rows to come: what a row takes is seen when they are full, and what it
            # takes at most when they have just grown. Right after rows were dropped it is neither.
            each: list[float] = []
            begin = time.process_time()
            for first in range(0, rows, TICK_ROWS):
                users.move(np.arange(first, min(first + TICK_ROWS, rows)), START + first)
                if len(users.rows) >= min(CACHED_ROWS, rows) // 2:
                    each.append((users.rows.nbytes - users.table.filter_bytes) / len(users.rows))
                users.written()
                peak = max(peak, psutil.Process().memory_info().rss)
            spent = time.process_time() - begin
            held, filtered = len(users.rows), users.table.filter_bytes
            begin = time.process_time()
            users.move(np.random.default_rng(2).integers(0, rows, TICK_ROWS), START + rows)
            loaded = time.process_time() - begin
        begin = time.perf_counter()
        with Store(path) as store:
            again = Users(store)
            restart = time.perf_counter() - begin
            assert not len(again.rows)
        return {
            "rows": rows,
            "rows_in_memory": held,
            "bytes_per_row": min(each),
            "most_bytes_per_row": max(each),
            "filter_bytes_per_key": filtered / rows,
            "peak_bytes": peak - before,
            "us_per_row": 1e6 * spent / rows,
            "loaded_us_per_row": 1e6 * loaded / TICK_ROWS,
            "disk_bytes_per_row": on_disk(path) / rows,
            "restart_s": restart,
        }


def night(rows: int) -> Result:
    """Half a night of passing users, each seen once, half of almost nobody: disk and topic, most and last."""
    steps = NIGHT_MS // STEP_MS
    each = 2 * rows // steps
    with folder() as path, Store(path) as store:
        users = Users(store, FORGET_MS)
        most_disk = most_topic = 0
        #: Keys whose newest record in the topic is a row.
        topic: set[int] = set()
        for step in range(steps):
            now = START + step * STEP_MS
            first = step * each if step < steps // 2 else 0
            users.move(np.arange(first, first + (each if step < steps // 2 else 10)), now)
            for _ in range(LOOKS):
                users.rows.expire(now)
            for changed in users.rows.take_changed():
                topic.update(changed.keys.tolist())
                topic.difference_update(changed.gone.tolist())
            users.rows.acknowledge(users.rows.takes)
            users.written()
            most_topic, most_disk = max(most_topic, len(topic)), max(most_disk, on_disk(path))
        return {
            "rows": steps // 2 * each,
            "forgotten": users.rows.forgotten,
            "peak_disk_bytes": most_disk,
            "disk_bytes": on_disk(path),
            "peak_topic_rows": most_topic,
            "topic_rows": len(topic),
            "rows_on_disk": sum(1 for _ in store.keys(ROWS)),
        }


SIDES = {"write": write, "keys": keys, "night": night}


def main(side: str, rows: str) -> None:
    """Measure one side and print it."""
    result = SIDES[side](int(rows))
    print(json.dumps(result))
    sys.stdout.flush()
    # Nothing is gained by tearing a large process down bit by bit.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
