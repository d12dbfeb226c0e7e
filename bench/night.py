"""Clicks of simulated nights foretold: how much of the way from frozen to hindsight the engine goes.

Trunks are fitted on the evening (``FITTED``: all but its last two minutes), and everything is measured on
what follows: the last calm minutes and the sale. A midnight moves every item, so that a frozen model ends
far from hindsight.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from bench import _lightgbm_peer, _machine, _metrics, _river_peer, _trunks, _vw_peer
from bench._engine_pass import run
from bench._peer_features import plain, recency
from bench._registry import BenchError, Options, Result, say
from bench._rows import BoolArray, FloatArray, codes, impressions_of, steps_by_tick, touched, touches_of
from contracts.scenario import Scenario
from replay.simulate import Double11, Double11Config
from surgeline.times import stamp

FIRST_SEED, SEEDS = 21, 5
RATE, JUMP_RATIO = 250.0, 12.0
MINUTES, QUICK_MINUTES = 20.0, 8.0
#: Measured from this long before midnight on; trunks are fitted on what precedes.
EVALUATED_S = 120.0
#: Of the way from today's frozen trunk of ids to hindsight, the engine must go this part.
LIMIT_CLOSED = 0.88
SIDES = {
    "frozen_ids": "frozen network on ids",
    "frozen": "frozen head of the engine's trunk",
    "trees_frozen": "   (LightGBM frozen in the evening)",
    "river": "peer: River, hashed logistic",
    "vw": "peer: Vowpal Wabbit, its best",
    "engine": "engine",
    "hindsight": "ceiling: LightGBM with hindsight",
    "item_oracle": "ceiling: items' true effects",
    "truth": "ceiling: the truth itself",
}
PARTS = ("all", "calm", "sale")


def measure(options: Options) -> Result:
    """Every side on every seed; means over seeds."""
    count = options.seeds or (1 if options.quick else SEEDS)
    facts = _machine.facts()
    minutes = QUICK_MINUTES if options.quick else MINUTES
    nights = {}
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        say(f"night of seed {seed}")
        config = Double11Config(minutes=minutes, rate=RATE, jump_ratio=JUMP_RATIO, seed=seed)
        nights[str(seed)] = one = night(config)
        losses = ", ".join(f"{side} {loss:.4f}" for side, loss in one["parts"]["all"].items())
        say(f"seed {seed}: {losses}; closed {one['closed']:.3f}, calm {one['calm_difference']:+.5f}")
    return {**combine(nights), "quick": options.quick, "minutes": minutes, "machine": facts}


def combine(nights: dict[str, Result]) -> Result:
    """Means over nights: each side's log loss under its name, by part of the night under ``parts``."""

    def mean(part: str, side: str) -> float:
        return float(np.mean([one["parts"][part][side] for one in nights.values()]))

    parts = {part: {side: mean(part, side) for side in SIDES} for part in PARTS}
    return {
        **parts["all"],
        "closed": float(np.mean([one["closed"] for one in nights.values()])),
        "calm_difference": float(np.mean([one["calm_difference"] for one in nights.values()])),
        "parts": parts,
        "limits": {"closed": LIMIT_CLOSED, "calm_difference": 0.0},
        "seeds": nights,
    }


def night(config: Double11Config) -> Result:
    """One night: log losses of every side in every part, and what the engine closed."""
    events, truth = _simulated(config)
    shown = impressions_of(events)
    times = shown["event_time"].to_numpy()
    midnight = config.start_ms + round(config.midnight_s * 1000)
    begin = midnight - round(EVALUATED_S * 1000)
    cut = int(np.searchsorted(times, begin))
    if not 0 < cut < len(times):
        raise BenchError(f"a night of {config.minutes:g} minutes has no evening to fit a trunk on")
    sides, clicked, about = _sides(config, events, shown, begin, cut)
    rows = shown.select("impression_id").join(truth, on="impression_id", how="left", maintain_order="left")
    sides |= {"truth": rows["p_click"].to_numpy(), "item_oracle": rows["p_click_item"].to_numpy()}
    masks = {"all": times >= begin, "calm": (times >= begin) & (times < midnight), "sale": times >= midnight}
    parts = {part: _log_losses(sides, clicked, mask) for part, mask in masks.items()}
    return {
        "parts": parts,
        "closed": closed(parts["all"]),
        "calm_difference": parts["calm"]["engine"] - parts["calm"]["frozen"],
        "impressions": {part: int(mask.sum()) for part, mask in masks.items()},
        "clicks": {part: int(clicked[mask].sum()) for part, mask in masks.items()},
        "fitted_on": cut,
        "from": stamp(begin),
        **about,
    }


def closed(losses: dict[str, float]) -> float:
    """Which part of the way from the frozen trunk of ids to hindsight the engine went."""
    return (losses["frozen_ids"] - losses["engine"]) / (losses["frozen_ids"] - losses["hindsight"])


def _simulated(config: Double11Config) -> tuple[pl.DataFrame, pl.DataFrame]:
    made = Double11(config).night()
    return made.log, made.truth


