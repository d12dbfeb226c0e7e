"""Trunks and scenarios that the figures of accuracy compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from bench._engine_pass import CHUNK_ROWS
from bench._registry import BenchError
from bench._rows import CONTEXT, FloatArray
from contracts.scenario import Scenario
from features.defaults import DEFAULT
from models.deep.fitted import Options
from models.deep.load import load_trunk
from models.deep.samples import Samples
from models.deep.trunk import Trunk
from models.train import TrainError, train_from_samples
from surgeline.training_pass import collect

SEED = 0
#: What entries of these families are left with where nothing may count seconds since something.
WITHOUT_TIME: dict[str, dict[str, Any]] = {
    "recency": {"as": ["steps", "faded"]},
    "session": {"as": ["step", "sessions", "steps"]},
}
#: A key column that is made of seconds.
AGE = "touch_age"


def samples_before(events: pl.DataFrame, until: int, scenario: Scenario) -> Samples:
    """What the engine saw of ``events`` before ``until`` (ms), for trunks of every kind."""
    seen = events.head(int(events["event_time"].search_sorted(until, side="left")))
    return collect(seen.iter_slices(CHUNK_ROWS), scenario)[0]


def trained(samples: Samples, folder: Path, kind: str, scenario: Scenario) -> Trunk:
    """A trunk with its kind's own size and patience. Raises ``BenchError``."""
    try:
        train_from_samples(
            samples,
            folder,
            kind,
            Options(seed=SEED),
            log="the part before",
            label_window_s=scenario.times.label_window_s,
        )
    except TrainError as error:
        raise BenchError(str(error)) from error
    return load_trunk(folder)


def without_time(scenario: Scenario) -> Scenario:
    """``scenario`` less those of its features that count seconds since something."""
    features = {
        # What is no list of entries is a setting of all families.
        name: [{**entry, **WITHOUT_TIME.get(name, {})} for entry in given if not _counts_seconds(entry)]
        if isinstance(given, list)
        else given
        for name, given in (scenario.features or DEFAULT).items()
    }
    return msgspec.structs.replace(scenario, features=features)


def _counts_seconds(entry: dict[str, Any]) -> bool:
    """Whether the whole entry stands on the age of a touch."""
    return AGE in entry.get("keys", ()) or AGE in entry.get("of", "")


def frozen_predictions(trunk: Trunk, shown: pl.DataFrame) -> FloatArray:
    """What the frozen head of a trunk that reads no features says of impressions (n,)."""
    fields = [name for name in shown.columns if name.startswith(CONTEXT)]
    context = shown.select(pl.col(name).alias(name.removeprefix(CONTEXT)) for name in fields).to_dicts()
    columns: dict[str, Any] = {
        name: shown[name].to_list() for name in ("user_id", "item_id", "category_id", "shop_id")
    }
    columns |= {name: shown[name].to_numpy() for name in ("position", "price", "event_time")}
    hidden = trunk.hidden({**columns, "context": context}, shown.height)
    result: FloatArray = 1.0 / (1.0 + np.exp(-trunk.frozen_logit(hidden)))
    return result
