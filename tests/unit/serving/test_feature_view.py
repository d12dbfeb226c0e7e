"""Fails when a reader's rows are not what the workers have published, whatever else stands in the topic."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.hashing import hash_texts
from features.plan import CLOCK_MS, SEEN
from features.rows import NO_ROW, Values
from serving.feature_view import FeatureView
from serving.merged_rows import MAX_WORKERS
from tests.unit.serving.conftest import FORGET_MS, NOW, PLAN
from tests.unit.serving.worker_side import Record, Worker

ITEM, USER = "item_id", "user_id"
NAMES = ["a", "b", "c", "żółw", "e"]


def row_of(table: str, seen: float, number: float) -> Values:
    """A row whose numbers follow from one; its times are ``seen``."""
    row = number + np.arange(PLAN.tables[table].width, dtype=np.float64)
    row[SEEN] = seen
    if table == ITEM:
        # The landmark of the counts, and the newest event in them.
        row[1:3] = seen
    return row


def record(name: str, seen: float, number: float, worker: str = "0", table: str = ITEM) -> Record:
    return Worker(PLAN, worker).packed(table, hash_texts([name]), row_of(table, seen, number)[None])[0]


def gone(name: str, worker: str = "0", table: str = ITEM) -> Record:
    return record(name, 0, 0, worker, table)[0], b""


def held(view: FeatureView, names: Iterable[str], table: str = ITEM, at: int = NOW) -> list[Values | None]:
    """What the view has of each name."""
    names = list(names)
    with view.reading(np.full(len(names), at)) as tables:
        slots = tables[table].locate(hash_texts(names), np.zeros(len(names), dtype=np.bool_))
        return [None if slot == NO_ROW else tables[table].values[slot].copy() for slot in slots]


def numbers(view: FeatureView, names: Iterable[str], table: str = ITEM) -> list[float | None]:
    """The last number of each row."""
    return [None if row is None else float(row[-1]) for row in held(view, names, table)]


def last(number: float, table: str = ITEM) -> float:
    return number + PLAN.tables[table].width - 1


updates = st.lists(
    st.tuples(
        st.sampled_from(["w0", "w1", "w2"]),
        st.sampled_from(NAMES),
        st.integers(NOW - 10**6, NOW),
        st.floats(0, 1e6) | st.none(),
    ),
    max_size=40,
)


@given(updates, st.integers(1, 7))
@settings(max_examples=60)
def test_rows_of_several_workers_are_merged_as_the_plan_does(
    written: list[tuple[str, str, int, float | None]], batch: int
) -> None:
    """However records are batched: the last one of a key counts, tombstones delete, workers merge."""
    view = FeatureView(PLAN, FORGET_MS)
    rows: dict[tuple[str, str], Values] = {}
    records = []
    for worker, name, seen, number in written:
        rows.pop((worker, name), None)
        if number is None:
            records.append(gone(name, worker))
        else:
            records.append(record(name, seen, number, worker))
            rows[worker, name] = row_of(ITEM, seen, number)
    for start in range(0, len(records), batch):
        view.apply(records[start : start + batch])
    for name, found in zip([*NAMES, "never"], held(view, [*NAMES, "never"]), strict=True):
        several = [row for (_, of), row in sorted(rows.items()) if of == name]
        if not several:
            assert found is None
        elif len(several) == 1:
            assert found is not None and (found == several[0]).all()
        else:
            assert found is not None
            np.testing.assert_allclose(found, PLAN.merge(ITEM, np.array([several]))[0], rtol=1e-12)
    assert view.rows()[ITEM] == len({name for _, name in rows})
    assert not view.refused


def test_rows_of_a_partition_are_replaced_whoever_writes_them(view: FeatureView) -> None:
    """Merged with what an earlier owner of the partition wrote, a user would count twice."""
    keys = hash_texts(["u"])
    for number in (1.0, 2.0):
        view.apply(Worker(PLAN, f"w{number}").packed(USER, keys, row_of(USER, NOW, number)[None]))
    assert numbers(view, ["u"], USER) == [last(2.0, USER)]
    view.apply([gone("u", "w9", USER)])
    assert held(view, ["u"], USER) == [None]


def digits(name: str) -> bytes:
    return f"{int(hash_texts([name])[0]):016x}".encode()


def packed(row: Values, name: str = "a") -> bytes:
    return Worker(PLAN).packed(ITEM, hash_texts([name]), row[None])[0][1] or b""


GOOD = row_of(ITEM, NOW, 1.0)
TORN = packed(GOOD)[:-9] + b"x" + packed(GOOD)[-8:]
A = digits("a")
BAD: dict[str, tuple[bytes | None, bytes | None, str]] = {
    "no key": (None, packed(GOOD), "key"),
    "an empty key": (b"", b"", "key"),
    "no table": (b"w/0/" + A, packed(GOOD), "key"),
    "no worker": (b"w//item_id/" + A, packed(GOOD), "key"),
    "neither worker nor partition": (b"x/0/item_id/" + A, packed(GOOD), "key"),
    "a partition that is no number": (b"p/one/user_id/" + A, packed(GOOD), "key"),
    "no text": (b"w/\xff/item_id/" + A, packed(GOOD), "key"),
    "of the first edition": (b"worker-0/item/some-item", packed(GOOD), "key"),
    "a key of too few digits": (b"w/0/item_id/" + A[1:], packed(GOOD), "key"),
    "a key in capitals": (b"w/0/item_id/" + b"ABCDEF0123456789", packed(GOOD), "key"),
    "a key with a space": (b"w/0/item_id/" + b"12345678 2345678", packed(GOOD), "key"),
    "the key of no id": (b"w/0/item_id/" + b"0" * 16, packed(GOOD), "key"),
    "a table of other features": (b"w/0/brand/" + A, packed(GOOD), "table"),
    "a worker's row in a partition's table": (b"w/0/user_id/" + A, packed(GOOD), "table"),
    "a partition's row in a worker's table": (b"p/0/item_id/" + A, packed(GOOD), "table"),
    "too short": (b"w/0/item_id/" + A, b"short", "row"),
    "too long": (b"w/0/item_id/" + A, packed(GOOD) + bytes(8), "row"),
    "torn": (b"w/0/item_id/" + A, TORN, "row"),
    "of another key": (b"w/0/item_id/" + A, packed(GOOD, "b"), "row"),
    "not a number": (b"w/0/item_id/" + A, packed(np.full_like(GOOD, np.nan)), "not_finite"),
    "infinite": (b"w/0/item_id/" + A, packed(np.full_like(GOOD, np.inf)), "not_finite"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_counted_and_changes_nothing(view: FeatureView, name: str) -> None:
    """Whatever stands in the topic, the rows before it and after it in the batch still count: also the one
    of the same key that came just before."""
    key, value, reason = BAD[name]
    view.apply([record("a", NOW, 3.0)])
    taken = view.apply([record("b", NOW, 1.0), record("a", NOW, 4.0), (key, value), record("c", NOW, 2.0)])
    assert view.refused == {reason: 1}
    assert taken == 3
    assert numbers(view, ["a", "b", "c"]) == [last(4.0), last(1.0), last(2.0)]


@given(
    st.lists(st.sampled_from([*BAD, "good", "gone"]), max_size=20),
    st.integers(1, 20),
)
@settings(max_examples=60)
def test_what_is_refused_does_not_depend_on_the_batches(kinds: list[str], batch: int) -> None:
    """Every broken record is counted once, and never stands in for a good one of its key."""
    view, expected, refused = FeatureView(PLAN, FORGET_MS), [None], 0
    records: list[Record] = []
    for number, kind in enumerate(kinds):
        if kind in BAD:
            records.append(BAD[kind][:2])
            refused += 1
        else:
            records.append(record("a", NOW, number) if kind == "good" else gone("a"))
            expected = [last(number) if kind == "good" else None]  # type: ignore[list-item]
    for start in range(0, len(records), batch):
        view.apply(records[start : start + batch])
    assert numbers(view, ["a"]) == expected
    assert view.refused.total() == refused


def test_a_row_is_forgotten_by_the_minute_as_the_worker_does(view: FeatureView) -> None:
    """The worker counts it as missing from the same moment on, whether its deletion has come or not."""
    minute = NOW // CLOCK_MS * CLOCK_MS
    view.apply([record("a", minute - FORGET_MS, 1.0), record("b", minute - FORGET_MS - 1, 2.0)])
    assert [row is None for row in held(view, ["a", "b"], at=minute)] == [False, True]
    assert [row is None for row in held(view, ["a", "b"], at=minute + CLOCK_MS - 1)] == [False, True]
    assert [row is None for row in held(view, ["a", "b"], at=minute + CLOCK_MS)] == [True, True]
    assert [row is None for row in held(view, ["a", "b"], at=minute - 1)] == [False, False]
    view.apply([record("a", minute, 3.0)])
    assert held(view, ["a"], at=minute + CLOCK_MS)[0] is not None


def test_rows_that_were_seen_longest_ago_go_first() -> None:
    """Memory is bounded whatever the topic holds; a row that was just seen outlives older ones."""
    view = FeatureView(PLAN, FORGET_MS, capacity=100)
    for i in range(100):
        view.apply([record(str(i), NOW + i, i, worker=f"w{i % 2}")])
    view.apply([record("0", NOW + 1000, 1000.0)])
    view.apply([record("new", NOW + 500, 7.0)])
    assert view.rows()[ITEM] <= 100
    assert view.dropped[ITEM] == 101 - view.rows()[ITEM]
    assert [row is not None for row in held(view, ["0", "1", "2", "98", "99", "new"])] == [
        True, False, False, True, True, True,
    ]  # fmt: skip
    # A worker's own row of a key that was dropped must not come back with another's.
    view.apply([record("1", NOW + 501, 5.0, worker="w7")])
    assert numbers(view, ["1", "new"]) == [last(5.0), last(7.0)]


@given(
    st.lists(st.tuples(st.integers(0, 30), st.booleans(), st.integers(0, 2)), max_size=120),
    st.integers(1, 9),
)
@settings(max_examples=40)
def test_rows_that_stay_are_right_after_any_drop(writes: list[tuple[int, bool, int]], batch: int) -> None:
    """A row number that was freed and used again must never show its old owner's numbers."""
    view = FeatureView(PLAN, FORGET_MS, capacity=5)
    written: dict[str, float | None] = {}
    records = []
    for number, (name, keep, partition) in enumerate(writes, start=1):
        written[str(name)] = number if keep else None
        keys = hash_texts([str(name)])
        ((key, value),) = Worker(PLAN).packed(USER, keys, row_of(USER, NOW + partition, number)[None])
        records.append((key, value if keep else None))
    for start in range(0, len(records), batch):
        view.apply(records[start : start + batch])
        assert view.rows()[USER] <= 5
    found = numbers(view, map(str, range(31)), USER)
    assert len([one for one in found if one is not None]) == view.rows()[USER]
    for name, number in enumerate(found):
        if number is not None:
            assert number == last(written[str(name)] or 0.0, USER)


