"""Failure: what a partition remembers, finds or counts depends on which other partitions are beside it.

Mechanism: the same impressions and actions run through one ``Joins`` for all partitions and through one for
each alone, tick by tick, in any order of partitions. Required: the same content, samples and counts of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.joins.columns import Actions, Closed, Shown
from state.joins.join import CLICK
from state.joins.joins import Joins
from state.store import Batch, Store
from tests.unit.state.joins.ticks import CART, LIMIT, TICK, WINDOW

PARTITIONS = 3
#: (impression, in which partition); its actions come to the same one.
Event = tuple[int, int]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "state") as opened:
        yield opened


def new_joins(store: Store) -> Joins:
    return Joins(store, TICK, WINDOW, LIMIT, columns=1)


def shown_of(tick: int, events: Sequence[Event]) -> Shown:
    """By partition, as a tick has them."""
    events = sorted(events, key=lambda event: event[1])
    numbers = np.array([number for number, _ in events], dtype=np.int64)
    return Shown(
        [f"i{number}" for number in numbers.tolist()],
        numbers * 0 + tick * TICK,
        (numbers + 1).astype(np.uint64).reshape(-1, 1),
        (numbers % 7).astype(np.int32),
        numbers / 8,
        np.array([partition for _, partition in events], dtype=np.int16),
    )


def actions_of(tick: int, events: Sequence[Event]) -> Actions:
    return Actions(
        [f"i{number}" for number, _ in events],
        np.array([CLICK if number % 2 else CART for number, _ in events], dtype=np.uint8),
        np.full(len(events), tick * TICK, dtype=np.int64),
        np.array([partition for _, partition in events], dtype=np.int16),
    )


def run(joins: Joins, tick: int, shown: Sequence[Event], done: Sequence[Event]) -> list[tuple[int, int]]:
    """One tick as the engine runs it; the samples that closed, as (impression, mask)."""
    due = joins.close(tick * TICK)
    closed = samples(joins.closed(due)) if due else []
    some = shown_of(tick, shown)
    fresh = joins.new_rows(some.ids, some.partitions)
    if fresh is not None:
        some = some.rows(fresh)
    added = joins.add(tick, some)
    joined = joins.join(actions_of(tick, done), tick)
    assert [f"i{key - 1}" for key in joined.keys[:, 0].tolist()] == [
        f"i{done[at][0]}" if at >= 0 else f"i{key - 1}"
        for at, key in zip(joined.index.tolist(), joined.keys[:, 0].tolist(), strict=True)
    ]
    numbers = np.array([float(one[1:]) for one in some.ids], dtype=np.float32).reshape(-1, 1)
    joins.attach_payload(added, numbers, numbers)
    return closed


def samples(closed: Closed) -> list[tuple[int, int]]:
    found = list(zip(closed.inputs[:, 0].astype(int).tolist(), closed.masks.tolist(), strict=True))
    assert [f"i{number}" for number, _ in found] == closed.shown.ids
    return found


def checkpoint(joins: Joins, store: Store) -> None:
    batch = Batch()
    joins.write(batch)
    store.commit(batch)


events = st.lists(
    st.tuples(st.integers(0, 12), st.booleans()).map(lambda one: (one[0], one[0] % PARTITIONS, one[1])),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(events, min_size=1, max_size=14), st.data())
def test_a_partition_is_the_same_beside_others_and_alone(
    tmp_path_factory: pytest.TempPathFactory, ticks: list[list[tuple[int, int, bool]]], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("joins")
    stores = [Store(folder / str(k)) for k in range(PARTITIONS + 1)]
    try:
        every, *alone = [new_joins(store) for store in stores]
        learned: dict[int, list[tuple[int, int]]] = {p: [] for p in range(PARTITIONS)}
        for tick, mixed in enumerate(ticks):
            shown = [(n, p) for n, p, is_shown in mixed if is_shown]
            done = [(n, p) for n, p, is_shown in mixed if not is_shown]
            for number, mask in run(every, tick, shown, done):
                learned[number % PARTITIONS].append((number, mask))
            for p, join in enumerate(alone):
                own = run(join, tick, [e for e in shown if e[1] == p], [e for e in done if e[1] == p])
                taken, learned[p] = learned[p][: len(own)], learned[p][len(own) :]
                assert own == taken
            if data.draw(st.booleans()):
                for join, store in zip([every, *alone], stores, strict=True):
                    checkpoint(join, store)
            if data.draw(st.booleans()):
                checkpoint(every, stores[0])
                counts = every.counts_by_partition
                every = new_joins(stores[0])
                every.restore(counts)
        assert not any(learned.values())
        for p, join in enumerate(alone):
            assert list(every.state(p)) == list(join.state(p))
        counted = [join.counts for join in alone]
        total = every.counts
        for name in total.__struct_fields__:
            assert getattr(total, name) == sum(getattr(one, name) for one in counted)
    finally:
        for store in stores:
            store.close()


def test_rows_of_all_partitions_have_numbers_of_their_own(store: Store) -> None:
    joins = new_joins(store)
    some = shown_of(0, [(n, n % PARTITIONS) for n in range(9)])
    added = joins.add(0, some)
    assert len(set(added.rows.tolist())) == 9
    joins.attach_payload(added, np.zeros((9, 1), np.float32), np.zeros((9, 1), np.float32))
    found = joins.join(actions_of(1, [(n, n % PARTITIONS) for n in range(9)]), 1)
    by_id = dict(zip(some.ids, added.rows.tolist(), strict=True))
    assert found.rows.tolist() == [by_id[f"i{key - 1}"] for key in found.keys[:, 0].tolist()]
    assert [p for p, _ in groupby(found.partitions.tolist())] == [0, 1, 2]


def test_an_action_in_another_partition_waits_there(store: Store) -> None:
    """The same id in two partitions is two impressions: their users differ."""
    joins = new_joins(store)
    some = shown_of(0, [(4, 0)])
    joins.attach_payload(joins.add(0, some), np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32))
    assert not len(joins.join(actions_of(0, [(4, 2)]), 0))
    assert joins.counts_by_partition[2].orphans_waiting == 1
    assert joins.new_rows(["i4"], np.array([1], dtype=np.int16)) is None


def test_events_of_a_partition_must_stand_together(store: Store) -> None:
    with pytest.raises(ValueError, match="partition 1 do not stand together"):
        new_joins(store).new_rows(["a", "b", "c"], np.array([1, 0, 1], dtype=np.int16))


def test_files_of_nobody_are_cleaned(store: Store) -> None:
    folder = store.path / "payloads"
    folder.mkdir()
    for name in ("strange.tmp", "000900000000000000", "0003" + "0" * 16, "zz"):
        (folder / name).write_bytes(b"x")
    new_joins(store).restore({})
    assert list(folder.iterdir()) == []
