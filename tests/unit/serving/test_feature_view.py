"""Fails when a reader's counts are not the sum of the workers' rows, decayed to the request's time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.feature_view import MAX_SOURCES, FeatureView
from state.formulas import COUNTS, decay, pack_row

HALF_LIVES = [60.0, 600.0]
NOW = 1_700_000_000_000
SHAPE = (len(COUNTS), len(HALF_LIVES))
MakeRow = Callable[..., bytes]

sources = st.sampled_from(["w0", "w1", "w2"])
entities = st.sampled_from(["a", "b", "a/b", "", "żółw"])
updates = st.lists(
    st.tuples(sources, entities, st.integers(NOW - 10**6, NOW), st.floats(0, 1e6) | st.none()), max_size=40
)


@given(updates, st.integers(1, 7), st.integers(NOW - 10**5, NOW + 10**6))
@settings(max_examples=60, deadline=None)
def test_counts_are_the_decayed_sum_of_the_last_rows(
    written: list[tuple[str, str, int, float | None]], batch: int, now: int
) -> None:
    """However records are batched: the last row a key counts, tombstones delete, sources add."""
    view = FeatureView(HALF_LIVES)
    rows: dict[tuple[str, str], tuple[int, float]] = {}
    records = []
    for source, entity, last, count in written:
        value = b"" if count is None else pack_row(last, np.full(SHAPE, count))
        records.append((f"{source}/item/{entity}".encode(), value))
        rows.pop((source, entity), None)
        if count is not None:
            rows[source, entity] = (last, count)
    for start in range(0, len(records), batch):
        view.apply(records[start : start + batch])

    wanted = ["a", "b", "a/b", "", "żółw", "never"]
    counts, known = view.lookup("item", wanted, now)
    for i, entity in enumerate(wanted):
        expected = np.zeros(SHAPE)
        for (_, of), (last, count) in sorted(rows.items()):
            if of == entity:
                expected += count * decay(np.array([float(now - last)]), HALF_LIVES)
        np.testing.assert_allclose(counts[i], expected, rtol=1e-12)
        assert known[i] == any(of == entity for _, of in rows)
    assert view.rows()["item"] == len(rows)
    assert not view.refused


def test_each_entity_decays_to_its_own_time(view: FeatureView, make_row: MakeRow) -> None:
    """A batch of requests at different times must not share one clock; before `last`, nothing decays."""
    view.apply([(b"w0/item/x", make_row(NOW, click=8.0))])
    times = np.array([NOW + 60_000, NOW, NOW - 5_000])
    clicks = view.counts("item", ["x", "x", "x"], times)[:, COUNTS.index("click"), 0]
    assert clicks.tolist() == [4.0, 8.0, 8.0]


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (None, b"", "key"),
        (b"", b"", "key"),
        (b"w0/item", b"", "key"),
        (b"/item/x", b"", "key"),
        (b"\xff/item/x", b"", "key"),
        (b"w0/shop/x", b"", "table"),
        (b"w0/item/x", b"short", "length"),
        (b"w0/item/x", pack_row(NOW, np.zeros((len(COUNTS), 3))), "length"),
        (b"w0/item/x", pack_row(NOW, np.full(SHAPE, np.nan)), "value"),
        (b"w0/item/x", pack_row(NOW, np.full(SHAPE, np.inf)), "value"),
        (b"w0/item/x", pack_row(NOW, np.full(SHAPE, -1.0)), "value"),
    ],
)
def test_a_bad_row_is_counted_and_changes_nothing(
    view: FeatureView, make_row: MakeRow, key: bytes | None, value: bytes, reason: str
) -> None:
    """Whatever stands in the topic, the rows before it and after it in the batch still count."""
    view.apply([(b"w0/item/x", make_row(click=3.0))])
    view.apply([(b"w0/item/y", make_row(click=1.0)), (key, value), (b"w0/item/z", make_row(click=2.0))])
    assert view.refused == {reason: 1}
    assert view.counts("item", ["x", "y", "z"], NOW)[:, 1, 0].tolist() == [3.0, 1.0, 2.0]


def test_a_rounding_error_below_zero_counts_as_zero(view: FeatureView, make_row: MakeRow) -> None:
    """A difference of sums may fall 1e-12 below zero; that is a row, not garbage."""
    view.apply([(b"w0/item/x", make_row(impression=5.0, click=-1e-12))])
    assert view.counts("item", ["x"], NOW)[0, 1, 0] == 0.0
    assert not view.refused


def test_the_least_recently_updated_rows_go_first(make_row: MakeRow) -> None:
    """Memory is bounded whatever the topic holds; a row that was just updated outlives older ones."""
    view = FeatureView(HALF_LIVES, capacity=100)
    for i in range(100):
        view.apply([(f"w{i % 2}/item/{i}".encode(), make_row(click=1.0 + i))])
    view.apply([(b"w0/item/0", make_row(click=1000.0))])
    view.apply([(b"w0/item/new", make_row(click=7.0))])
    assert view.rows()["item"] <= 100
    assert view.dropped["item"] == 101 - view.rows()["item"]
    known = view.lookup("item", ["0", "1", "2", "98", "99", "new"], NOW)[1]
    assert known.tolist() == [True, False, False, True, True, True]
    assert view.counts("item", ["0", "new"], NOW)[:, 1, 0].tolist() == [1000.0, 7.0]


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=120), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_rows_that_stay_are_right_after_any_eviction(writes: list[tuple[int, bool]], batch: int) -> None:
    """A row number that was freed and used again must never show its old owner's counts."""
    view = FeatureView(HALF_LIVES, capacity=5)
    last: dict[str, float] = {}
    records = []
    for n, (entity, keep) in enumerate(writes, start=1):
        value = pack_row(NOW, np.full(SHAPE, float(n))) if keep else None
        last.pop(str(entity), None)
        if keep:
            last[str(entity)] = float(n)
        records.append((f"w0/user/{entity}".encode(), value))
    for start in range(0, len(records), batch):
        view.apply(records[start : start + batch])
        assert view.rows()["user"] <= 5
    names = [str(i) for i in range(31)]
    counts, known = view.lookup("user", names, NOW)
    assert known.sum() == view.rows()["user"]
    for name, row, there in zip(names, counts[:, 0, 0].tolist(), known.tolist(), strict=True):
        assert row == (last[name] if there else 0.0)


