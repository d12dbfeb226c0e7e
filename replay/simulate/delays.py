"""How long after an impression each action comes.

Clicks follow within seconds (log-normal, median 1.5 s, our choice: people answer a list at the speed of
reading, so this one is never scaled). Cart, favourite and purchase follow the click with log-normal
delays fitted to Taobao's UserBehavior log, the purchase tied to 55 % within 15 minutes (DEFER, Gu et al.
2021, arXiv 2104.14121). Refunds have no public delay: median one hour, the regret of the night, is ours.
"""

from __future__ import annotations

import math

import numpy as np

#: Fitted by ``replay.simulate.fit`` to Taobao UserBehavior, 2017-11-26 01:00 to 03:10 UTC.
TAOBAO: dict[str, float] = {
    "cart_median_s": 387.6574,
    "cart_sigma": 1.25,
    "cart_per_click": 0.0616,
    "favourite_median_s": 368.0779,
    "favourite_sigma": 1.05,
    "favourite_per_click": 0.0344,
    "purchase_median_s": 754.8121,
    "purchase_sigma": 1.4,
    "purchase_per_click": 0.0253,
}

#: Published share of Taobao's conversions that come within the published time (DEFER).
WITHIN_S = 900.0
WITHIN_SHARE = 0.55

CLICK_MEDIAN_S, CLICK_SIGMA, CLICK_CAP_S = 1.5, 0.8, 30.0

#: Action -> median (s, from its cause) and sigma of the log-normal; the refund's cause is the purchase.
DELAYS: dict[str, tuple[float, float]] = {
    "cart": (TAOBAO["cart_median_s"], TAOBAO["cart_sigma"]),
    "favourite": (TAOBAO["favourite_median_s"], TAOBAO["favourite_sigma"]),
    "purchase": (TAOBAO["purchase_median_s"], TAOBAO["purchase_sigma"]),
    "refund": (3600.0, 1.0),
}


def click_delay(rng: np.random.Generator, n: int) -> np.ndarray:
    """Seconds from impression to click, float64 (n,), at most ``CLICK_CAP_S``."""
    return np.minimum(CLICK_MEDIAN_S * np.exp(CLICK_SIGMA * rng.standard_normal(n)), CLICK_CAP_S)


def action_delay(rng: np.random.Generator, action: str, n: int) -> np.ndarray:
    """Seconds of the night from an action's cause to it, float64 (n,), not scaled and not capped."""
    median, sigma = DELAYS[action]
    return median * np.exp(sigma * rng.standard_normal(n))


def normal_cdf(z: np.ndarray) -> np.ndarray:
    """Standard normal distribution function, elementwise."""
    return np.array([0.5 * math.erfc(-v / math.sqrt(2.0)) for v in np.ravel(z)]).reshape(np.shape(z))


def median_through(at_s: float, share: float, sigma: float) -> float:
    """Median of the log-normal with ``sigma`` of which ``share`` lies below ``at_s``.

    >>> round(median_through(900.0, 0.5, 1.3), 6)
    900.0
    """
    low, high = -8.0, 8.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if float(normal_cdf(np.array(middle))) < share else (low, middle)
    return at_s * math.exp(-low * sigma)
