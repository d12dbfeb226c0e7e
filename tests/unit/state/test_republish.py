"""Failure: no state with many changed rows starts again, or what it publishes again after a restart is
incomplete, older than what stands in the topic, or all in memory at once.

Mechanism: rows that changed after the last publishing are read from the store while ticks go on, which
begin, change and evict rows between two parts. Required: every such row is published, the newest numbers of
each last; none becomes resident by it; until all are out, the rows say that they are not done.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.hashing import hash_numbers
from features.row_bytes import unpack
from state import row_pass
from state.errors import StateDamagedError
from state.feature_rows import FeatureRows
from state.row_keys import SHARED, row_keys
from state.store import Batch, Store
from tests.unit.state.row_events import COUNT, KEYS, START, Event, Topic, checkpoint, clear, new_rows, run


def all_of(rows: FeatureRows, topic: Topic) -> None:
    """Ticks until nothing is left to publish again."""
    while rows.republishing:
        topic.take(rows)


def test_what_may_not_have_been_published_is_published_once_more(store: Store) -> None:
    """Rows that changed at the tick or later, even where their newest event is older than it."""
    rows = new_rows(store)
    run(rows, [Event(1, START), Event(2, START + 1)], now=START)
    checkpoint(rows, store)
    run(rows, [Event(2, START - 5), Event(3, START + 1000)], now=START + 1000)
    checkpoint(rows, store)
    again, topic = new_rows(store), Topic()
    again.republish_since(START + 1000)
    while again.republishing:
        topic.take(again)
    assert {key for _, _, key in topic.rows} == {int(KEYS[2]), int(KEYS[3])}
    again.republish_since(START)
    while again.republishing:
        topic.take(again)
    assert len(topic.rows) == 6


def test_an_empty_state_is_done_with_its_first_part(store: Store) -> None:
    rows = new_rows(store)
    assert not rows.republishing
    rows.republish_since(0)
    assert rows.republishing
    assert (rows.take_changed(), rows.republishing) == ([], False)


def test_parts_are_bounded_and_no_row_becomes_resident(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also more rows than the first arrays hold."""
    monkeypatch.setattr(row_pass, "PART_ROWS", 700)
    keys = hash_numbers(np.arange(5000))
    rows = new_rows(store)
    rows.begin(np.zeros(5000, dtype=np.int16), START)
    for table in rows.tables.values():
        slots = table.locate(keys, np.ones(5000, dtype=np.bool_))
        assert sorted(slots.tolist()) == list(range(5000))
        table.values[slots, COUNT] = np.arange(5000)
        table.touch(slots)
    assert checkpoint(rows, store) == 10_000
    again = new_rows(store)
    again.republish_since(START)
    told: dict[str, dict[int, float]] = {name: {} for name in again.tables}
    while again.republishing:
        for part in again.take_changed():
            assert len(part) <= 700
            values, _ = unpack(part.keys, part.packed, again.tables[part.table].width)
            told[part.table].update(zip(part.keys.tolist(), values[:, COUNT].tolist(), strict=True))
    expected = dict(zip(keys.tolist(), range(5000), strict=True))
    assert told == dict.fromkeys(again.tables, expected)
    assert len(again) == 0


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    ticks=st.lists(st.lists(st.integers(0, 7), max_size=6), min_size=1, max_size=6),
    part=st.integers(1, 4),
    cached=st.integers(0, 5),
)
def test_while_ticks_go_on_the_newest_numbers_of_every_row_are_published_last(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    data: st.DataObject,
    ticks: list[list[int]],
    part: int,
    cached: int,
) -> None:
    clear(store)
    monkeypatch.setattr(row_pass, "PART_ROWS", part)
    before = new_rows(store)
    run(before, [Event(key, START) for key in range(8)], START)
    checkpoint(before, store)
    rows, topic = new_rows(store, cached), Topic()
    rows.republish_since(START)
    counts = [1] * 8
    for number, keys in enumerate(ticks, start=1):
        at = START + 1000 * number
        run(rows, [Event(key, at) for key in keys], at)
        for key in keys:
            counts[key] += 1
        if data.draw(st.booleans(), label="a wall-clock tick"):
            topic.take(rows)
            checkpoint(rows, store)
            rows.evict()
    topic.take(rows)
    all_of(rows, topic)
    for table in rows.tables:
        told = {key: count for (name, _, key), (_, count) in topic.rows.items() if name == table}
        assert told == {int(KEYS[key]): count for key, count in enumerate(counts)}


def test_a_stored_row_that_is_no_row_is_named_as_damage(store: Store) -> None:
    rows = new_rows(store)
    run(rows, [Event(1, START)], START)
    checkpoint(rows, store)
    batch = Batch()
    batch.put(row_keys(1, np.array([SHARED], dtype=np.int16), KEYS[2:3])[0], b"short")
    store.commit(batch)
    again = new_rows(store)
    again.republish_since(0)
    with pytest.raises(StateDamagedError, match=r"rows of features: .*set it aside"):
        all_of(again, Topic())