def _sides(
    config: Double11Config, events: pl.DataFrame, shown: pl.DataFrame, begin: int, cut: int
) -> tuple[dict[str, FloatArray], BoolArray, Result]:
    """Predictions (n,) of every side but the simulator's own, the labels, and what was chosen."""
    scenario = Scenario()
    with tempfile.TemporaryDirectory(prefix="surgeline-bench-") as name:
        say("training the trunks")
        samples = _trunks.samples_before(events, begin, scenario)
        trunk = _trunks.trained(samples, Path(name) / "trunk", "network", scenario)
        ids = _trunks.trained(samples.of_ids(), Path(name) / "ids", "network", scenario)
    say(f"the engine over {events.height:,} events")
    engine = run(events, shown["impression_id"].to_list(), scenario, trunk, begin)
    clicked = engine.clicked
    found = {
        "engine": engine.engine,
        "frozen": engine.predictions["frozen"],
        "frozen_ids": _trunks.frozen_predictions(ids, shown),
    }
    say("LightGBM, frozen and with hindsight")
    found["trees_frozen"] = _lightgbm_peer.frozen(engine.features, clicked, cut)
    found["hindsight"] = _lightgbm_peer.cross_fitted(engine.features, clicked, codes(shown["user_id"]))
    river, vw = _online_peers(events, shown, clicked, scenario)

    def loss(side: FloatArray) -> float:
        return float(_metrics.losses(side[cut:], clicked[cut:]).mean())

    # The variant that did best where it is measured: this favours the peer.
    best = {"river": min(river, key=lambda k: loss(river[k])), "vw": min(vw, key=lambda k: loss(vw[k]))}
    found |= {"river": river[best["river"]], "vw": vw[best["vw"]]}
    about = {
        "best": best,
        "variants": {
            f"{peer} {k}": loss(p) for peer, one in (("river", river), ("vw", vw)) for k, p in one.items()
        },
        "learners": {k: loss(p) for k, p in engine.predictions.items()},
        "features": len(engine.names),
    }
    return found, clicked, about


def _online_peers(
    events: pl.DataFrame, shown: pl.DataFrame, clicked: BoolArray, scenario: Scenario
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """River and Vowpal Wabbit on the whole night, a label known when the engine's label closes."""
    window = round(scenario.times.label_window_s * 1000)
    steps = steps_by_tick(shown["event_time"].to_numpy(), round(scenario.times.tick_s * 1000), window)
    touches = touches_of(events)
    count, _ = touched(shown, touches, ["user_id", "item_id"])
    ids = ["user_id", "item_id", "category_id", "shop_id"]
    features = plain(shown, clicked, steps, ids, count)
    categories = shown.select("item_id", "category_id").unique("item_id")
    by_category = touches.join(categories, on="item_id", how="inner")
    timed = features.with_columns(
        recency(shown, by_category, ["user_id", "category_id"], "since_category"),
        recency(shown, by_category.select("user_id", "event_time"), ["user_id"], "since_user"),
    )
    river, vw = {}, {}
    for suffix, columns in {"": features, "_recency": timed}.items():
        for learner in _vw_peer.LEARNERS:
            say(f"Vowpal Wabbit: {learner}{suffix}")
            vw[learner + suffix] = _vw_peer.predict(columns, clicked, steps, learner)
        say(f"River: logistic{suffix}")
        river[f"logistic{suffix}"] = _river_peer.predict(columns, clicked, steps)
    return river, vw


def _log_losses(sides: dict[str, FloatArray], clicked: BoolArray, mask: BoolArray) -> dict[str, float]:
    return {
        name: float(_metrics.losses(np.asarray(sides[name], dtype=np.float64)[mask], clicked[mask]).mean())
        for name in SIDES
    }


def broken(result: Result) -> list[str]:
    """The limits that do not hold."""
    found = []
    # NaN fails both.
    if not result["closed"] >= LIMIT_CLOSED:
        found.append(
            f"the engine closed {result['closed']:.3f} of the way; at least {LIMIT_CLOSED:g} is asked"
        )
    if not result["calm_difference"] <= 0.0:
        found.append(
            f"before midnight the engine's log loss is {result['calm_difference']:+.5f} beside the frozen "
            "head's; not worse is asked"
        )
    return found


def table(result: Result) -> str:
    """Figures, peers and limits in words."""
    nights, machine = result["seeds"], result["machine"]
    first = next(iter(nights.values()))
    lines = [
        f"Nights of {result['minutes']:g} minutes at {RATE:g} impressions/s, jump {JUMP_RATIO:g}, "
        f"{len(nights)} seeds ({', '.join(nights)}); log loss from {first['from']} on",
        "",
        f"{'':<36}{'mean':>8}{'calm':>9}{'sale':>9}   " + "".join(f"{seed:>9}" for seed in nights),
    ]
    for side, words in SIDES.items():
        means = "".join(f"{result['parts'][part][side]:>9.4f}" for part in PARTS)
        each = "".join(f"{one['parts']['all'][side]:>9.4f}" for one in nights.values())
        lines.append(f"{words:<35}{means}   {each}")
    each = "".join(f"{one['closed']:>9.3f}" for one in nights.values())
    lines += [
        f"{'closed':<35}{result['closed']:>9.3f}{'':>18}   {each}",
        "",
        f"closed = (frozen_ids - engine) / (frozen_ids - hindsight): {result['closed']:.3f}; "
        f"limit {LIMIT_CLOSED:g}",
        f"calm: engine less frozen head {result['calm_difference']:+.5f}; limit 0. "
        f"The limits {'are BROKEN' if broken(result) else 'hold'}.",
        "",
        f"Trunks are fitted on the evening before that ({first['fitted_on']:,} impressions in the first",
        "night) and put in then: counts go on, learners begin at the frozen head. Online peers learn from",
        "the first row on, a label when the engine's label closes. Hindsight sees the whole night of other",
        f"users, on the engine's {first['features']} as-of features. Calm: the last "
        f"{EVALUATED_S / 60:g} minutes before midnight.",
        f"Machine: {machine['cores']} cores, {machine['cpu']}, {machine['memory_gb']} GB, "
        f"{machine['system']}, Python {machine['python']}, load before {machine['load']}.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    from bench.__main__ import main

    main(["night", *sys.argv[1:]])
