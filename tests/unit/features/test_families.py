"""Failure: a feature that knows the future, or that depends on how a log is cut, when a worker was started
again, or whether a kernel was compiled; a formula that is not the one in its docstring.

Mechanism: one battery over every family, which is found as a scenario finds it. Streams have ties and steps
back in time, lists that are written piece by piece, actions without an impression, unknown keys and numbers,
kinds that nothing names. Required: what ``reference.py`` computes event by event, and the same bits
otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import compiled
from features.declared import kinds_of_families, plan_from
from features.families.clicked_places import HALF_LIFE_S, ClickedPlaces
from features.families.count_rows import CountRows
from features.families.habit_rows import HabitRows, PairRows
from features.families.stock_rows import StockRows
from features.plan import Plan
from tests.unit.features.kernels import uncompiled
from tests.unit.features.references import ENTRIES as BROUGHT
from tests.unit.features.references import REFERENCES, world_of
from tests.unit.features.streams import (
    ACTIONS,
    START,
    Worker,
    drawn,
    events_of,
    in_order,
    pieces,
    told,
)

#: Entries of each family, as a scenario has them: the defaults of every setting, and all that can be said.
#: What follows a point tells cases of one family apart.
ENTRIES: dict[str, list[dict[str, Any]]] = {
    "counts": [
        {"keys": ["item_id"]},
        {
            "keys": ["user_id", "category_id"],
            "half_lives_s": [0.5, 30, 600],
            "rates": ["click/impression", "any/view"],
            "volumes": ["impression", "other", "search"],
            "velocities": ["impression", "any"],
            "parent": ["category_id"],
            "smoothing": 2.0,
        },
        {"keys": ["everything"], "velocities": ["click"]},
        {"keys": ["user_id", "item_id"], "begin": ["any"], "half_lives_s": [30.0]},
        {"keys": ["user_id", "shop_id"], "begin": ["cart", "view"], "velocities": ["impression"]},
        {"keys": ["hour", "context.device"], "parent": ["context.device"], "volumes": []},
        {
            "keys": ["shop_id"],
            "rates": ["click/impression.expected", "click/impression.examined", "purchase.value/click"],
            "volumes": ["click.place"],
        },
    ],
    "recency": [{}, {"keys": ["user_id", "shop_id"], "of": ["purchase", "view"]}],
    "recency.of clicks": [{"of": ["click"]}],
    "session": [{}],
    "touched": [{}],
    "price": [{}],
    "place": [
        {},
        {"by": [["context.device"], ["item_id", "user_id"]], "clicks": "cart", "half_life_s": 5.0},
        {"clicks": "impression", "as": []},
    ],
    "list": [{}, {"of": "position", "as": ["size", "rank"]}, {"of": "price.log"}],
    "stock": [{}],
    "habit": [{}],
    "previous": [{"keep": 3}],
    "sequence": [{"keep": 3}, {"key": "item_id", "keep": 2}],
    "crossing": [
        {"keys": ["user_id", "item_id"]},
        {"keys": ["context.device"], "numbers": ["price", "position", "price.log"], "bins": 10.0},
        {"numbers": ["stock"]},
    ],
    **BROUGHT,
}

#: What a family reads of others, and settings.
OTHERS: dict[str, dict[str, Any]] = {
    "list": {"price": [{}]},
    "crossing": {"price": [{}]},
    "stock": {"sale_starts_at": START + 5000},
}


def plan_of(name: str, derived: bool = True) -> Plan:
    """A family's plan, where also the key columns that it works out are counted."""
    family = name.partition(".")[0]
    table: dict[str, Any] = {family: ENTRIES[name], **OTHERS.get(family, {})}
    provides = getattr(kinds_of_families()[family], "provides", None)
    if derived and provides is not None:
        table["counts"] = [{"keys": [column]} for column in provides(None)]
    return plan_from(table, ACTIONS)


@pytest.fixture(scope="module", autouse=True)
def _rows_grow() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("features.rows.INITIAL_ROWS", 1)
        patch.setattr("features.families.listed.SHORT", 2)
        yield


CASES = sorted(ENTRIES)


def test_every_family_is_in_the_battery() -> None:
    assert {case.partition(".")[0] for case in CASES} == set(kinds_of_families()) == set(REFERENCES)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=100)
