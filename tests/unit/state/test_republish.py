"""Failure: no state with many changed rows starts again, or what it publishes again after a restart is
incomplete, older than what stands in the topic, or all in memory at once.

Mechanism: rows that changed after the last publishing are read from the store while ticks go on, which
begin, change and evict rows between two parts. Required: every such row is published, the newest bytes of
each last; none becomes resident by it; until all are out, the table says that it is not done.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from state import republish
from state.errors import StateDamagedError
from state.store import Batch, Store
from state.tables import DecayedCounts

TICK = 1000
START = 1_700_000_000_000
HALF_LIVES = (60.0, 600.0)


def observe(table: DecayedCounts, tick: int, entities: list[str]) -> None:
    """One impression of each entity in a tick."""
    columns = np.zeros(len(entities), dtype=np.int64)
    times = np.full(len(entities), START + tick * TICK)
    table.observe(entities, columns, times, (START + tick * TICK, START + (tick + 1) * TICK), columns == 0)


def checkpoint(table: DecayedCounts, store: Store) -> None:
    batch = Batch()
    table.write(batch)
    store.commit(batch)


def after_a_restart(store: Store, cached_rows: int = 10**6) -> DecayedCounts:
    return DecayedCounts("item", HALF_LIVES, store, cached_rows)


def all_of(table: DecayedCounts) -> dict[str, bytes]:
    taken: dict[str, bytes] = {}
    while table.republishing:
        taken |= dict(table.take_changed())
    return taken


def test_only_what_changed_since_is_published_again_as_it_is_stored(store: Store) -> None:
    table = after_a_restart(store)
    for tick, entity in enumerate(["a", "b", "ü/c"]):
        observe(table, tick, [entity])
    taken = dict(table.take_changed())
    checkpoint(table, store)
    again = after_a_restart(store)
    assert not again.republishing
    again.republish_since(START + TICK)
    assert all_of(again) == {entity: taken[entity] for entity in ("b", "ü/c")}
    assert again.take_changed() == []


def test_more_rows_than_the_first_arrays_hold_and_none_becomes_resident(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(republish, "REPUBLISH_ROWS", 700)
    table = after_a_restart(store)
    observe(table, 0, [f"i{i}" for i in range(5000)])
    checkpoint(table, store)
    again = after_a_restart(store, cached_rows=1000)
    again.republish_since(START)
    taken = []
    while again.republishing:
        part = again.take_changed()
        assert len(part) <= 700
        taken += part
    assert len(taken) == 5000
    assert dict(taken) == dict(table.take_changed())
    assert len(again) == 0


def test_an_empty_state_is_done_with_its_first_part(store: Store) -> None:
    table = after_a_restart(store)
    table.republish_since(0)
    assert (table.republishing, table.take_changed(), table.republishing) == (True, [], False)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    ticks=st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=6), min_size=1, max_size=6),
    part=st.integers(1, 4),
    cached=st.integers(0, 5),
)
def test_while_ticks_go_on_the_newest_bytes_of_every_row_are_published_last(
    store: Store, data: st.DataObject, ticks: list[list[str]], part: int, cached: int
) -> None:
    fresh = Batch()
    for key, _ in store.scan(b""):
        fresh.delete(key)
    store.commit(fresh)
    before = after_a_restart(store)
    observe(before, 0, list("abcdefgh"))
    checkpoint(before, store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(republish, "REPUBLISH_ROWS", part)
        table = after_a_restart(store, cached)
        table.republish_since(START)
        published: dict[str, bytes] = {}
        for number, entities in enumerate(ticks, start=1):
            if entities:
                observe(table, number, entities)
            if data.draw(st.booleans(), label="a wall-clock tick"):
                published |= dict(table.take_changed())
                checkpoint(table, store)
                table.evict()
        published |= dict(table.take_changed()) | all_of(table)
        checkpoint(table, store)
    assert published == {key.decode().removeprefix("row/item/"): row for key, row in store.scan(b"row/item/")}


def test_a_stored_row_that_is_no_row_is_named_as_damage(store: Store) -> None:
    batch = Batch()
    batch.put(b"row/item/x", b"short")
    store.commit(batch)
    table = after_a_restart(store)
    table.republish_since(0)
    with pytest.raises(StateDamagedError, match=r"row/item/x.*5 bytes.*set it aside"):
        table.take_changed()