def test_more_workers_than_there_can_be_are_refused(view: FeatureView) -> None:
    """Garbage names would make every record slower; the workers that are there keep counting."""
    for i in range(MAX_WORKERS + 3):
        view.apply([record(str(i), NOW, i, worker=f"w{i}")])
    assert view.refused == {"worker": 3}
    view.apply([record("0", NOW, 9.0, worker="w0")])
    assert numbers(view, ["0", str(MAX_WORKERS - 1), str(MAX_WORKERS)]) == [
        last(9.0), last(MAX_WORKERS - 1), None,
    ]  # fmt: skip


def test_tables_grow_beyond_their_first_size(view: FeatureView) -> None:
    """Rows keep their numbers when the arrays are made anew."""
    keys = hash_texts([str(i) for i in range(5000)])
    rows = np.array([row_of(ITEM, NOW, i) for i in range(5000)])
    for start in range(0, 5000, 500):
        part = slice(start, start + 500)
        view.apply(Worker(PLAN).packed(ITEM, keys[part], rows[part]))
    assert numbers(view, map(str, range(5000))) == [last(i) for i in range(5000)]


def test_a_capacity_of_nothing_is_refused() -> None:
    """It would drop every row silently."""
    with pytest.raises(ValueError, match="at least 1"):
        FeatureView(PLAN, FORGET_MS, capacity=0)
