"""The trunks of a closed loop: trained on the evening before, as the logging policy showed it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator

import msgspec
import polars as pl

from contracts.scenario import Scenario
from models.deep.fitted import Options
from models.deep.manifest import Training
from models.train import train_from_samples
from replay.simulate import Double11
from surgeline.closed_loop.plan import OF_IDS, SETTINGS, Plan
from surgeline.training_pass import collect

#: Impressions of the evening that a trunk is trained on.
IMPRESSIONS = 60_000


def train_on_evening(plan: Plan, trunks: Iterable[str]) -> dict[str, Training]:
    """Train ``trunks`` (see ``surgeline.closed_loop.plan``) on the same impressions, into their folders."""
    scenario = msgspec.convert(tomllib.loads(SETTINGS), Scenario)
    samples, _ = collect(_evening(plan), scenario)
    return {
        name: train_from_samples(
            samples.of_ids() if name == OF_IDS else samples,
            plan.folder / name,
            "network",
            Options(hidden_size=32, epochs=10),
            log="the evening",
            label_window_s=scenario.times.label_window_s,
        ).training
        for name in trunks
    }


def _evening(plan: Plan) -> Iterator[pl.DataFrame]:
    config = plan.config
    shown = float(Double11(config).curve.expected(plan.from_s))
    # More traffic in the same world: a model that serves has seen more than a few minutes of it.
    busier = msgspec.structs.replace(config, rate=config.rate * IMPRESSIONS / shown, regret=False)
    end = config.start_ms + round(plan.from_s * 1000)
    for log, _ in Double11(busier).frames():
        yield log.filter(pl.col("event_time") < end)
        if int(log["event_time"][-1]) >= end:
            return
