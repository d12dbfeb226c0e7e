"""Fails when events are due at the wrong time, an action overtakes its impression, or re-timing reorders."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.errors import LogError, PaceError
from replay.pacing import ArrivalCurve, Lateness, Pace, Shift, retime, slices

T0 = 1_700_000_000_000
gaps = st.lists(st.integers(0, 5000), min_size=1, max_size=50)


@pytest.mark.parametrize(
    ("speed", "rate", "expected"),
    [
        ("max", None, Pace()),
        ("MAX", 50.0, Pace(rate=50.0)),
        ("1x", None, Pace(speed=1.0)),
        ("0.5x", None, Pace(0.5)),
    ],
)
def test_the_words_of_the_command_line(speed: str, rate: float | None, expected: Pace) -> None:
    assert Pace.parse(speed, rate) == expected


@pytest.mark.parametrize(
    ("speed", "rate", "expected"),
    [
        ("fast", None, "'max' or a factor"),
        ("x2", None, "'max' or a factor"),
        ("0x", None, "positive"),
        ("2x", 10.0, "not both"),
        ("max", -1.0, "positive"),
        ("max", float("inf"), "positive"),
    ],
)
def test_a_wrong_pace_says_what_is_allowed(speed: str, rate: float | None, expected: str) -> None:
    with pytest.raises(PaceError, match=expected):
        Pace.parse(speed, rate)


def test_a_speed_compresses_intervals_and_a_rate_ignores_them() -> None:
    times = T0 + np.array([0, 1000, 1000, 4000])
    assert Pace(speed=2.0).due_s(times, T0, 0).tolist() == [0.0, 0.5, 0.5, 2.0]
    assert Pace(rate=10.0).due_s(times, T0, 20).tolist() == pytest.approx([2.0, 2.1, 2.2, 2.3])


@given(gaps, st.floats(0.0001, 1.0))
def test_slices_cover_everything_once_and_are_no_wider_than_asked(steps: list[int], width: float) -> None:
    due = np.cumsum(steps) / 1000.0
    covered = []
    for start, stop in slices(due, width):
        assert stop > start
        assert due[stop - 1] - due[start] < width or stop - start == 1
        covered += range(start, stop)
    assert covered == list(range(due.size))


@given(gaps, st.floats(0.1, 100.0))
def test_shifted_times_keep_the_order_and_the_compression(steps: list[int], speed: float) -> None:
    times = T0 + np.cumsum(steps)
    due = Pace(speed=speed).due_s(times, int(times[0]), 0)
    sent = Shift("now", start_wall_ms=T0 * 2).apply(times, due, wall_ms=0)
    assert (np.diff(sent) >= 0).all()
    assert np.abs((sent - T0 * 2) - (times - times[0]) / speed).max() <= 1


def test_at_full_speed_the_wall_clock_stamps_and_never_falls() -> None:
    """A clock that is set back must not put a click before its impression."""
    shift = Shift("now")
    stamps = [int(shift.apply(np.array([T0]), None, wall)[0]) for wall in (T0 + 50, T0 + 20, T0 + 60)]
    assert stamps == [T0 + 50, T0 + 50, T0 + 60]


def test_kept_times_are_untouched() -> None:
    times = np.array([T0, T0 + 5])
    assert Shift("keep").apply(times, np.array([0.0, 1.0]), 5) is times
    with pytest.raises(PaceError, match="one of keep, now"):
        Shift("later")  # type: ignore[arg-type]


@given(st.lists(st.floats(0.0, 5.0), min_size=1, max_size=200))
def test_lateness_quantiles_bound_the_exact_ones_by_a_bin(values: list[float]) -> None:
    late = Lateness()
    for value in values:
        late.add(value)
    exact = float(np.quantile(values, 0.99, method="inverted_cdf"))
    assert late.worst_s == max(values)
    assert exact - 1e-9 <= late.quantile(0.99) <= exact + 0.001 + 1e-9


def test_an_early_batch_is_not_negative_lateness() -> None:
    late = Lateness()
    late.add(-0.5)
    assert (late.worst_s, late.quantile(0.99)) == (0.0, 0.0)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(any), st.integers(1, 400))
def test_retimed_events_follow_the_curve(make: Any, counts: list[int], n: int) -> None:
    """In every step as many events as the curve says, up to one at its edges."""
    curve = ArrivalCurve.from_counts(T0, 1000, np.array(counts))
    log = make.log(*(make.impression(k, k) for k in range(n)))
    times = pl.concat(list(retime(log, curve).chunks(64)))["event_time"].to_numpy()
    assert (np.diff(times) >= 0).all()
    got = np.bincount((times - T0) // 1000, minlength=len(counts))
    assert got.size == len(counts)
    want = n * np.array(counts) / sum(counts)
    assert np.abs(np.cumsum(got) - np.cumsum(want)).max() <= 1.0
    assert (got[np.array(counts) == 0] == 0).all()


def test_retiming_by_its_own_curve_changes_little(make: Any) -> None:
    log = make.steady(400, gap_ms=25)
    again = pl.concat(list(retime(log, ArrivalCurve.of(log, step_ms=100)).chunks()))
    assert np.abs(again["event_time"].to_numpy() - log.table["event_time"].to_numpy()).max() <= 100


def test_retiming_keeps_actions_behind_their_impressions_and_counts(make: Any) -> None:
    log = make.steady(300)
    spike = make.log(*(make.impression(k, 0 if k < 90 else k) for k in range(100)), name="spike")
    done = retime(log, spike)
    table = pl.concat(list(done.chunks(37)))
    shown: set[str] = set()
    for event, key in table.select("event", "impression_id").iter_rows():
        if event == "impression":
            shown.add(key)
        else:
            assert key in shown
    info, before = done.info(), log.info()
    assert (info.impressions, info.by_action) == (before.impressions, before.by_action)
    assert info.first_ms is not None and info.first_ms >= T0


def test_a_curve_without_arrivals_is_refused(make: Any) -> None:
    with pytest.raises(LogError, match="positive sum"):
        ArrivalCurve.from_counts(T0, 1000, np.zeros(5))
    with pytest.raises(LogError, match="empty log"):
        ArrivalCurve.of(
            make.log(make.impression(1, 0)).__class__(make.frame(make.impression(1, 0)).head(0), "none")
        )


def test_one_wrong_clock_does_not_make_a_curve_of_decades(make: Any) -> None:
    """Fails when every second of the span has a slot of its own: a row of the year 2037 was gigabytes."""
    far_ms = 20 * 365 * 86_400_000
    log = make.log(*(make.impression(k, k * 500) for k in range(9)), make.impression(9, far_ms))
    curve = ArrivalCurve.of(log)
    assert curve.edges_ms.size < 20
    again = pl.concat(list(retime(log, curve).chunks()))["event_time"] - T0
    assert again.max() // 1000 == far_ms // 1000 and again[:9].max() < 5000
