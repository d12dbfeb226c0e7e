"""Settings of a simulated Double 11: everything has a default, every range is checked by name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

import msgspec

from contracts.limits import MIN_EVENT_TIME
from replay.errors import ReplayError

Policy = Literal["logged", "random", "oracle"]
POLICIES: tuple[str, ...] = get_args(Policy)

#: 2025-11-11 00:00 in Beijing: where the midnight of a stream without ``start`` lies.
DEFAULT_MIDNIGHT = datetime(2025, 11, 10, 16, tzinfo=UTC)
#: The night that a short stream stands for: four hours of pre-heat, four hours of sale.
NIGHT_HOURS = 8.0

#: Field -> smallest and largest value allowed.
RANGES: dict[str, tuple[float, float]] = {
    "minutes": (0.05, 525_600.0),
    "rate": (1.0, 1e7),
    "seed": (0, 2**63 - 1),
    "hours": (0.5, 8_760.0),
    "jump_ratio": (1.5, 500.0),
    "users": (10, 100_000_000),
    "items": (20, 10_000_000),
    "categories": (2, 1_000_000),
    "shops": (2, 10_000_000),
    "candidates": (2, 100),
    "slate_min": (1, 100),
    "slate_max": (1, 100),
    "dim": (1, 64),
    "base_ctr": (0.001, 0.5),
    "base_cvr": (0.001, 0.5),
    "shock_mean": (-5.0, 5.0),
    "shock_sd": (0.0, 3.0),
    "shifted_categories": (0.0, 1.0),
    "shift_sd": (0.0, 3.0),
    "hot_share": (0.0, 0.5),
    "new_share": (0.0, 0.5),
    "stockout_share": (0.0, 0.9),
    "bot_share": (0.0, 0.5),
    "delay_scale": (0.01, 100_000.0),
    "max_delay_h": (0.01, 168.0),
    "cell_s": (0.05, 3_600.0),
}


class ConfigError(ReplayError, ValueError):
    """A setting of the simulator cannot be used; the message names the field and what is allowed."""


class Double11Config(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One simulated night; equal settings give equal bytes.

    - ``minutes``: event time from first to last impression; midnight lies in the middle.
    - ``rate``: mean impressions per second over the span. The peak is far above it: see ``jump_ratio``.
    - ``start``: ISO time of the first event (UTC unless it says otherwise); by default midnight is
      2025-11-11 00:00 in Beijing.
    - ``hours``: hours of the real night that the span stands for, ``None`` for 8 or the span itself if
      that is longer. 20 minutes for 8 hours is a night at 24 times its speed.
    - ``jump_ratio``: the busiest minute of the night over its median minute.
    - ``candidates``: items retrieved a request, of which ``slate_min`` to ``slate_max`` are shown.
    - ``base_ctr``, ``base_cvr``: clicks per impression and purchases per click on an ordinary evening.
    - ``shock_mean``, ``shock_sd``: what 00:00 adds to each item's click logit, N(mean, sd).
    - ``shifted_categories``: share of categories whose level (N(0, ``shift_sd``)) and tastes move as well.
    - ``hot_share``, ``new_share``: share of items that turn hot, or appear, during the night.
    - ``stockout_share``: share of the sale's traffic whose items are made scarce.
    - ``bot_share``: share of requests sent by bots.
    - ``delay_scale``: conversions arrive this many times faster than published; ``None`` for the speed
      of the night (``hours`` over the span).
    - ``max_delay_h``: longest delay kept, in hours of the night; later conversions are never seen.
    - ``cell_s``: seconds of event time for which retrieval and stock badges are held still.
    - ``regret``: also score every candidate and compare with the oracle's ranking.
    """

    minutes: float = 20.0
    rate: float = 2000.0
    seed: int = 7
    start: str | None = None
    hours: float | None = None
    jump_ratio: float = 59.0
    users: int = 100_000
    items: int = 20_000
    categories: int = 200
    shops: int = 2_000
    candidates: int = 12
    slate_min: int = 4
    slate_max: int = 10
    dim: int = 8
    policy: Policy = "logged"
    base_ctr: float = 0.065
    base_cvr: float = 0.025
    shock_mean: float = 1.2
    shock_sd: float = 0.9
    shifted_categories: float = 0.25
    shift_sd: float = 0.8
    hot_share: float = 0.01
    new_share: float = 0.05
    stockout_share: float = 0.10
    bot_share: float = 0.03
    delay_scale: float | None = None
    max_delay_h: float = 6.0
    cell_s: float | None = None
    regret: bool = False

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:  # NaN fails both comparisons
                raise ConfigError(f"{name} must be between {low:g} and {high:g}, not {value!r}")
        if self.policy not in POLICIES:
            raise ConfigError(f"policy must be one of {', '.join(POLICIES)}, not {self.policy!r}")
        if self.slate_max < self.slate_min:
            raise ConfigError(
                f"slate_max must be at least slate_min ({self.slate_min}), not {self.slate_max}"
            )
        if self.candidates < self.slate_max:
            raise ConfigError(
                f"candidates must be at least slate_max ({self.slate_max}), not {self.candidates}"
            )
        if self.items < 2 * self.candidates:
            raise ConfigError(
                f"items must be at least twice candidates ({2 * self.candidates}), not {self.items}"
            )
        if self.hours is not None and self.hours < self.minutes / 60 / 1.0001:
            raise ConfigError(
                f"hours must be at least the span itself ({self.minutes / 60:g} h), not {self.hours!r}: "
                "a night can be pressed together, not stretched"
            )
        if self.start_ms < MIN_EVENT_TIME:
            raise ConfigError(f"start must be after 2000-01-01 UTC, not {self.start!r}")

    @property
    def span_s(self) -> float:
        """Event time of the whole stream, seconds."""
        return self.minutes * 60.0

    @property
    def night_h(self) -> float:
        """Hours of the real night that the span stands for."""
        return self.hours if self.hours is not None else max(NIGHT_HOURS, self.minutes / 60.0)

    @property
    def speed(self) -> float:
        """Seconds of the night in one second of event time; at least 1."""
        return self.night_h * 3600.0 / self.span_s

    @property
    def delay_speed(self) -> float:
        """How many times faster than published conversions arrive."""
        return self.speed if self.delay_scale is None else self.delay_scale

    @property
    def max_delay_s(self) -> float:
        """Longest delay after a click that is kept, seconds of event time."""
        return self.max_delay_h * 3600.0 / self.delay_speed

    @property
    def midnight_s(self) -> float:
        """When the sale starts, seconds after the stream's start: its middle, in whole milliseconds."""
        return round(self.span_s * 500.0) / 1000.0

    @property
    def cell(self) -> float:
        """Seconds for which retrieval and badges are held still: two minutes of the night, at most 60 s."""
        return self.cell_s if self.cell_s is not None else min(60.0, self.span_s / 240.0)

    @property
    def start_ms(self) -> int:
        """Event time of the stream's start, ms UTC."""
        if self.start is None:
            return _milliseconds(DEFAULT_MIDNIGHT) - round(self.midnight_s * 1000)
        try:
            moment = datetime.fromisoformat(self.start)
        except ValueError as error:
            raise ConfigError(
                f"start must be an ISO time such as 2025-11-10T23:50:00+08:00, not {self.start!r}"
            ) from error
        return _milliseconds(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _milliseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
