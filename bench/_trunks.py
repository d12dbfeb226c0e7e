"""Trunks and scenarios that the figures of accuracy compare; what this version lacks is None or refused."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench._registry import BenchError
from bench._rows import CONTEXT, FloatArray
from contracts.scenario import Scenario
from models.deep.trunk import Trunk
from models.train import TrainError
from replay.log import RecordedLog
from surgeline.train import train_on

HIDDEN, EPOCHS, SEED = 32, 20, 0


def network(log: RecordedLog, folder: Path, until: int, scenario: Scenario) -> Trunk:
    """The default trunk, fitted on what ``log`` has before ``until`` (ms)."""
    return _trained(log, folder, until, scenario)


def trees(log: RecordedLog, folder: Path, until: int, scenario: Scenario) -> Trunk:
    """A trunk of trees. Raises ``BenchError`` where training has no other kinds than the network."""
    if "kind" not in inspect.signature(train_on).parameters:
        raise BenchError("no such trunk kind: trees")
    return _trained(log, folder, until, scenario, kind="trees")


def network_of_ids(log: RecordedLog, folder: Path, until: int, scenario: Scenario) -> Trunk:
    """The network on ids, context, place and price alone, without features: the first edition's trunk."""
    return _trained(log, folder, until, scenario)


def without_time(_scenario: Scenario) -> Scenario | None:
    """``scenario`` without its seconds-since features; None where it has no features to choose from."""
    return None


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


def _trained(log: RecordedLog, folder: Path, until: int, scenario: Scenario, **more: Any) -> Trunk:
    try:
        train_on(
            log,
            folder,
            hidden=HIDDEN,
            epochs=EPOCHS,
            seed=SEED,
            until=until,
            label_window_s=scenario.times.label_window_s,
            **more,
        )
    except TrainError as error:
        raise BenchError(str(error)) from error
    return Trunk.load(folder)
