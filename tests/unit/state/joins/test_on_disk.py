"""Fails when a join is not what it was after a restart, finds what has left memory less well, or takes up a
damaged one.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path

import msgspec
import pytest

from state.errors import StateFormatError
from state.joins.columns import JoinCounts
from state.joins.join import CLICK, Join
from state.joins.segments import BLOCK_ROWS
from state.keys import JOIN_MASKS, JOIN_SHOWN
from state.store import Batch, Store
from tests.unit.state.joins.ticks import (
    CART,
    LIMIT,
    TICK,
    WINDOW,
    actions_of,
    checkpoint,
    clear,
    closing,
    fresh_rows,
    items,
    listed,
    new_join,
    restarted,
    run,
)

# -- checkpoints


def test_a_restart_after_everything_is_forgotten_numbers_on(store: Store) -> None:
    """Fails when the next number is taken from the last segment that is left: there may be none."""
    join = new_join(store)
    run(join, 0, [("i1", 0), ("i2", 1)])
    join.close(1000 + LIMIT)
    again = restarted(join, store)
    for one in (join, again):
        run(one, 9, [("i3", 9000)])
    assert list(again.state()) == list(join.state())


def test_nothing_stays_on_disk_once_everything_is_forgotten(store: Store) -> None:
    join = new_join(store)
    run(join, 0, [("i1", 0)], [("i1", CLICK, 1), ("i9", CLICK, 1)])
    checkpoint(join, store)
    assert list(store.scan(b""))
    join.close(4000)
    checkpoint(join, store)
    join.close(1000 + LIMIT)
    checkpoint(join, store)
    assert list(store.scan(b"")) == []


def test_a_segment_that_closed_between_two_checkpoints_is_closed_after_a_restart(store: Store) -> None:
    join = new_join(store)
    run(join, 0, [("i1", 0)], [("i1", CLICK, 1)])
    join.close(4000)
    again = restarted(join, store)
    assert again.next_close() is None
    assert len(again) == 1
    assert again.counts.samples == 1


def test_what_a_checkpoint_does_not_hold_is_gone_after_a_restart(store: Store) -> None:
    join = new_join(store)
    run(join, 0, [("i1", 0)])
    checkpoint(join, store)
    before = list(join.state())
    counts = msgspec.msgpack.encode(join.counts)
    run(join, 1, [("i2", 1000)], [("i1", CLICK, 1), ("i9", CLICK, 1)])
    again = new_join(store)
    again.restore(msgspec.msgpack.decode(counts, type=JoinCounts))
    assert list(again.state()) == before


def test_segments_without_masks_are_refused(store: Store) -> None:
    join = new_join(store)
    run(join, 0, [("i1", 0)])
    checkpoint(join, store)
    batch = Batch()
    for key, _ in store.scan(JOIN_MASKS):
        batch.delete(key)
    store.commit(batch)
    with pytest.raises(StateFormatError, match=str(Path(store.path).name)):
        new_join(store).restore(JoinCounts())


# -- spilled to disk


def spilled(store: Store, rows: int, limit: int = LIMIT) -> Join:
    """A join whose ``rows`` impressions of tick 0 are closed and on disk."""
    join = new_join(store, limit=limit)
    run(join, 0, [(f"i{n}", n) for n in range(rows)])
    checkpoint(join, store)
    closing(join, 1000 + WINDOW)
    checkpoint(join, store)
    assert join.rows_in_memory == 0
    return join


def test_an_impression_leaves_memory_when_its_label_is_closed_and_it_is_on_disk(store: Store) -> None:
    """Failure: a worker's memory grows with the join limit, 500 bytes an impression. Required: only open
    impressions, and those that no checkpoint holds yet, are in memory; the others are found all the same."""
    join = new_join(store)
    run(join, 0, [("i1", 1), ("i2", 2)])
    join.close(1000 + WINDOW)
    assert (join.rows_in_memory, len(join)) == (2, 2)
    run(join, 4, [("i3", 4000)])
    checkpoint(join, store)
    join.close(5000)
    assert (join.rows_in_memory, len(join)) == (1, 3)
    _, joined = run(join, 5, [("i2", 5000)], [("i1", CART, 0), ("i1", CART, 9), ("i7", CLICK, 5001)])
    assert listed(joined) == [("i1", CART, 1)]
    counts = join.counts
    assert (counts.duplicate_impressions, counts.duplicate_actions, counts.actions_after_label) == (1, 1, 1)
    again = restarted(join, store)
    assert (again.rows_in_memory, len(again)) == (1, 3)
    _, joined = run(again, 6, (), [("i1", CART, 6000), ("i2", CLICK, 6000)])
    assert items(joined) == ["i2"]


@pytest.mark.ordinary_sizes
@pytest.mark.parametrize("rows", [BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1, 5 * BLOCK_ROWS])
def test_every_row_of_every_block_is_found_again(store: Store, rows: int) -> None:
    join = spilled(store, rows)
    before = list(join.state())
    for one in (join, restarted(join, store)):
        assert list(one.state()) == before
        assert fresh_rows(one, [f"i{n}" for n in range(rows + 1)]) == [rows]
        _, joined = run(one, 4, (), [(f"i{n}", CLICK, 0) for n in range(rows)])
        assert items(joined) == [f"i{n}" for n in range(rows)]
        assert joined.times.tolist() == list(range(rows))


@pytest.mark.ordinary_sizes
def test_a_block_that_is_gone_is_said_and_not_taken_for_an_unknown_impression(store: Store) -> None:
    join = spilled(store, 2)
    clear(store)
    with pytest.raises(StateFormatError, match="impression 0 of the join is gone"):
        join.join(actions_of([("i1", CLICK, 0)]), 4)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_a_segment_that_is_short_of_a_block_is_refused(store: Store, blocks: int) -> None:
    counts = spilled(store, blocks * BLOCK_ROWS).counts
    for gone in [key for key, _ in store.scan(JOIN_SHOWN)]:
        kept = dict(store.scan(JOIN_SHOWN))
        batch = Batch()
        batch.delete(gone)
        store.commit(batch)
        with pytest.raises(StateFormatError, match="of the join"):
            new_join(store).restore(counts)
        batch = Batch()
        batch.put(gone, kept[gone])
        store.commit(batch)
    new_join(store).restore(counts)


def test_many_segments_find_the_right_row(store: Store) -> None:
    """Rows are numbered across segments; a search that is off by one finds a neighbour's item."""
    join = new_join(store, window=1000, limit=1_000_000)
    numbers = count()
    ids = [[f"i{next(numbers)}" for _ in range(size)] for size in (1, 3, 1, 5, 2)]
    for tick, names in enumerate(ids):
        run(join, tick, [(name, tick * TICK) for name in names])
    flat = [name for names in ids for name in names]
    _, joined = run(join, 9, (), [(name, CLICK, 9000) for name in reversed(flat)])
    assert items(joined) == list(reversed(flat))