@given(parts=drawn, most=st.integers(1, 9))
def test_a_family_equals_its_reference(name: str, parts: Any, most: int) -> None:
    plan, events = plan_of(name), events_of(parts)
    world = world_of(plan)
    expected = world.run(told(events, plan))
    found = Worker(plan).run(pieces(events, most))
    expected_array = np.array(expected).reshape(found.shape)
    for column, feature in enumerate([*plan.names, *world.extras]):
        np.testing.assert_allclose(
            found[:, column], expected_array[:, column], rtol=2e-5, atol=2e-5, err_msg=feature
        )


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25)
@given(parts=drawn, most=st.integers(1, 5), at=st.integers(0, 20))
def test_cuts_restarts_and_compilers_change_no_bit(name: str, parts: Any, most: int, at: int) -> None:
    plan, events = plan_of(name), events_of(parts)
    whole = Worker(plan).run([events])
    batches = pieces(events, most)
    assert _same(Worker(plan).run(batches), whole)
    worker, found = Worker(plan), []
    for number, batch in enumerate(batches):
        if number % 2 == at % 2:
            worker = worker.restart()
        found.append(worker.observe(batch))
    assert _same(np.concatenate(found), whole)
    with uncompiled():
        assert _same(Worker(plan).run([events]), whole)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25)
@given(parts=drawn, cut=st.integers(1, 14))
def test_a_log_that_ends_earlier_has_the_same_features_before(name: str, parts: Any, cut: int) -> None:
    plan = plan_of(name)
    whole = events_of(parts)
    first = [batch for batch in pieces(whole, 1) if len(batch)][:cut]
    before = Worker(plan).run(first)
    assert _same(before, Worker(plan).run([whole])[: len(before)])


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25)
@given(parts=drawn)
def test_serving_reads_what_the_worker_reads_and_changes_nothing(name: str, parts: Any) -> None:
    plan, worker = plan_of(name), Worker(plan_of(name))
    for batch in pieces(events_of(parts), 1):
        rows = {table: one.rows.values[: one.rows.used].copy() for table, one in worker.tables.items()}
        first = next((event for event in batch if event.kind == "impression"), None)
        if first is batch[0]:
            members = [event for event in batch if event.request == first.request]
            served = worker.observe(members, update=False)
            for table, before in rows.items():
                assert _same(before, worker.tables[table].rows.values[: len(before)])
                assert worker.tables[table].rows.used == len(before)
            learned = worker.observe(batch)
            shown = [event for event in batch if event.kind == "impression"]
            assert _same(learned[[shown.index(event) for event in members]], served)
        else:
            worker.observe(batch)
    assert plan.names == worker.plan.names


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25)
@given(parts=in_order)
def test_rows_of_two_workers_merge_to_the_counts_of_one(name: str, parts: Any) -> None:
    """Counts add; of what cannot be added, a whole row of the worker that knows the newest event."""
    plan, events = plan_of(name, derived=False), events_of(parts)
    one = Worker(plan)
    one.run([events])
    halves = [Worker(plan), Worker(plan)]
    for user, half in zip("ab", halves, strict=True):
        half.run([[event for event in events if event.keys["user_id"] == user] or []])
    for table, layout in plan.tables.items():
        rows = one.tables[table].rows
        for key, row in zip(rows.keys[: rows.used], rows.values[: rows.used], strict=True):
            parts_of_it = []
            for half in halves:
                slot = half.tables[table].rows.find(np.array([key]))[0]
                if slot >= 0:
                    parts_of_it.append(half.tables[table].rows.values[slot])
            merged = plan.merge(table, np.array([parts_of_it]))[0]
            assert merged.shape == (layout.width,) and merged[0] == row[0]
            for block, (of, part) in plan.blocks.items():
                if of == table:
                    halves_of_it = [half[part] for half in parts_of_it]
                    _check_merged(block, merged[part], row[part], halves_of_it)


def _check_merged(block: Any, found: Any, expected: Any, halves: list[Any]) -> None:
    """``found`` of ``halves`` beside what one worker has that saw both."""
    if isinstance(block, CountRows) and not block.after:
        _same_counts(found, expected, np.array([half_life for _, half_life in block.cells]))
    elif isinstance(block, ClickedPlaces):
        _same_counts(found, expected, np.array([HALF_LIFE_S]))
    elif isinstance(block, PairRows | HabitRows):
        assert _same(found, expected)
    elif isinstance(block, StockRows):
        assert found[0] == expected[0] and any(_same(found[1:], half[1:]) for half in halves)
    elif not isinstance(block, CountRows):
        assert any(_same(found, half) for half in halves)


def _same_counts(found: Any, expected: Any, half_lives_s: Any) -> None:
    """The landmarks may differ, the counts as of the newest event may not."""
    assert found[1] == expected[1]
    ours, theirs = (row[2:] * 2.0 ** ((row[0] - row[1]) / 1000 / half_lives_s) for row in (found, expected))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-200)


def test_this_process_compiles_its_kernels_where_it_can() -> None:
    """Else the comparison with plain kernels would compare plain ones with themselves."""
    import os

    assert compiled.COMPILED or os.environ.get(compiled.VARIABLE) == compiled.PLAIN


def _same(left: Any, right: Any) -> bool:
    """Bit for bit, NaN and the sign of zero included."""
    return left.shape == right.shape and left.tobytes() == right.tobytes()
