"""Fails when a fault does something else than it counts, depends on how the stream is cut, or loses rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.events import ACTIONS, KINDS
from replay.simulate import Night
from replay.simulate.faults import (
    FLOOD_USER,
    FaultError,
    Faulty,
    clock_skew,
    duplicates,
    hot_key,
    label_outage,
    late,
)

Fault = Callable[[Iterator[pl.DataFrame]], Faulty[pl.DataFrame]]


@pytest.fixture(scope="module")
def rows(night: Night) -> pl.DataFrame:
    """Some 6,000 events of the rush."""
    return night.log.slice(50_000, 6_000)


def span(rows: pl.DataFrame) -> tuple[int, int]:
    """Two event times that cut the rows in thirds."""
    time = rows["event_time"]
    return int(time[rows.height // 3]), int(time[2 * rows.height // 3])


def cut(rows: pl.DataFrame, edges: list[int]) -> Iterator[pl.DataFrame]:
    edges = [0, *sorted(edges), rows.height]
    for left, right in pairwise(edges):
        yield rows.slice(left, right - left)


def every_fault(rows: pl.DataFrame) -> dict[str, Fault]:
    start, end = span(rows)
    return {
        "duplicates": lambda f: duplicates(f, share=0.1, seed=1),
        "delayed duplicates": lambda f: duplicates(f, share=0.1, seed=1, within_ms=300),
        "late": lambda f: late(f, share=0.1, seed=1, least_ms=20, most_ms=400),
        "skew": lambda f: clock_skew(f, share=0.2, seed=1, skew_ms=-5_000),
        "outage": lambda f: label_outage(f, from_ms=start, until_ms=end),
        "lost": lambda f: label_outage(f, from_ms=start, until_ms=end, lost=True),
        "flood": lambda f: hot_key(f, from_ms=start, until_ms=end, copies=3),
        "all": lambda f: hot_key(
            late(duplicates(f, share=0.1, seed=2, within_ms=50), share=0.2, seed=3, least_ms=1, most_ms=99),
            from_ms=start,
            until_ms=end,
            copies=1,
        ),
    }


NAMES = ["duplicates", "delayed duplicates", "late", "skew", "outage", "lost", "flood", "all"]


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(NAMES), edges=st.lists(st.integers(0, 6_000), max_size=8))
def test_a_fault_does_not_depend_on_how_the_stream_is_cut(
    rows: pl.DataFrame, name: str, edges: list[int]
) -> None:
    whole, pieces = every_fault(rows)[name](iter([rows])), every_fault(rows)[name](cut(rows, edges))
    expected = pl.concat(list(whole))
    assert pl.concat(list(pieces)).equals(expected, null_equal=True)
    assert pieces.counts == whole.counts and max(whole.counts.values()) > 0


def test_duplicates_are_counted_by_kind(rows: pl.DataFrame) -> None:
    fault = duplicates(iter([rows]), share=0.2, seed=5, within_ms=100)
    out = pl.concat(list(fault))
    for kind in KINDS:
        assert fault.counts[f"{kind}s"] == (out["event"] == kind).sum() - (rows["event"] == kind).sum()
    assert out.unique(maintain_order=True).height == rows.height
    assert 0.15 < (out.height - rows.height) / rows.height < 0.25


def test_late_rows_keep_their_event_time_and_come_later(rows: pl.DataFrame) -> None:
    fault = late(iter([rows]), share=0.1, seed=5, least_ms=50, most_ms=200)
    out = pl.concat(list(fault))
    key = ["event_time", "impression_id", "action", "type", "user_id", "item_id"]
    assert out.sort(key).equals(rows.sort(key), null_equal=True)
    behind = np.maximum.accumulate(out["event_time"].to_numpy()) - out["event_time"].to_numpy()
    assert fault.counts["out_of_order"] == int((behind > 0).sum()) > 0
    assert fault.counts["late"] >= fault.counts["out_of_order"]
    assert behind.max() <= 200 + np.diff(rows["event_time"].to_numpy()).max()


def test_nothing_happens_at_a_share_of_zero(rows: pl.DataFrame) -> None:
    for fault in (
        duplicates(iter([rows]), share=0.0, seed=1),
        late(iter([rows]), share=0.0, seed=1),
        clock_skew(iter([rows]), share=0.0, seed=1, skew_ms=9),
    ):
        assert pl.concat(list(fault)).equals(rows, null_equal=True)
        assert set(fault.counts.values()) == {0}


def test_a_wrong_clock_is_wrong_for_every_event_of_its_user(rows: pl.DataFrame) -> None:
    fault = clock_skew(iter([rows]), share=0.3, seed=5, skew_ms=7_000)
    out = pl.concat(list(fault))
    moved = out["event_time"] - rows["event_time"]
    assert set(moved.unique()) == {0, 7_000}
    assert fault.counts["skewed"] == int((moved > 0).sum())
    by_user = out.with_columns(moved=moved).group_by("user_id").agg(pl.col("moved").n_unique())
    assert (by_user["moved"] == 1).all()


@pytest.mark.parametrize("lost", [False, True])
def test_labels_of_an_outage_come_together_at_its_end_or_never(rows: pl.DataFrame, lost: bool) -> None:
    start, end = span(rows)
    kinds = [kind for kind in ACTIONS if kind != "cart"]
    fault = label_outage(iter([rows]), from_ms=start, until_ms=end, lost=lost, actions=kinds)
    out = pl.concat(list(fault))
    inside = pl.col("action").is_in(kinds) & (pl.col("event_time") >= start) & (pl.col("event_time") < end)
    hit = rows.filter(inside).height
    assert fault.counts == {"delayed": 0 if lost else hit, "lost": hit if lost else 0}
    assert hit > 50 and out.height == rows.height - (hit if lost else 0)
    # What is delivered comes in one piece, right before the first event after the outage.
    places = out.select(inside).to_series().arg_true().to_numpy()
    if not lost:
        assert places.size == hit and places[-1] - places[0] == hit - 1
        assert out["event_time"][int(places[0]) - 1] < end <= out["event_time"][int(places[-1]) + 1]


def test_a_flood_is_one_user_with_new_impressions(rows: pl.DataFrame) -> None:
    start, end = span(rows)
    fault = hot_key(iter([rows]), from_ms=start, until_ms=end, copies=4, item_id="i1")
    out = pl.concat(list(fault))
    flood = out.filter(pl.col("user_id") == FLOOD_USER)
    assert fault.counts == {"flooded": flood.height} and flood.height == out.height - rows.height
    assert (flood["item_id"] == "i1").all() and (flood["event"] == "impression").all()
    assert out.filter(pl.col("event") == "impression")["impression_id"].is_unique().all()
    assert out["event_time"].is_sorted()
    assert out.filter(pl.col("user_id") != FLOOD_USER).equals(rows, null_equal=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: duplicates([], share=1.5, seed=1), "share must be between 0 and 1"),
        (lambda: duplicates([], share=0.5, seed=1, within_ms=-1), "within_ms must not be negative"),
        (lambda: late([], share=0.1, seed=1, least_ms=5, most_ms=4), "most_ms must be at least least_ms"),
        (lambda: label_outage([], from_ms=5, until_ms=5), "until_ms must be after from_ms"),
        (lambda: label_outage([], from_ms=1, until_ms=5, actions=["buy"]), "actions must be among click"),
        (lambda: hot_key([], from_ms=1, until_ms=5, copies=0), "copies must be at least 1"),
    ],
)
def test_parameters_are_checked_when_the_fault_is_made(make: Callable[[], object], message: str) -> None:
    with pytest.raises(FaultError, match=message):
        make()
