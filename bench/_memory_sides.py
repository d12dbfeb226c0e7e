"""The sides of the memory figure, each in a process of its own: ``python -m bench._memory_sides SIDE ROWS``.

A side prints one JSON object. Sides that write nothing to RocksDB are measured by the process's resident
memory, which is what a machine pays; the remembered impressions, which RocksDB's own buffers would hide, by
``tracemalloc``, which sees the memory of Python and numpy alone.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import psutil

from bench._registry import Result
from contracts.events import ACTIONS, Impression
from contracts.scenario import Scenario
from features.declared import plan_from
from features.hashing import Keys, hash_numbers
from features.row_bytes import pack
from features.topic import OF_PARTITION, row_names, row_prefix
from models.deep.trunk import Trunk
from serving.feature_view import FeatureView
from state.feature_table import FeatureTable, Moment
from state.joins.join import Join
from state.joins.orphans import MAX_ORPHANS, Orphans
from state.keys import JOIN_SHOWN, ROWS, JoinKeys
from state.memory import FreedMemory
from state.store import Batch, Store
from stream.columns import shown_columns
from stream.decode import Decoder, Record
from stream.engine import Engine
from stream.event_columns import Columns, layouts
from stream.timeline import Position, Source, Timeline

START = 1_700_000_000_000
TICK_MS, WINDOW_MS, LIMIT_MS = 1_000, 5_000, 300_000
PLAN = plan_from({}, ACTIONS)
LAYOUTS = layouts(PLAN)
DECODER = Decoder(LAYOUTS[0], 0)
#: Columns of what the experts see (hidden units and real-time features), and how many experts there are.
INPUTS, EXPERTS = 32 + len(PLAN.names), 4
#: The table whose rows are measured.
USERS = "user_id"
DAY_MS = 86_400_000


def json_impressions(first: int, rows: int) -> list[bytes]:
    """Impressions as they stand in Kafka."""
    return [
        b'{"impression_id":"impression-%012d","event_time":%d,"user_id":"user-%07d","item_id":"item-%06d",'
        b'"category_id":"c%02d","position":%d,"price":9.5}'
        % (n, START + n, n * 7919 % 1_000_000, n * 104_729 % 200_000, n % 100, n % 20)
        for n in range(first, first + rows)
    ]


def impressions(first: int, rows: int) -> tuple[Columns, npt.NDArray[np.int64]]:
    """Decoded from JSON as the worker does it, and their times."""
    records = [Record(first + n, None, value) for n, value in enumerate(json_impressions(first, rows))]
    decoded = DECODER.decode(records, np.arange(rows), 2**60)
    return decoded.events, decoded.times


def resident() -> int:
    """Bytes of this process in memory, without what is garbage or free."""
    gc.collect()
    FreedMemory().follow()
    return int(psutil.Process().memory_info().rss)


@contextmanager
def store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory(prefix="surgeline-bench-") as name, Store(Path(name) / "state") as made:
        yield made


def join_of(where: Store) -> Join:
    return Join(where, TICK_MS, WINDOW_MS, LIMIT_MS, len(PLAN.remembered))


def show(join: Join, tick: int, first: int, rows: int) -> None:
    """A tick's impressions as the engine adds them."""
    events, times = impressions(first, rows)
    ids = events.ids.tolist()
    join.new_rows(ids)
    shown = shown_columns(ids, events, times, np.zeros(rows, dtype=np.int16), len(PLAN.remembered))
    row = join.add(tick, shown)
    inputs = np.zeros((rows, INPUTS), dtype=np.float32)
    join.attach_payload(row, inputs, np.zeros((rows, EXPERTS), dtype=np.float32))


def close(join: Join, boundary_ms: int) -> None:
    """Take the samples that close, as the engine does before it learns them."""
    due = join.close(boundary_ms)
    if due is not None:
        join.closed(due)


def written(join: Join, where: Store) -> None:
    batch = Batch()
    join.write(batch)
    where.commit(batch)


def base(_rows: int) -> Result:
    """A worker's modules and an engine over an empty state; the default learners without a trunk."""
    import stream.app  # noqa: F401  (what the worker's process loads)

    with store() as where:
        engine = Engine(Scenario(), where, Trunk.empty())
        engine.checkpoint()
        return {"bytes": resident()}


