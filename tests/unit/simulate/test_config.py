"""Fails when a bad setting is taken, or refused without naming the field and what is allowed."""

from __future__ import annotations

import math

import pytest

from replay.simulate import ConfigError, Double11Config
from replay.simulate.config import RANGES


@pytest.mark.parametrize("field", sorted(RANGES))
def test_each_range_is_checked_and_named(field: str) -> None:
    low, high = RANGES[field]
    for wrong in (low - 1, high * 2 + 1, math.nan):
        with pytest.raises(ConfigError, match=rf"^{field} must be between .* and "):
            Double11Config(**{field: wrong})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "best"}, "policy must be one of logged, random, oracle"),
        ({"slate_min": 8, "slate_max": 4}, r"slate_max must be at least slate_min \(8\)"),
        ({"candidates": 5}, r"candidates must be at least slate_max \(10\)"),
        ({"items": 20}, r"items must be at least twice candidates \(24\)"),
        ({"minutes": 120.0, "hours": 1.0}, "hours must be at least the span itself"),
        ({"start": "tomorrow"}, "start must be an ISO time"),
        ({"start": "1999-01-01"}, "start must be after 2000-01-01"),
    ],
)
def test_settings_must_fit_together(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Double11Config(**settings)  # type: ignore[arg-type]


def test_midnight_of_the_default_is_double_eleven_in_beijing() -> None:
    config = Double11Config(minutes=20.0)
    assert config.start_ms + config.midnight_s * 1000 == 1_762_790_400_000  # 2025-11-10T16:00Z


def test_a_start_without_zone_is_utc() -> None:
    assert Double11Config(start="2025-01-01T00:00:00").start_ms == 1_735_689_600_000
    assert Double11Config(start="2025-01-01T08:00:00+08:00").start_ms == 1_735_689_600_000


def test_a_night_is_pressed_together_but_never_stretched() -> None:
    assert Double11Config(minutes=20.0).speed == pytest.approx(24.0)
    assert Double11Config(minutes=480.0).speed == pytest.approx(1.0)
    assert Double11Config(minutes=6_000.0).speed == pytest.approx(1.0)
