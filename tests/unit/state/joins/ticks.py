"""A join tick by tick, with columns that all follow from an id's number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from contracts.events import ACTIONS
from state.joins.columns import Actions, Closed, JoinCounts, Joined, Shown
from state.joins.join import Join
from state.store import Batch, Store

TICK, WINDOW, LIMIT = 1000, 3000, 6000
CART, FAVOURITE = (1 << ACTIONS.index(name) for name in ("cart", "favourite"))

One = tuple[str, int]
Done = tuple[str, int, int]


def new_join(store: Store, window: int = WINDOW, limit: int = LIMIT) -> Join:
    return Join(store, TICK, window, limit, columns=2)


def checkpoint(join: Join, store: Store) -> None:
    batch = Batch()
    join.write(batch)
    store.commit(batch)


def restarted(join: Join, store: Store) -> Join:
    """What a new process has after the last checkpoint, which is now."""
    checkpoint(join, store)
    again = new_join(store)
    again.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(join.counts), type=JoinCounts))
    return again


def payload(ids: list[str]) -> tuple[Any, Any]:
    """One input and one prediction a row, by which a closed sample can be recognised."""
    numbers = np.array([[number_of(i)] for i in ids], dtype=np.float32)
    return numbers, numbers / 1000


def number_of(impression_id: str) -> float:
    return float(impression_id[1:])


def shown_of(shown: Sequence[One]) -> Shown:
    """Columns that all follow from the id's number."""
    ids = [i for i, _ in shown]
    numbers = np.array([number_of(i) for i in ids])
    return Shown(
        ids,
        np.array([time for _, time in shown], dtype=np.int64),
        np.column_stack([numbers + 1, numbers + 10**18]).astype(np.uint64).reshape(-1, 2),
        (numbers % 7).astype(np.int32),
        numbers / 8,
        (numbers % 5).astype(np.int16),
    )


def actions_of(done: Sequence[Done]) -> Actions:
    ids, bits, times = ([one[k] for one in done] for k in range(3))
    return Actions(
        ids,
        np.array(bits, dtype=np.uint8),
        np.array(times, dtype=np.int64),
        np.array([number_of(i) % 5 for i in ids], dtype=np.int16),
    )


def run(
    join: Join, tick: int, shown: Sequence[One] = (), done: Sequence[Done] = ()
) -> tuple[Closed | None, Joined]:
    """One tick as the engine runs it: close, add what is new, join."""
    closed = closing(join, tick * TICK)
    row, shown = add(join, tick, shown)
    joined = join.join(actions_of(done), tick)
    check(joined, row, shown, done)
    if shown:
        join.attach_payload(row, *payload([i for i, _ in shown]))
    return closed, joined


def closing(join: Join, at: int) -> Closed | None:
    """The samples that close then; their experts have spoken."""
    due = join.close(at)
    return None if due is None else join.closed(due)


def add(join: Join, tick: int, shown: Sequence[One]) -> tuple[int, Sequence[One]]:
    """Remember those that are new; the first one's row, and these."""
    fresh = join.new_rows([i for i, _ in shown])
    if fresh is not None:
        shown = [shown[i] for i in fresh.tolist()]
    return join.add(tick, shown_of(shown)) if shown else 0, shown


def check(joined: Joined, row: int, shown: Sequence[One], done: Sequence[Done]) -> None:
    """Everything that comes with an action is that of its impression. ``shown`` have rows from ``row`` on."""
    ids = items(joined)
    expected = shown_of([(i, 0) for i in ids])
    np.testing.assert_array_equal(joined.keys, expected.keys)
    np.testing.assert_array_equal(joined.places, expected.places)
    np.testing.assert_array_equal(joined.prices, expected.prices)
    np.testing.assert_array_equal(joined.partitions, expected.partitions)
    added = [i for i, _ in shown]
    for i, of in zip(ids, joined.rows.tolist(), strict=True):
        assert of == row + added.index(i) if i in added else of < row or not added
    for k, (i, bit) in enumerate(zip(ids, joined.bits.tolist(), strict=True)):
        if joined.index[k] >= 0:
            assert done[joined.index[k]][:2] == (i, bit)
        else:
            assert i in added


def items(joined: Joined) -> list[str]:
    """Ids of the impressions, by their first key."""
    return [f"i{int(key) - 1}" for key in joined.keys[:, 0]]


def listed(joined: Joined) -> list[tuple[str, int, int]]:
    """(impression id, bit, time)."""
    return list(zip(items(joined), joined.bits.tolist(), joined.times.tolist(), strict=True))


def fresh_rows(join: Join, ids: list[str]) -> list[int]:
    rows = join.new_rows(ids)
    assert rows is not None
    return rows.tolist()


def labels(closed: Closed | None) -> dict[int, float]:
    """Closed samples as number -> label."""
    if closed is None:
        return {}
    assert len(closed.inputs) == len(closed.predictions) == len(closed.masks)
    return dict(zip(closed.inputs[:, 0].astype(int).tolist(), closed.labels.tolist(), strict=True))


def clear(store: Store) -> None:
    batch = Batch()
    for key, _ in store.scan(b""):
        batch.delete(key)
    store.commit(batch)