def opened(rows: int) -> Result:
    """Impressions whose label is open."""
    with store() as where:
        join = join_of(where)
        before = resident()
        for tick in range(5):
            show(join, tick, tick * rows // 5, rows // 5)
        return {"bytes_per_row": (resident() - before) / rows}


def remembered(rows: int) -> Result:
    """Impressions of the join limit that are closed and on disk, and what RocksDB holds of them."""
    with store() as where:
        join = join_of(where)
        show(join, 0, 10**9, 100)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        ticks = 200
        for tick in range(ticks):
            close(join, tick * TICK_MS)
            show(join, tick, tick * rows // ticks, rows // ticks)
            written(join, where)
        close(join, ticks * TICK_MS + WINDOW_MS)
        written(join, where)
        assert join.rows_in_memory == 0 and len(join) == rows + 100
        gc.collect()
        traced = tracemalloc.get_traced_memory()[0] - before
        on_disk = sum(len(key) + len(value) for key, value in where.scan(JOIN_SHOWN))
        return {"bytes_per_row": traced / rows, "disk_bytes_per_row": on_disk / rows}


def plain(rows: int) -> Result:
    """The peer: a dictionary from the impression's id to the decoded struct, and nothing else."""
    before = resident()
    decode = msgspec.json.Decoder(Impression).decode
    kept = {event.impression_id: event for event in map(decode, json_impressions(0, rows))}
    return {"bytes_per_row": (resident() - before) / len(kept)}


def orphans(rows: int) -> Result:
    """Actions that wait for their impression."""
    with store() as where:
        waiting = Orphans(where, JoinKeys.of(0), limit=rows)
        before = resident()
        for n in range(rows):
            waiting.wait(f"impression-{n:012d}", 1, START + n, START + LIMIT_MS + n // 1000 * TICK_MS, 0)
        waiting.write(Batch())
        return {"bytes_per_row": (resident() - before) / rows, "limit": MAX_ORPHANS}


def features(rows: int) -> Result:
    """Rows of one table in a worker's memory, and on disk."""
    with store() as where:
        number = list(PLAN.tables).index(USERS)
        table = FeatureTable(USERS, number, PLAN.tables[USERS], where, DAY_MS)
        before = resident()
        for keys in chunks(rows, 5_000):
            begin = np.ones(len(keys), dtype=np.bool_)
            table.moment = Moment(1, np.zeros(len(keys), dtype=np.int16), START)
            slots = table.locate(keys, begin)
            table.values[slots] = some_values(len(keys))
            table.touch(slots)
        bytes_per_row = (resident() - before) / rows
        batch = Batch()
        table.write(batch)
        where.commit(batch)
        on_disk = sum(len(key) + len(value) for key, value in where.scan(ROWS))
        return {"bytes_per_row": bytes_per_row, "disk_bytes_per_row": on_disk / rows}


def chunks(rows: int, size: int) -> Iterator[Keys]:
    """Different keys."""
    for begin in range(0, rows, size):
        yield hash_numbers(np.arange(begin, min(begin + size, rows)))


def some_values(rows: int) -> Any:
    """Values of rows whose newest event is now."""
    values = np.ones((rows, PLAN.tables[USERS].width))
    values[:, 0] = START
    return values


def named(keys: Keys) -> list[tuple[bytes, bytes]]:
    """Rows as they stand in the topic."""
    names = row_names(row_prefix(OF_PARTITION, 0, USERS), keys)
    return list(zip(names, pack(keys, some_values(len(keys)), START), strict=True))


def served(rows: int) -> Result:
    """Feature rows of one worker in serving's memory."""
    view = FeatureView(PLAN, 7 * DAY_MS, capacity=10 * rows)
    before = resident()
    for keys in chunks(rows, 1_000):
        view.apply(named(keys))
    return {"bytes_per_row": (resident() - before) / rows}


def unsent(rows: int) -> Result:
    """Feature rows that wait for a broker that takes none, as the runtime keeps them."""
    before = resident()
    kept = {name: row for keys in chunks(rows, 1_000) for name, row in named(keys)}
    return {"bytes_per_row": (resident() - before) / len(kept)}


def buffered(rows: int) -> Result:
    """Decoded events that wait for the watermark."""
    timeline, source = Timeline(1_000, 5.0, LAYOUTS, 300_000, TICK_MS), Source(0, 0)
    timeline.assign(source, Position(end=0, open_ranges=[], newest=-(2**62), promised=-(2**62)), 0.0)
    before = resident()
    for begin in range(0, rows, 500):
        events, times = impressions(begin, 500)
        timeline.put(source, begin + 500, events, times, np.arange(begin, begin + 500), 0.0, 2**60)
    return {"bytes_per_row": (resident() - before) / timeline.buffered}


def burst(rows: int) -> Result:
    """Resident memory before a burst, at its peak, and once it is over and forgotten."""
    freed = FreedMemory()
    with store() as where:
        join = join_of(where)
        before, peak, shown = 0, 0, 0
        for tick in range(400):
            close(join, tick * TICK_MS)
            some = rows // 20 if 60 <= tick < 80 else 500
            show(join, tick, shown, some)
            shown += some
            written(join, where)
            freed.follow(float(tick))
            now = psutil.Process().memory_info().rss
            before = now if tick == 59 else before
            peak = max(peak, now)
        return {"before": before, "peak": peak, "after": psutil.Process().memory_info().rss}


SIDES: dict[str, Callable[[int], Result]] = {
    "base": base,
    "open": opened,
    "remembered": remembered,
    "plain": plain,
    "orphans": orphans,
    "features": features,
    "served": served,
    "unsent": unsent,
    "buffered": buffered,
    "burst": burst,
}


def main(side: str, rows: str) -> None:
    """Measure one side and print it."""
    # A worker's collector runs seldom; what it has not seen yet is not what this figure is about.
    gc.set_threshold(100_000, 50, 1000)
    result: dict[str, Any] = SIDES[side](int(rows))
    print(json.dumps(result))
    sys.stdout.flush()
    # Nothing is gained by tearing a large process down bit by bit.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
