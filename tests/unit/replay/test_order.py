"""Fails when events leave out of order, an action before its impression, or a log grows in memory."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.events import KINDS
from replay.errors import LogError
from replay.order import in_order, in_slices

delays = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), min_size=1, max_size=40)


@given(delays, st.integers(1, 7))
def test_delayed_actions_are_merged_in_time_order(make: Any, steps: list[tuple[int, int]], size: int) -> None:
    """Whatever the batches: the same sequence as one stable sort of everything."""
    batches, rows, now = [], [], 0
    for k, (gap, delay) in enumerate(steps):
        now += gap
        rows += [make.behaviour(k, now), make.impression(k, now), make.action(k, now + delay)]
        if (k + 1) % size == 0:
            batches.append(make.frame(*rows))
            rows = []
    if rows:
        batches.append(make.frame(*rows))
    kind = pl.col("event").replace_strict({kind: k for k, kind in enumerate(KINDS)})
    whole = pl.concat(batches).sort("event_time", kind, maintain_order=True)
    merged = pl.concat(list(in_order(batches, delayed=True)))
    assert make.events(merged) == make.events(whole)


def test_an_impression_of_the_next_batch_comes_before_an_action_of_the_same_time(make: Any) -> None:
    batches = [make.frame(make.impression(1, 0), make.action(1, 7)), make.frame(make.impression(2, 7))]
    for delayed in (True, False):
        merged = pl.concat(list(in_order(batches, delayed=delayed)))
        assert make.events(merged) == [(0, "i1", "shown"), (7, "i2", "shown"), (7, "i1", "click")]


def test_a_source_that_breaks_its_promise_is_refused(make: Any) -> None:
    batches = [make.frame(make.impression(1, 50)), make.frame(make.impression(2, 10))]
    with pytest.raises(LogError, match="not in event-time order"):
        list(in_order(batches, delayed=True))


def test_only_what_may_still_be_overtaken_waits(make: Any) -> None:
    """A log of a hundred batches must not be held until its end."""
    batches = (make.frame(make.impression(k, k * 10), make.action(k, k * 10 + 5)) for k in range(100))
    heights = [table.height for table in in_order(batches, delayed=True)]
    assert len(heights) == 100 and max(heights) <= 2


def test_behaviours_alone_do_not_wait(make: Any) -> None:
    """Nobody else need come for them: a batch without an impression lets the ones before it go."""
    batches = (make.frame(make.behaviour(k, k * 10), make.behaviour(k, k * 10 + 5)) for k in range(50))
    heights = [table.height for table in in_order(batches, delayed=True)]
    assert sum(heights) == 100 and max(heights) <= 2


def test_slices_keep_everything_in_order(make: Any) -> None:
    table = make.frame(*(make.impression(k, k) for k in range(10)))
    parts = list(in_slices([table], 4))
    assert [part.height for part in parts] == [4, 4, 2]
    assert pl.concat(parts).equals(table)
