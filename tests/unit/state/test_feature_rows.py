"""Failure: a row loses what it knew, or comes back after it was forgotten, because of where it lay: in
memory, on disk, under another partition, before or after a sweep. Mechanism: rows leave memory, are found
through a filter, and are deleted in parts. Required: what a batch sees of a row follows from events alone.

The reference is a dictionary from key to (newest event, events).
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from state.errors import StateDamagedError, StateFormatError
from state.feature_rows import FeatureRows
from state.feature_table import CLOCK_MS, FeatureTable
from state.keys import ROWS
from state.row_keys import SHARED, partition_prefix
from state.store import Batch, Store
from tests.unit.state.row_events import (
    COUNT,
    FORGET,
    KEYS,
    PLAN,
    START,
    Event,
    Reference,
    Topic,
    checkpoint,
    clear,
    new_rows,
    on_disk,
    run,
    sweep,
)

# -- one rule each


def test_a_row_is_begun_found_written_and_read_back(store: Store) -> None:
    rows = new_rows(store)
    assert run(rows, [Event(1, 5), Event(1, 7), Event(2, 8, begin=False)])["user_id"] == [None, (5, 1), None]
    assert checkpoint(rows, store) == 2
    assert checkpoint(rows, store) == 0
    again = new_rows(store)
    assert len(again) == 0
    assert run(again, [Event(1, 9, begin=False), Event(-1, 9), Event(2, 9)])["item_id"] == [
        (7, 2),
        None,
        None,
    ]
    assert len(again) == 4


def test_the_rows_of_users_lie_by_partition_and_those_of_items_do_not(store: Store) -> None:
    rows = new_rows(store)
    run(rows, [Event(n, 5) for n in range(9)])
    checkpoint(rows, store)
    for partition in range(3):
        assert sum(1 for _ in store.keys(partition_prefix(0, partition))) == 3
    assert sum(1 for _ in store.keys(partition_prefix(1, SHARED))) == 9


@pytest.mark.parametrize("restart", [False, True])
def test_a_user_whose_partition_changed_keeps_the_row(store: Store, restart: bool) -> None:
    """Topics that get more partitions move users; their rows still lie where they were begun."""
    rows = new_rows(store, cached_rows=0)
    run(rows, [Event(n, 5) for n in range(9)])
    checkpoint(rows, store)
    rows.drop_changed()
    rows.evict()
    rows = new_rows(store) if restart else rows
    assert len(rows) == 0
    found = run(rows, [Event(n, 6) for n in range(9)], moved=7)
    assert found["user_id"] == [(5, 1)] * 9
    checkpoint(rows, store)
    assert on_disk(store) == 18


def test_a_key_that_is_nowhere_costs_no_look_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = new_rows(store, cached_rows=0)
    run(rows, [Event(1, 5)])
    checkpoint(rows, store)
    rows.drop_changed()
    assert rows.evict() == 2
    asked: list[int] = []
    get_many = store.get_many
    monkeypatch.setattr(store, "get_many", lambda keys: asked.append(len(keys)) or get_many(keys))
    run(rows, [Event(n, 6) for n in range(2, 40)])
    assert sum(asked) < 20
    run(rows, [Event(1, 6)])
    assert sum(asked) >= 2


@pytest.mark.ordinary_sizes
def test_only_what_is_written_and_published_leaves_memory_and_the_least_recently_used_first(
    store: Store,
) -> None:
    rows = new_rows(store, cached_rows=10)
    for n in range(12):
        run(rows, [Event(n, n)])
    assert rows.evict() == 0
    checkpoint(rows, store)
    assert rows.evict() == 0
    rows.take_changed()
    run(rows, [Event(0, 13, begin=False)])
    assert rows.evict() == 15
    assert len(rows) == 9
    for table in rows.tables.values():
        assert table.top(lambda values: values[:, COUNT], 20)[0].tolist()[0] == KEYS[0]


def test_a_row_that_was_not_seen_for_long_is_missing_by_the_minute_of_the_batch(store: Store) -> None:
    rows = new_rows(store)
    run(rows, [Event(1, 5)])
    late = 5 + FORGET + CLOCK_MS
    now = late // CLOCK_MS * CLOCK_MS
    assert run(rows, [Event(1, late, begin=False)], now - 1)["user_id"] == [(5, 1)]
    assert run(rows, [Event(1, 6, begin=False)], now)["user_id"] == [None]
    found = run(rows, [Event(1, late, begin=False), Event(1, late), Event(1, late, begin=False)], now)
    assert found["user_id"] == [None, None, (late, 1)]


def test_what_is_forgotten_leaves_the_topic_first_and_then_the_disk(store: Store) -> None:
    rows, topic = new_rows(store), Topic()
    run(rows, [Event(1, 5), Event(2, FORGET)])
    checkpoint(rows, store)
    topic.take(rows)
    minute = FORGET // CLOCK_MS * CLOCK_MS + CLOCK_MS
    assert sweep(rows, minute - 1) == 0
    assert sweep(rows, minute) == 2
    topic.take(rows, acknowledge=False)
    assert len(topic.rows) == 2
    checkpoint(rows, store)
    assert on_disk(store) == 4, "the broker may not have the tombstone"
    rows.acknowledge(rows.takes)
    checkpoint(rows, store)
    assert on_disk(store) == 2
    assert rows.forgotten == 2


def test_a_row_that_begins_anew_while_it_is_being_forgotten_stays(store: Store) -> None:
    rows, topic = new_rows(store), Topic()
    run(rows, [Event(1, 5)])
    checkpoint(rows, store)
    topic.take(rows)
    late = (FORGET // CLOCK_MS + 1) * CLOCK_MS
    assert sweep(rows, late) == 2
    topic.take(rows)
    run(rows, [Event(1, late)], late)
    checkpoint(rows, store)
    topic.take(rows)
    assert on_disk(store) == 2
    assert set(topic.rows.values()) == {(late, 1)}


def test_the_hottest_rows_are_those_with_the_highest_score(store: Store) -> None:
    rows = new_rows(store)
    run(rows, [Event(n, 5) for n in range(6) for _ in range(n)])
    table: FeatureTable = rows.tables["item_id"]
    keys, values = table.top(lambda values: values[:, COUNT] - 3, 5)
    assert keys.tolist() == KEYS[[5, 4]].tolist()
    assert values[:, COUNT].tolist() == [5, 4]
    assert len(table.top(lambda values: values[:, COUNT], 1)[0]) == 1


def test_rows_of_other_features_and_of_the_first_edition_are_refused_with_words(store: Store) -> None:
    other: Any = SimpleNamespace(hash="other", tables=PLAN.tables)
    new_rows(store)
    FeatureRows(store, other, 10, FORGET)
    checkpoint(new_rows(store), store)
    new_rows(store)
    with pytest.raises(StateFormatError, match=r"other features .* put the old \[features\] back"):
        FeatureRows(store, other, 10, FORGET)


@pytest.mark.parametrize("key", [b"row/item/x", b"meta/features", b"seg/masks/x"])
def test_a_state_of_the_first_edition_is_refused_with_words(store: Store, key: bytes) -> None:
    batch = Batch()
    batch.put(b"meta/begun", b"1")
    store.commit(batch)
    new_rows(store)
    batch = Batch()
    batch.put(key, b"x")
    store.commit(batch)
    with pytest.raises(StateFormatError, match=r"first edition .* new state folder"):
        new_rows(store)


@pytest.mark.parametrize("at", [0, 8, 17, -9, -1])
def test_a_row_with_a_changed_byte_is_refused(store: Store, at: int) -> None:
    rows = new_rows(store)
    run(rows, [Event(1, 5)])
    checkpoint(rows, store)
    key, row = next(store.scan(ROWS))
    changed = bytearray(row)
    changed[at] ^= 1
    batch = Batch()
    batch.put(key, bytes(changed))
    store.commit(batch)
    with pytest.raises(StateDamagedError, match="checksum"):
        run(new_rows(store), [Event(1, 6)])


def test_a_row_under_the_key_of_another_one_is_refused(store: Store) -> None:
    rows = new_rows(store)
    run(rows, [Event(0, 5), Event(3, 5)])
    checkpoint(rows, store)
    (key, _), (_, row), *_ = store.scan(ROWS)
    batch = Batch()
    batch.put(key, row)
    store.commit(batch)
    with pytest.raises(StateDamagedError, match="checksum"):
        run(new_rows(store), [Event(0, 6), Event(3, 6)])


def test_a_batch_of_other_events_than_were_said_is_refused(store: Store) -> None:
    rows = new_rows(store)
    rows.begin(np.zeros(2, dtype=np.int16), 0)
    with pytest.raises(ValueError, match="3 keys for a batch that was begun with 2 events"):
        rows.tables["user_id"].locate(KEYS[:3], np.ones(3, dtype=np.bool_))


# -- any history

EVENTS = st.lists(
    st.builds(Event, st.integers(-1, 7), st.integers(-FORGET // 2, 999), st.booleans()), max_size=8
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from([1000, 1000, FORGET // 3, FORGET, 2 * FORGET]),
        EVENTS,
        st.lists(st.sampled_from(["write", "take", "lost take", "evict", "restart", "expire"]), max_size=4),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_any_history_equals_the_reference(store: Store, monkeypatch: pytest.MonkeyPatch, steps: Any) -> None:
    for name in ("feature_rows.SWEEP_ROWS", "row_pass.PART_ROWS", "feature_table.SCAN_KEYS"):
        monkeypatch.setattr(f"state.{name}", 2)
    monkeypatch.setattr("state.disk_keys.SMALLEST", 8)
    clear(store)
    rows, reference, topic = new_rows(store, cached_rows=2), Reference(), Topic()
    now, published_until = START, START
    for gap, events, then in steps:
        now += gap
        events = sorted((e._replace(time=now + e.time) for e in events), key=lambda e: e.time)
        expected = reference.run(events, now)
        assert run(rows, events, now) == {"user_id": expected, "item_id": expected}
        for what in then:
            if what == "write":
                checkpoint(rows, store)
            elif what == "take":
                topic.take(rows)
                published_until = published_until if rows.republishing else now + 1
            elif what == "lost take":
                topic.take(rows, acknowledge=False)
            elif what == "evict":
                rows.evict()
            elif what == "expire":
                rows.expire(now)
            else:
                checkpoint(rows, store)
                rows = new_rows(store, cached_rows=2)
                rows.republish_since(published_until)
    checkpoint(rows, store)
    while rows.republishing:
        topic.take(rows)
    topic.take(rows)
    sweep(rows, now)
    topic.take(rows)
    checkpoint(rows, store)
    alive = {int(KEYS[key]): row for key, row in reference.alive(now).items()}
    for table in rows.tables:
        told = {key: row for (name, _, key), row in topic.rows.items() if name == table}
        assert {key: row for key, row in told.items() if key in alive} == alive
    digest = list(rows.state(now))
    assert len(digest) == 2 + 2 * 2 * len(alive)
    rows = new_rows(store, cached_rows=2)
    assert list(rows.state(now)) == digest
    events = [Event(key, now, begin=False) for key in range(8)]
    assert run(rows, events, now)["user_id"] == reference.run(events, now)
    # What a sweep missed because it was written behind it, the next one finds.
    sweep(rows, now + 2 * FORGET)
    topic.take(rows)
    checkpoint(rows, store)
    assert (on_disk(store), topic.rows) == (0, {})
