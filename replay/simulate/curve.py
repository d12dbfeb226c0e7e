"""The arrival curve of the night: pre-heat, the jump at 00:00, second waves, the small hours.

Intensity at ``h`` hours after midnight (in units that are scaled away):

    day(h) * (1 + (G - 1) * ramp(h)) + J * surge(h)

``day`` is the daily swing with its trough at 05:00; ``ramp`` climbs exponentially to midnight and fades
with the crowd; ``surge`` rises within seconds and falls with two time constants, and comes again, smaller,
at 01:00 and 02:00 (new coupons; the heights of these waves are our choice). ``J`` is solved so that the
busiest minute is ``jump_ratio`` times the median minute.
"""

from __future__ import annotations

import numpy as np

from replay.simulate.config import ConfigError

#: Fitted by ``replay.simulate.fit`` to requests a minute of the 1998 World Cup site (Arlitt and Jin).
WORLDCUP98: dict[str, float] = {
    "peak_over_median": 59.0695,
    "steepest_minute": 12.0487,
    "ramp_tau_h": 2.9151,
    "fast_tau_min": 6.5,
    "slow_tau_min": 28.0,
    "fast_share": 0.5428,
    "day_swing": 0.2988,
}
#: Fitted to the days of 9,617 Tmall users around Double 11 (sampled with a bias; growth of a day).
TMALL: dict[str, float] = {
    "preheat_gain": 3.2530,
    "day_gain": 4.7960,
    "share_on_1111": 0.5808,
}

RISE_S = 15.0
WAVES: tuple[tuple[float, float], ...] = ((0.0, 1.0), (1.0, 0.12), (2.0, 0.06))
DAY_TROUGH_H = 5.0
#: The largest ``J``: beside it nothing is left of the background.
ONLY_JUMP = 1e6
#: Below what a night without a jump has by no more than this share of it is that night.
RATIO_TOLERANCE = 0.02
#: Points of the intensity's grid: every second of the night around midnight, every minute elsewhere.
DENSE_H = (-6.0, 10.0)


def surge(h: np.ndarray) -> np.ndarray:
    """The jump and its waves at ``h`` hours after midnight, (n,); about 1 at its top, 0 before 00:00."""
    fast, slow = WORLDCUP98["fast_tau_min"] / 60.0, WORLDCUP98["slow_tau_min"] / 60.0
    share = WORLDCUP98["fast_share"]
    total = np.zeros_like(h)
    for start, height in WAVES:
        since = np.maximum(h - start, 0.0)
        fall = share * np.exp(-since / fast) + (1.0 - share) * np.exp(-since / slow)
        total += height * (1.0 - np.exp(-since * 3600.0 / RISE_S)) * fall
    return total


def background(h: np.ndarray) -> np.ndarray:
    """Everything but the jump at ``h`` hours after midnight, (n,)."""
    day = np.exp(-WORLDCUP98["day_swing"] * np.cos(2.0 * np.pi * (h - DAY_TROUGH_H) / 24.0))
    climb = np.exp(np.minimum(h, 0.0) / WORLDCUP98["ramp_tau_h"])
    fade = np.exp(-np.maximum(h, 0.0) * 60.0 / WORLDCUP98["slow_tau_min"])
    return np.asarray(day * (1.0 + (TMALL["preheat_gain"] - 1.0) * climb * fade))


def jump_height(hours: float, jump_ratio: float) -> float:
    """``J`` for which the busiest minute of the night is ``jump_ratio`` times the median minute.

    Raises ``ConfigError`` where no jump gives it: in a short night the median minute is part of the surge,
    and without any jump the evening is still busier than the small hours.
    """
    h = _grid(hours)
    base, jump = _minutes(h, background(h)), _minutes(h, surge(h))

    def ratio(height: float) -> float:
        minutes = base + height * jump
        return float(minutes.max() / np.median(minutes))

    least, most = ratio(0.0), ratio(ONLY_JUMP)
    if not (1.0 - RATIO_TOLERANCE) * least <= jump_ratio <= most:
        raise ConfigError(
            f"jump_ratio must be between {least:.2f} and {most:.5g} in a night of {hours:g} hours, "
            f"not {jump_ratio!r}"
        )
    low, high = 0.0, 1.0
    while ratio(high) < jump_ratio:
        high *= 2.0
    for _ in range(50):
        middle = (low + high) / 2.0
        low, high = (middle, high) if ratio(middle) < jump_ratio else (low, middle)
    return (low + high) / 2.0


class ArrivalCurve:
    """Expected impressions over a span of event time whose middle is midnight.

    ``span_s``: seconds of event time; ``hours``: hours of the night that they stand for; ``rate``: mean
    impressions per second over the span.
    """

    def __init__(self, span_s: float, hours: float, rate: float, jump_ratio: float) -> None:
        h = _grid(hours)
        self.height = jump_height(hours, jump_ratio)
        shape = background(h) + self.height * surge(h)
        area = np.concatenate([[0.0], np.cumsum((shape[1:] + shape[:-1]) / 2.0 * np.diff(h))])
        self._t = (h + hours / 2.0) / hours * span_s
        self._total = area / area[-1] * rate * span_s

    def expected(self, t: np.ndarray | float) -> np.ndarray:
        """Impressions expected before ``t`` seconds after the start."""
        return np.asarray(np.interp(t, self._t, self._total))

    def when(self, expected: np.ndarray) -> np.ndarray:
        """The inverse of ``expected``: seconds after the start by which so many have come."""
        return np.asarray(np.interp(expected, self._total, self._t))


def _grid(hours: float) -> np.ndarray:
    """Hours after midnight, ascending, from ``-hours/2`` to ``hours/2``; 00:00 is on it twice.

    The jump has a corner at midnight: two points a tenth of a second apart keep it out of the hour before.
    """
    half = hours / 2.0
    low, high = max(-half, DENSE_H[0]), min(half, DENSE_H[1])
    dense = np.linspace(low, high, max(2, round((high - low) * 3600.0)) + 1)
    left = np.linspace(-half, low, round((low + half) * 60.0) + 1)[:-1]
    right = np.linspace(high, half, round((half - high) * 60.0) + 1)[1:]
    return np.unique(np.concatenate([left, dense, right, [0.0, 1.0 / 36_000.0]]))


def _minutes(h: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Mean of ``shape`` in each minute of the night."""
    area = np.concatenate([[0.0], np.cumsum((shape[1:] + shape[:-1]) / 2.0 * np.diff(h))])
    edges = np.arange(h[0], h[-1] - 0.99 / 60.0, 1.0 / 60.0)
    return np.asarray((np.interp(edges + 1.0 / 60.0, h, area) - np.interp(edges, h, area)) * 60.0)
