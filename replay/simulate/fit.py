"""Refit the simulator's curves from the public logs, where they are present.

``python -m replay.simulate.fit`` prints each fitted number beside the one in the code. The logs are found
through ``SURGELINE_DATA``, else ``../shared/data`` beside the project; none of them is part of it.

- World Cup 98 (Arlitt and Jin, 1998): requests a minute to the site, 1998-04-30 to 07-26.
- Tmall (repeat-buyer challenge, 2014): behaviour of 9,617 users by day up to Double 11.
- Taobao UserBehavior (Alibaba, 2018): views, carts, favourites and purchases by the second.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import polars as pl

from replay.simulate import curve, delays

ROOT = Path(__file__).resolve().parents[2]


def data_home() -> Path:
    """Where the public logs are looked for."""
    return Path(os.environ.get("SURGELINE_DATA", ROOT.parent / "shared" / "data"))


def fit_worldcup(counts: np.ndarray, hours: np.ndarray) -> dict[str, float]:
    """Flash-crowd shape of ``counts`` (n,), requests a minute; ``hours`` (n,): UTC hour of each minute.

    The ramp is the log-linear slope from 150 to 25 minutes before the busiest minute; the fall is a
    floor and two exponentials over the hour after it; the day is the median of log counts by hour.
    """
    x = counts.astype(np.float64)
    top = int(x.argmax())
    ramp = np.log(x[top - 150 : top - 25])
    slope = float(np.polyfit(np.arange(ramp.size), ramp, 1)[0])
    fast, slow, share = _fit_fall(x[top : top + 61] / x[top])
    busy = x[:-1] > 1000.0
    day = np.array([np.median(np.log1p(x[hours == hour])) for hour in range(24)])
    day -= day.mean()
    angle = 2.0 * np.pi * np.arange(24) / 24.0
    return {
        "peak_over_median": float(x[top] / np.median(x)),
        "steepest_minute": float((x[1:] / np.maximum(x[:-1], 1.0))[busy].max()),
        "ramp_tau_h": 1.0 / slope / 60.0,
        "fast_tau_min": fast,
        "slow_tau_min": slow,
        "fast_share": share,
        "day_swing": float(np.hypot((day * np.cos(angle)).mean(), (day * np.sin(angle)).mean()) * 2.0),
    }


def _fit_fall(y: np.ndarray) -> tuple[float, float, float]:
    """Minutes and share of two exponentials plus a floor, by grid search with linear least squares."""
    t = np.arange(y.size, dtype=np.float64)
    best = (math.inf, 0.0, 0.0, 0.0)
    for fast in np.arange(1.0, 12.01, 0.5):
        for slow in np.arange(15.0, 60.01, 1.0):
            basis = np.stack([np.exp(-t / fast), np.exp(-t / slow), np.ones_like(t)], axis=1)
            weights, *_ = np.linalg.lstsq(basis, y, rcond=None)
            if weights.min() < 0.0:
                continue
            error = float(((basis @ weights - y) ** 2).sum())
            if error < best[0]:
                best = (error, float(fast), float(slow), float(weights[0] / (weights[0] + weights[1])))
    return best[1], best[2], best[3]


def fit_tmall(days: np.ndarray) -> dict[str, float]:
    """Growth and share of Double 11 from ``days`` (n,), one ``mmdd`` an action."""
    on = {day: float((days == day).sum()) for day in (1109, 1110, 1111)}
    return {
        "preheat_gain": on[1110] / on[1109],
        "day_gain": on[1111] / on[1110],
        "share_on_1111": on[1111] / float((days <= 1111).sum()),
    }


def fit_delays(log: pl.DataFrame) -> dict[str, float]:
    """Log-normal delays from the first view to cart, favourite and purchase of the same user and item.

    Only delays that fit before the log's end can be seen, so each is conditioned on that. The median of
    purchases is not free: 55 % of conversions come within 15 minutes (DEFER).
    """
    end = int(log["time"].to_numpy().max())
    views = (
        log.filter(pl.col("action") == "pv").group_by("user", "item").agg(pl.col("time").min().alias("t0"))
    )
    found: dict[str, float] = {}
    for action, name in (("cart", "cart"), ("fav", "favourite"), ("buy", "purchase")):
        later = log.filter(pl.col("action") == action).group_by("user", "item")
        pairs = later.agg(pl.col("time").min().alias("t1")).join(views, on=["user", "item"])
        pairs = pairs.filter(pl.col("t1") > pl.col("t0")).sort("user", "item")
        delay = (pairs["t1"] - pairs["t0"]).to_numpy().astype(np.float64)
        room = end - pairs["t0"].to_numpy().astype(np.float64) + 1.0
        found[f"{name}_median_s"], found[f"{name}_sigma"] = _fit_lognormal(delay, room, name == "purchase")
        kind = log.filter(pl.col("action") == action).height
        found[f"{name}_per_click"] = kind / log.filter(pl.col("action") == "pv").height
    return found


def _fit_lognormal(delay: np.ndarray, room: np.ndarray, tied: bool) -> tuple[float, float]:
    """Median (s) and sigma with the largest likelihood, given that ``delay`` is below ``room``."""
    best = (-math.inf, 0.0, 0.0)
    for sigma in np.arange(0.6, 3.01, 0.05):
        tied_median = delays.median_through(900.0, 0.55, float(sigma))
        for median in [tied_median] if tied else np.geomspace(60.0, 3600.0, 80):
            z = np.log(delay / median) / sigma
            seen = delays.normal_cdf(np.log(room / median) / sigma)
            likelihood = float((-0.5 * z * z - np.log(sigma) - np.log(np.maximum(seen, 1e-12))).sum())
            if likelihood > best[0]:
                best = (likelihood, float(median), float(sigma))
    return best[1], best[2]


def refit(home: Path | None = None) -> dict[str, dict[str, float]]:
    """Fits of every log found under ``home``, by its name; empty where there is none."""
    home = home or data_home()
    fits: dict[str, dict[str, float]] = {}
    path = home / "worldcup98" / "invocation_count.csv"
    if path.exists():
        frame = pl.read_csv(path)
        hours = frame["period"].str.slice(11, 2).cast(pl.Int64).to_numpy()
        fits["worldcup98"] = fit_worldcup(frame["count"].to_numpy(), hours)
    path = home / "tmall" / "events.csv"
    if path.exists():
        fits["tmall"] = fit_tmall(pl.read_csv(path, columns=["mmdd"])["mmdd"].to_numpy())
    path = home / "taobao" / "UserBehavior.csv"
    if path.exists():
        names = ["user", "item", "category", "action", "time"]
        fits["taobao"] = fit_delays(pl.read_csv(path, has_header=False, new_columns=names))
    return fits


def in_code() -> dict[str, dict[str, float]]:
    """The numbers that the simulator uses, under the names of ``refit``."""
    return {"worldcup98": curve.WORLDCUP98, "tmall": curve.TMALL, "taobao": delays.TAOBAO}


def main() -> None:
    """Print every fit beside the number in the code."""
    fits = refit()
    if not fits:
        print(f"no public log under {data_home()}: set SURGELINE_DATA")
    for log, numbers in fits.items():
        for name, value in numbers.items():
            print(f"{log:<11} {name:<22} fitted {value:>9.4f}   in code {in_code()[log][name]:>9.4f}")


if __name__ == "__main__":
    main()
