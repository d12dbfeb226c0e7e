"""Failure: a wrong impressions topic makes every action an orphan, and they fill the memory; or the ones that
make room are other ones after a restart, so that the state is no longer that of the events. Required: never
more than the limit, the first to expire go first and are counted, a restart changes nothing.
"""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgspec
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from state.joins.columns import Actions, JoinCounts, Shown
from state.joins.join import Join
from state.joins.orphans import MAX_ORPHANS, Orphans
from state.keys import JoinKeys
from state.store import Batch, Store

TICK, WINDOW, LIMIT = 1000, 1000, 4000
CLICK, CART = 1, 2

Action = tuple[str, int, int]
IDS = st.sampled_from([f"i{n}" for n in range(6)])
STEPS = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.lists(st.tuples(IDS, st.sampled_from([CLICK, CART]), st.integers(0, 999)), max_size=6),
        st.lists(IDS, max_size=2, unique=True),
        st.booleans(),
    ),
    max_size=12,
)


def commit(part: Any, store: Store) -> None:
    batch = Batch()
    part.write(batch)
    store.commit(batch)


def new_join(store: Store, max_orphans: int) -> Join:
    return Join(store, TICK, WINDOW, LIMIT, columns=1, max_orphans=max_orphans)


def show(join: Join, tick: int, ids: list[str]) -> None:
    """Impressions of a tick as the engine adds them."""
    fresh = join.new_rows(ids)
    ids = ids if fresh is None else [ids[i] for i in fresh]
    if not ids:
        return
    n = len(ids)
    row = join.add(
        tick,
        Shown(
            ids,
            np.zeros(n, dtype=np.int64),
            np.ones((n, 1), dtype=np.uint64),
            np.zeros(n, dtype=np.int32),
            np.zeros(n),
            np.zeros(n, dtype=np.int16),
        ),
    )
    join.attach_payload(row, *(np.zeros((n, 1), dtype=np.float32) for _ in range(2)))


def do(join: Join, actions: list[Action], tick: int) -> None:
    join.join(
        Actions(
            [one[0] for one in actions],
            np.array([one[1] for one in actions], dtype=np.uint8),
            np.array([one[2] for one in actions], dtype=np.int64),
            np.zeros(len(actions), dtype=np.int16),
        ),
        tick,
    )


def test_above_the_limit_the_first_to_expire_go_first_and_are_counted(store: Store) -> None:
    join = new_join(store, 3)
    do(join, [("i3", CLICK, 0), ("i2", CLICK, 0), ("i1", CLICK, 0)], 0)
    do(join, [("i4", CLICK, 0), ("i5", CLICK, 0)], 1)
    counts = join.counts
    assert (counts.orphans_waiting, counts.orphans_expired, counts.orphans_shed) == (3, 2, 2)
    waiting = [msgspec.msgpack.decode(one)[0] for one in list(join.state())[:-1]]
    assert waiting == ["i3", "i4", "i5"]


def test_a_tick_that_brings_more_than_the_limit_keeps_the_limit(store: Store) -> None:
    join = new_join(store, 10)
    do(join, [(f"i{n:03}", CLICK, 0) for n in range(100)], 0)
    assert (join.counts.orphans_waiting, join.counts.orphans_shed) == (10, 90)
    join.close(TICK + LIMIT)
    assert (join.counts.orphans_waiting, join.counts.orphans_expired, join.counts.orphans_shed) == (
        0,
        100,
        90,
    )
    commit(join, store)
    assert list(store.scan(b"")) == []


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_a_restart_changes_nothing_of_who_makes_room(store: Store, steps: list[Any]) -> None:
    batch = Batch()
    for key, _ in store.scan(b""):
        batch.delete(key)
    store.commit(batch)
    steady, other = (new_join(store, 3) for _ in range(2))
    tick = arrived = 0
    for gap, actions, shown, restart in steps:
        tick += gap
        for join in (steady, other):
            if (due := join.close(tick * TICK)) is not None:
                join.closed(due)
            show(join, tick, shown)
            do(join, actions, tick)
            assert join.counts.orphans_waiting <= 3
        arrived += len(actions)
        if restart:
            commit(other, store)
            again = new_join(store, 3)
            again.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(other.counts), type=JoinCounts))
            other = again
        assert list(other.state()) == list(steady.state())
    counts = steady.counts
    orphans = counts.orphans_waiting + counts.orphans_expired
    assert orphans + counts.actions + counts.duplicate_actions == arrived
    assert counts.orphans_shed <= counts.orphans_expired


def test_an_orphan_takes_less_than_half_a_kilobyte_and_gives_it_back(store: Store) -> None:
    """Also where they do not expire but find their impression in the next tick, for hours."""
    orphans = Orphans(store, JoinKeys.of(0), limit=20_000)
    tracemalloc.start()
    try:
        begin = tracemalloc.get_traced_memory()[0]
        for number in range(20_000):
            orphans.wait(f"impression-{number:012d}", CLICK, 1_700_000_000_000 + number, 1_700_000_300_000, 7)
        orphans.write(Batch())
        full = tracemalloc.get_traced_memory()[0] - begin
        assert full < 20_000 * 500
        assert MAX_ORPHANS * full / 20_000 < 100_000_000
        for tick in range(200):
            expiry = 1_700_000_300_000 + tick
            ids = [f"other-{tick}-{number}" for number in range(200)]
            for one in ids:
                orphans.wait(one, CLICK, 1_700_000_000_000, expiry, 7)
            taken = orphans.take(ids)
            assert taken is not None and taken.ids == ids and set(taken.partitions.tolist()) == {7}
            del taken
            orphans.write(Batch())
        assert tracemalloc.get_traced_memory()[0] - begin < 1.1 * full
        assert orphans.expire(1_700_000_400_000) == 20_000
        orphans.write(Batch())
        assert tracemalloc.get_traced_memory()[0] - begin < 0.05 * full
    finally:
        tracemalloc.stop()
