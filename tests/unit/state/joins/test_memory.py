"""Failure: after a burst a worker holds the memory of its peak for ever. Mechanism: arrays and tables keep
the room of their best days, and what is remembered of every impression stays in memory for the whole join
limit. Required: a closed impression costs few bytes, and after the burst and the join limit memory is near
what it was. Bounds are generous: bytes, never times.
"""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from state.joins.columns import Actions, Shown
from state.joins.join import Join
from state.store import Batch, Store

#: All of it is about how much memory ordinary sizes take.
pytestmark = pytest.mark.ordinary_sizes

TICK, WINDOW, LIMIT = 1000, 3000, 30_000
NO_ACTIONS = Actions(
    [], np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int16)
)


def tick(join: Join, store: Store, number: int, rows: int) -> None:
    """One tick with ``rows`` new impressions, and its checkpoint."""
    due = join.close(number * TICK)
    if due is not None:
        join.closed(due)
    if rows:
        ids = [f"impression-{number:05d}-{i:08d}" for i in range(rows)]
        assert join.new_rows(ids) is None
        numbers = np.arange(rows)
        row = join.add(
            number,
            Shown(
                ids,
                np.full(rows, number * TICK, dtype=np.int64),
                np.column_stack([numbers % 1000, numbers % 100, numbers % 10]).astype(np.uint64),
                (numbers % 20).astype(np.int32),
                np.ones(rows),
                np.zeros(rows, dtype=np.int16),
            ),
        )
        inputs, predictions = np.zeros((rows, 20), dtype=np.float32), np.zeros((rows, 3), dtype=np.float32)
        join.attach_payload(row, inputs, predictions)
    join.join(NO_ACTIONS, number)
    batch = Batch()
    join.write(batch)
    store.commit(batch)


def known_again(join: Join, number: int) -> None:
    fresh = join.new_rows([f"impression-{number:05d}-{i:08d}" for i in range(5_000)])
    assert fresh is not None and len(fresh) == 0


def test_a_closed_impression_takes_a_few_bytes_and_a_forgotten_one_none(store: Store) -> None:
    join = Join(store, TICK, WINDOW, LIMIT, columns=3)
    tracemalloc.start()
    try:
        tick(join, store, 0, 10)
        begin = tracemalloc.get_traced_memory()[0]
        for number in range(1, 11):
            tick(join, store, number, 5_000)
        assert tracemalloc.get_traced_memory()[0] - begin > 4_000_000, "open impressions are in memory"
        for number in range(11, 16):
            tick(join, store, number, 0)
        assert (len(join), join.rows_in_memory) == (50_010, 0)
        assert tracemalloc.get_traced_memory()[0] - begin < 50_000 * 20
        # Every impression is still known, and what was read back for that does not stay.
        for number in range(1, 11):
            known_again(join, number)
        assert tracemalloc.get_traced_memory()[0] - begin < 50_000 * 20 + 10_000_000
        for number in range(16, 45):
            tick(join, store, number, 0)
        assert len(join) == 0
        assert tracemalloc.get_traced_memory()[0] - begin < 200_000
    finally:
        tracemalloc.stop()


def test_a_backlog_that_no_checkpoint_meets_gives_its_dictionary_back(store: Store) -> None:
    join = Join(store, TICK, WINDOW, LIMIT, columns=3)
    tracemalloc.start()
    try:
        begin = tracemalloc.get_traced_memory()[0]
        tick(join, store, 0, 50_000)
        full = tracemalloc.get_traced_memory()[0] - begin
        for number in range(1, 60):
            tick(join, store, number, 10)
        assert join.rows_in_memory < 100
        assert tracemalloc.get_traced_memory()[0] - begin < full / 20
    finally:
        tracemalloc.stop()