def test_more_sources_than_workers_can_be_are_refused(view: FeatureView, make_row: MakeRow) -> None:
    """Garbage sources would make every look-up slower; those that are there keep counting."""
    view.apply([(f"w{i}/item/x".encode(), make_row(click=1.0)) for i in range(MAX_SOURCES + 3)])
    assert view.refused == {"sources": 3}
    assert view.counts("item", ["x"], NOW)[0, 1, 0] == MAX_SOURCES


def test_tables_grow_beyond_their_first_size(view: FeatureView, make_row: MakeRow) -> None:
    """Rows keep their counts when the arrays are made anew."""
    for start in range(0, 5000, 500):
        view.apply([(f"w0/user/{i}".encode(), make_row(click=i)) for i in range(start, start + 500)])
    names = [str(i) for i in range(5000)]
    assert view.counts("user", names, NOW)[:, 1, 0].tolist() == list(range(5000))


def test_every_global_row_fits_whatever_the_capacity(make_row: MakeRow) -> None:
    """A capacity below the number of workers must not drop one worker's share of the global rate."""
    view = FeatureView(HALF_LIVES, capacity=1)
    view.apply([(f"w{i}/global/*".encode(), make_row(impression=10.0)) for i in range(8)])
    assert view.counts("global", ["*"], NOW)[0, 0, 0] == 80.0


def test_a_capacity_of_nothing_is_refused() -> None:
    """It would drop every row silently."""
    with pytest.raises(ValueError, match="at least 1"):
        FeatureView(HALF_LIVES, capacity=0)
