"""Fails when the mean rate is not the one asked for, or the jump is not where or as high as asked."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.simulate.config import ConfigError
from replay.simulate.curve import TMALL, WORLDCUP98, ArrivalCurve
from replay.simulate.fit import fit_tmall, fit_worldcup, in_code, refit


def by_minute(curve: ArrivalCurve, span_s: float, hours: float) -> np.ndarray:
    """Expected impressions of each whole minute of the night; a rest at its end is none."""
    edges = np.arange(math.floor(hours * 60.0 + 1e-9) + 1) * span_s / (hours * 60.0)
    return np.diff(curve.expected(edges))


@settings(max_examples=15, deadline=None)
@given(
    minutes=st.floats(0.1, 900.0) | st.just(497.5),
    rate=st.floats(1.0, 1e6),
    jump=st.floats(4.0, 300.0),
)
def test_mean_rate_and_jump_ratio_are_as_asked(minutes: float, rate: float, jump: float) -> None:
    span, hours = minutes * 60.0, max(8.0, minutes / 60.0)
    curve = ArrivalCurve(span, hours, rate, jump)
    assert float(curve.expected(span)) == pytest.approx(rate * span)
    counts = by_minute(curve, span, hours)
    assert counts.max() / np.median(counts) == pytest.approx(jump, rel=0.03)


@pytest.mark.parametrize(("hours", "jump"), [(0.5, 59.0), (2.0, 32.0), (24.0, 1.5)])
def test_a_jump_that_no_height_gives_is_refused(hours: float, jump: float) -> None:
    with pytest.raises(ConfigError, match=f"jump_ratio must be between .* in a night of {hours:g} hours"):
        ArrivalCurve(600.0, hours, 100.0, jump)


def test_the_jump_is_at_midnight_and_within_one_minute() -> None:
    counts = by_minute(ArrivalCurve(1200.0, 8.0, 2000.0, 59.0), 1200.0, 8.0)
    assert int(counts.argmax()) in (240, 241)
    assert counts[240] / counts[239] > WORLDCUP98["steepest_minute"]
    assert (np.diff(counts[:240]) > 0).mean() > 0.6  # pre-heat climbs
    assert counts[300:310].max() > 1.3 * counts[295:300].min()  # the wave of 01:00
    assert counts[470:].mean() < counts[:10].mean()  # the small hours


def test_two_days_around_midnight_are_shared_as_on_tmall() -> None:
    curve = ArrivalCurve(1200.0, 8.0, 2000.0, 59.0)
    after = 1.0 - float(curve.expected(600.0)) / float(curve.expected(1200.0))
    assert after == pytest.approx(TMALL["day_gain"] / (1 + TMALL["day_gain"]), abs=0.05)


def test_when_is_the_inverse_of_expected() -> None:
    curve = ArrivalCurve(60.0, 8.0, 100.0, 59.0)
    t = np.linspace(0.5, 59.5, 200)
    np.testing.assert_allclose(curve.when(curve.expected(t)), t, rtol=1e-6)


def test_the_fit_finds_a_known_crowd() -> None:
    minutes = np.arange(6 * 1440)
    counts = np.full(minutes.size, 2_000.0)
    top = 3 * 1440
    before, after = minutes[:top] - top, minutes[top:] - top
    counts[:top] += 8_000.0 * np.exp(before / 120.0)
    counts[top:] += 60_000.0 * np.exp(-after / 4.0) + 40_000.0 * np.exp(-after / 30.0)
    found = fit_worldcup(np.round(counts), minutes // 60 % 24)
    assert found["fast_tau_min"] == pytest.approx(4.0, abs=1.0)
    assert found["slow_tau_min"] == pytest.approx(30.0, abs=4.0)
    assert found["fast_share"] == pytest.approx(0.6, abs=0.1)
    found = fit_tmall(np.repeat([1109, 1110, 1111, 1112], [10, 30, 150, 5]))
    assert (found["preheat_gain"], found["day_gain"]) == (3.0, 5.0)


def test_numbers_in_the_code_are_those_of_the_logs_that_are_here() -> None:
    """Without the public logs there is nothing to compare; with them every number must agree."""
    for log, numbers in refit().items():
        for name, value in numbers.items():
            assert in_code()[log][name] == pytest.approx(value, rel=2e-3), (log, name)
