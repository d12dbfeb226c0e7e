"""Fails when the counts that an impression sees hold anything that came after it, or when they depend on
where a row lies in memory, on a restart or on an eviction.

The reference sums every earlier event by itself, one power of two each: no tick, no prefix sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from state.errors import StateFormatError
from state.features import RealTimeFeatures
from state.formulas import COUNTS, GLOBAL, GLOBAL_ENTITY, TABLES, FloatArray, unpack_row
from state.store import Batch, Store
from state.tables import DecayedCounts

TICK = 1000
START = 1_700_000_000_000
HALF_LIVES = (0.5, 60.0, 3600.0)
#: Opening a store is slow: examples share one, and each has tables of its own in it.
SHARED_STORE = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NAMES = (f"table{number}" for number in count())
ENTITIES = ("a", "b", "c/d", "日本", "")


class Event(NamedTuple):
    entity: str
    column: int
    time: int


#: tick number -> events; times may lie before the tick (late), never behind it.
Ticks = dict[int, list[Event]]


def ordered(events: Sequence[Event]) -> list[Event]:
    return sorted(events, key=lambda event: event.time)


def observe(table: DecayedCounts, tick: int, events: Sequence[Event]) -> FloatArray:
    """Feed one tick; what was counted before each impression (column 0)."""
    columns = np.array([event.column for event in events], dtype=np.int64)
    return table.observe(
        [event.entity for event in events],
        columns,
        np.array([event.time for event in events], dtype=np.int64),
        (START + tick * TICK, START + (tick + 1) * TICK),
        columns == 0,
    )


def checkpoint(table: DecayedCounts, store: Store) -> int:
    batch = Batch()
    written = table.write(batch)
    store.commit(batch)
    return written


def stored(store: Store, table: str) -> list[tuple[bytes, bytes]]:
    prefix = f"row/{table}/".encode()
    return [(key.removeprefix(prefix), value) for key, value in store.scan(prefix)]


def by_hand(seen: Sequence[Event], entity: str, at: int) -> FloatArray:
    counts = np.zeros((len(COUNTS), len(HALF_LIVES)))
    for event in seen:
        if event.entity == entity:
            counts[event.column] += [2.0 ** -((at - event.time) / (h * 1000.0)) for h in HALF_LIVES]
    return counts


@st.composite
def ticks(draw: st.DrawFn) -> Ticks:
    numbers = draw(st.lists(st.integers(0, 40), min_size=1, max_size=6, unique=True))
    columns = st.integers(0, len(COUNTS) - 1)
    event = st.tuples(st.sampled_from(ENTITIES), columns, st.integers(-3000, TICK - 1))
    drawn: Ticks = {}
    for number in sorted(numbers):
        events = draw(st.lists(event, min_size=1, max_size=12))
        drawn[number] = ordered([Event(e, c, START + number * TICK + at) for e, c, at in events])
    return drawn


@SHARED_STORE
@given(drawn=ticks())
def test_every_impression_sees_exactly_what_came_before_it(store: Store, drawn: Ticks) -> None:
    table = DecayedCounts(next(NAMES), HALF_LIVES, store, 100)
    seen: list[Event] = []
    for number, events in drawn.items():
        got = iter(observe(table, number, events))
        for event in events:
            if event.column == 0:
                # A late event sees the counts of the tick that it came in.
                at = max(event.time, START + number * TICK)
                expected = by_hand(seen, event.entity, at)
                np.testing.assert_allclose(next(got), expected, rtol=1e-9, atol=1e-12)
            seen.append(event)
        assert next(got, None) is None
    checkpoint(table, store)
    rows = {entity: (last, counts) for entity, last, counts in table.rows()}
    assert rows.keys() == {event.entity for event in seen}
    for entity, (last, counts) in rows.items():
        own = max(n for n, events in drawn.items() if any(e.entity == entity for e in events))
        assert last == START + (own + 1) * TICK
        np.testing.assert_allclose(counts, by_hand(seen, entity, last), rtol=1e-9, atol=1e-12)


def test_many_entities_in_one_tick_do_not_disturb_each_other(store: Store) -> None:
    """Prefix sums run over the whole tick: what a group takes from them must be its own."""
    random = np.random.default_rng(0)
    table = DecayedCounts("item", HALF_LIVES, store, 10_000)
    seen: list[Event] = []
    for number in range(3):
        entities, columns = random.zipf(1.3, 3000) % 700, random.integers(0, 3, 3000)
        drawn = zip(entities, columns, random.integers(0, TICK, 3000), strict=True)
        events = ordered([Event(f"i{e}", int(c), START + number * TICK + int(t)) for e, c, t in drawn])
        got = observe(table, number, events)
        shown = [i for i, event in enumerate(events) if event.column == 0]
        for k in range(0, len(shown), 97):
            event = events[shown[k]]
            expected = by_hand([*seen, *events[: shown[k]]], event.entity, event.time)
            np.testing.assert_allclose(got[k], expected, rtol=1e-9, atol=1e-9)
        seen += events


def test_events_at_the_same_time_count_in_the_order_given(store: Store) -> None:
    table = DecayedCounts("item", HALF_LIVES, store, 100)
    first, second, third = observe(
        table, 0, [Event("a", 0, START), Event("a", 0, START), Event("a", 1, START), Event("a", 0, START)]
    )
    assert first[:2, 0].tolist() == [0.0, 0.0]
    assert second[:2, 0].tolist() == pytest.approx([1.0, 0.0])
    assert third[:2, 0].tolist() == pytest.approx([2.0, 1.0])


def test_observe_one_is_observe_with_one_entity(tmp_path: Path) -> None:
    events = [Event(GLOBAL_ENTITY, c, START + 10 * i) for i, c in enumerate([0, 1, 0, 0, 2, 0])]
    with Store(tmp_path / "a") as one, Store(tmp_path / "b") as other:
        many, single = (DecayedCounts(GLOBAL, HALF_LIVES, store, 100) for store in (one, other))
        columns = np.array([event.column for event in events])
        times = np.array([event.time for event in events])
        got = single.observe_one(GLOBAL_ENTITY, columns, times, (START, START + TICK), columns == 0)
        np.testing.assert_array_equal(got, observe(many, 0, events))
        assert dict(single.take_changed()) == dict(many.take_changed())


# -- restarts, evictions, row numbers


@SHARED_STORE
@given(drawn=ticks(), data=st.data())
def test_restarts_and_evictions_change_no_bit(store: Store, drawn: Ticks, data: st.DataObject) -> None:
    """One table lives through; the other is dropped or evicted, and has its rows numbered anew."""
    one, other = next(NAMES), next(NAMES)
    steady = DecayedCounts(one, HALF_LIVES, store, 100)
    moved = DecayedCounts(other, HALF_LIVES, store, 0)
    for number, events in drawn.items():
        np.testing.assert_array_equal(observe(moved, number, events), observe(steady, number, events))
        what = data.draw(st.sampled_from(["nothing", "restart", "evict", "shuffle"]))
        if what == "nothing":
            continue
        checkpoint(moved, store)
        if what == "evict":
            list(moved.take_changed())
            moved.evict()
            assert len(moved) == 0
        else:
            moved = DecayedCounts(other, HALF_LIVES, store, 0)
            if what == "shuffle":
                for entity in data.draw(st.permutations(ENTITIES)):
                    moved.slots([entity])
    checkpoint(steady, store)
    checkpoint(moved, store)
    assert stored(store, one) == stored(store, other)


def test_a_row_that_was_evicted_counts_on_from_the_store(store: Store) -> None:
    table = DecayedCounts("item", HALF_LIVES, store, 0)
    observe(table, 0, [Event("a", 0, START)] * 3)
    checkpoint(table, store)
    list(table.take_changed())
    assert (table.evict(), len(table), table.evicted) == (1, 0, 1)
    (before,) = observe(table, 0, [Event("a", 0, START)])
    assert before[0].tolist() == pytest.approx([3.0, 3.0, 3.0])


@pytest.mark.ordinary_sizes
def test_eviction_keeps_the_rows_that_were_touched_last(store: Store) -> None:
    table = DecayedCounts("item", HALF_LIVES, store, 2)
    for number, entity in enumerate("abca"):
        observe(table, number, [Event(entity, 1, START + number * TICK)])
    checkpoint(table, store)
    list(table.take_changed())
    assert table.evict() == 1
    assert {entity for entity, _ in table.top(1, 10, START)} == {"a", "c"}


@pytest.mark.parametrize("prepare", ["written", "published"])
def test_a_row_is_not_evicted_before_it_is_both_written_and_published(store: Store, prepare: str) -> None:
    table = DecayedCounts("item", HALF_LIVES, store, 0)
    observe(table, 0, [Event("a", 0, START)])
    if prepare == "written":
        checkpoint(table, store)
    else:
        list(table.take_changed())
    assert (table.evict(), len(table)) == (0, 1)


def test_more_rows_than_the_first_arrays_hold(store: Store) -> None:
    table = DecayedCounts("item", HALF_LIVES, store, 500)
    events = [Event(f"i{i}", 0, START) for i in range(5000)]
    observe(table, 0, events)
    assert checkpoint(table, store) == 5000
    list(table.take_changed())
    table.evict()
    assert len(table) <= 500
    got = observe(table, 1, [Event(f"i{i}", 0, START + TICK) for i in range(5000)])
    np.testing.assert_allclose(got[:, 0, 1], 2 ** (-1 / 60))


# -- what is written and what is published


def test_write_adds_each_changed_row_once(store: Store) -> None:
    table = DecayedCounts("item", HALF_LIVES, store, 100)
    observe(table, 0, [Event("a", 0, START), Event("b", 0, START), Event("a", 1, START)])
    assert checkpoint(table, store) == 2
    assert checkpoint(table, store) == 0
    observe(table, 1, [Event("b", 0, START + TICK)])
    assert checkpoint(table, store) == 1


def test_reading_a_row_does_not_change_it(store: Store) -> None:
    table = DecayedCounts("item", HALF_LIVES, store, 100)
    table.slots(["a", "b"])
    assert checkpoint(table, store) == 0
    assert list(table.take_changed()) == []


def test_take_changed_yields_the_rows_as_they_are_written(store: Store) -> None:
    table = DecayedCounts("user", HALF_LIVES, store, 100)
    observe(table, 0, [Event("a/b", 0, START), Event("ü", 2, START + 500)])
    taken = dict(table.take_changed())
    checkpoint(table, store)
    assert taken == {"a/b": store.get(b"row/user/a/b"), "ü": store.get("row/user/ü".encode())}
    last, counts = unpack_row(taken["ü"], len(HALF_LIVES))
    assert last == START + TICK
    assert counts[2, 0] == pytest.approx(0.5)
    assert list(table.take_changed()) == []


def test_writing_and_publishing_do_not_know_of_each_other(store: Store) -> None:
    table = DecayedCounts("item", HALF_LIVES, store, 100)
    observe(table, 0, [Event("a", 0, START)])
    checkpoint(table, store)
    assert [entity for entity, _ in table.take_changed()] == ["a"]
    observe(table, 1, [Event("a", 0, START + TICK)])
    list(table.take_changed())
    assert checkpoint(table, store) == 1


# -- the hottest rows


def test_top_ranks_by_what_is_left_at_the_shortest_half_life(store: Store) -> None:
    table = DecayedCounts("item", HALF_LIVES, store, 100)
    observe(table, 0, [Event("old", 1, START)] * 8 + [Event("shown", 0, START)] * 9)
    observe(table, 10, [Event("new", 1, START + 10 * TICK)] * 2)
    ranked = table.top(1, 10, START + 11 * TICK)
    assert [entity for entity, _ in ranked] == ["new", "old"]
    assert ranked[0][1][1, 0] == pytest.approx(2 * 0.25)
    assert ranked[1][1][1, 1] == pytest.approx(8 * 2 ** (-11 / 60))
    assert [entity for entity, _ in table.top(0, 1, START)] == ["shown"]
    assert table.top(2, 5, START) == []


@SHARED_STORE
@given(clicks=st.lists(st.integers(0, 30), min_size=1, max_size=20), n=st.integers(1, 25))
def test_top_is_the_head_of_the_sorted_table(store: Store, clicks: list[int], n: int) -> None:
    table = DecayedCounts(next(NAMES), HALF_LIVES, store, 100)
    events = [Event(f"i{i}", 1, START) for i, count in enumerate(clicks) for _ in range(count)]
    if events:
        observe(table, 0, events)
    got = [round(row[1, 2] / 2 ** (-1 / 3600)) for _, row in table.top(1, n, START + TICK)]
    assert got == sorted((c for c in clicks if c), reverse=True)[:n]


# -- all tables together


def test_tables_do_not_share_rows(store: Store) -> None:
    """The same id as item, user, category and position is four rows."""
    rt = RealTimeFeatures(store, HALF_LIVES, 20.0, 100)
    columns = np.array([0, 1])
    times = np.array([START, START + 1])
    rt.observe(
        {table: ["x", "x"] for table in TABLES}, columns, times, np.array([3.0]), (START, START + TICK)
    )
    assert {(name, entity) for name, entity, _ in rt.take_changed()} == {
        *((name, "x") for name in TABLES),
        (GLOBAL, GLOBAL_ENTITY),
    }
    batch = Batch()
    assert rt.write(batch) == 5
    store.commit(batch)
    for name, table in rt.tables.items():
        assert [entity for entity, _, _ in table.rows()] == [GLOBAL_ENTITY if name == GLOBAL else "x"]


def test_features_come_one_row_an_impression_in_the_order_given(store: Store) -> None:
    rt = RealTimeFeatures(store, HALF_LIVES, 20.0, 100)
    columns = np.array([0, 1, 0])
    times = np.array([START, START + 1, START + 2])
    entities = {table: ["x", "x", "x"] for table in TABLES} | {"user": ["u", "u", "v"]}
    values = rt.observe(entities, columns, times, np.array([0.0, 9.0]), (START, START + TICK))
    column = rt.names.index
    assert values.shape == (2, len(rt.names))
    assert not values[0].any()
    assert values[1, column("item_ctr_60s")] > 0.0
    assert values[1, column("user_ctr_60s")] == pytest.approx(0.0, abs=1e-6)
    assert values[1, column("log_price")] == pytest.approx(np.log(10.0) / 10.0)


@pytest.mark.parametrize("others", [[60.0], [60.0, 600.0, 3600.0], [600.0, 60.0]])
def test_state_with_other_half_lives_is_refused_with_both(store: Store, others: list[float]) -> None:
    batch = Batch()
    RealTimeFeatures(store, [60.0, 600.0], 20.0, 100).write(batch)
    store.commit(batch)
    RealTimeFeatures(store, [60.0, 600.0], 5.0, 100)
    with pytest.raises(StateFormatError) as error:
        RealTimeFeatures(store, others, 20.0, 100)
    message = str(error.value)
    assert "features.half_lives_s = [60,600]" in message
    assert f"[{','.join(f'{h:g}' for h in others)}]" in message
    assert "new state folder" in message


def test_evict_covers_every_table(store: Store) -> None:
    rt = RealTimeFeatures(store, HALF_LIVES, 20.0, 0)
    tick = (START, START + TICK)
    rt.observe({table: ["x"] for table in TABLES}, np.array([0]), np.array([START]), np.zeros(1), tick)
    batch = Batch()
    rt.write(batch)
    store.commit(batch)
    list(rt.take_changed())
    assert rt.evict() == 5
