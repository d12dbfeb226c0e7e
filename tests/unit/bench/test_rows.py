"""Fails when a peer would learn what it has yet to predict, or a feature knows what comes later."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench._registry import BenchError
from bench._rows import (
    Step,
    codes,
    events_of,
    impressions_of,
    log2_bucket,
    past_clicks,
    steps_by_list,
    steps_by_tick,
    touched,
)
from replay.simulate import Double11, Double11Config


def test_a_list_is_predicted_after_all_before_it_were_learned() -> None:
    assert steps_by_list([4, 4, 1, 2, 2]) == [Step(0, 0, 2), Step(2, 2, 3), Step(3, 3, 5)]
    assert steps_by_list([]) == []


times = st.lists(st.integers(0, 30_000), min_size=1, max_size=60).map(sorted)


@given(times, st.integers(0, 9_000))
def test_a_label_is_learned_only_once_its_window_is_over(at: list[int], window: int) -> None:
    each = np.array(at)
    steps = steps_by_tick(each, 1_000, window)
    assert [row for step in steps for row in range(step.begin, step.end)] == list(range(len(at)))
    for step in steps:
        tick = each[step.begin] // 1_000 * 1_000
        assert step.learned <= step.begin
        assert (each[: step.learned] + window <= tick).all()
        assert (each[step.learned : step.begin] + window > tick).all()


def test_past_clicks_are_those_that_were_learned() -> None:
    steps = [Step(0, 0, 2), Step(0, 2, 3), Step(2, 3, 4)]
    clicked = np.array([True, False, True, False])
    assert past_clicks(["a", "a", "a", "a"], clicked, steps).tolist() == [0, 0, 0, 1]
    # The third row's click is not known yet.


def frame(rows: list[tuple[str, int]]) -> pl.DataFrame:
    return pl.DataFrame(rows, ("user_id", "event_time"), orient="row")


def test_a_touch_of_the_same_moment_is_no_touch_before() -> None:
    shown = frame([("u", 1_000), ("v", 1_000)])
    touches = frame([("u", 400), ("u", 1_000), ("u", 2_000)])
    count, ago = touched(shown, touches, ["user_id"])
    assert (count.tolist(), ago.tolist()) == ([1, 0], [600, -1])


def test_buckets_are_powers_of_two() -> None:
    assert log2_bucket(np.array([-1, 0, 1, 2, 3, 4, 7, 8])).tolist() == [-1, 0, 1, 2, 2, 3, 3, 4]


def test_equal_values_have_one_code() -> None:
    found = codes(pl.Series(["b", "a", "b"]))
    assert found[0] == found[2] != found[1] and set(found.tolist()) == {0, 1}


def test_impressions_come_by_time_with_their_lists_whole_and_their_context_apart() -> None:
    log = Double11(Double11Config(minutes=0.2, rate=100, users=50, items=60)).night().log
    shown = impressions_of(pl.concat([log, log.head(20)]).sort("event_time", maintain_order=True))
    assert shown["impression_id"].is_unique().all() and shown["event_time"].is_sorted()
    runs = (shown["request_id"] != shown["request_id"].shift()).fill_null(True).sum()
    assert runs == shown["request_id"].n_unique()
    assert {"context_device", "context_channel"} <= set(shown.columns)


class Empty:
    name = "nothing"

    def chunks(self, rows: int = 1) -> list[pl.DataFrame]:
        return []


def test_a_log_without_impressions_is_no_number() -> None:
    with pytest.raises(BenchError, match="nothing has no impressions"):
        events_of(Empty())  # type: ignore[arg-type]
