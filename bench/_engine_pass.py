"""The worker's own engine over recorded events, with every prediction that it made before it learned."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from bench._registry import BenchError
from bench._rows import BoolArray, FloatArray
from contracts.scenario import Scenario
from models.deep.trunk import Trunk
from state.joins.columns import Closed
from state.store import Store
from stream.engine import Engine
from surgeline.evaluation.rehearse import Rehearsal

#: Events that the engine takes at once; what it learns does not depend on it.
CHUNK_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class EnginePass:
    """n impressions in the order that was asked for.

    ``clicked`` (n,): the label as the engine closed it. ``predictions``: one (n,) a learner. ``features``
    (n, q): the as-of features, named by ``names``. ``published``: the learner whose weights are published.
    """

    clicked: BoolArray
    predictions: dict[str, FloatArray]
    features: npt.NDArray[np.float32]
    names: list[str]
    published: str
    seconds: float

    @property
    def engine(self) -> FloatArray:
        """Predictions of the published learner (n,)."""
        return self.predictions[self.published]


def run(
    events: pl.DataFrame, ids: list[str], scenario: Scenario, trunk: Trunk, trunk_from_ms: int
) -> EnginePass:
    """Run all ``events`` (in event-time order) through a fresh engine; answers for the impressions ``ids``.

    At ``trunk_from_ms`` the learners begin anew at the trunk's frozen head while counts and joins go on, as
    in a worker whose trunk was fitted then: on what a trunk was fitted to, its hidden layer is not honest.
    Raises ``BenchError`` where an impression has no sample at the end.
    """
    parts: list[Closed] = []
    with tempfile.TemporaryDirectory(prefix="surgeline-bench-") as name:
        folder = Path(name)
        rehearsal = Rehearsal(scenario, trunk, folder / "state", lambda _tick, closed: parts.append(closed))
        with contextlib.closing(rehearsal.engine.store):
            cut = int(events["event_time"].search_sorted(trunk_from_ms, side="left"))
            for frame in events.head(cut).iter_slices(CHUNK_ROWS):
                rehearsal.feed(frame)
            with contextlib.closing(Store(folder / "anew")) as store:
                rehearsal.engine.panel = Engine(scenario, store, trunk).panel
            for frame in events.slice(cut).iter_slices(CHUNK_ROWS):
                rehearsal.feed(frame)
            rehearsal.finish()
            panel, report = rehearsal.engine.panel, rehearsal.report()
    place = {name: row for row, name in enumerate(one for part in parts for one in part.shown.ids)}
    try:
        rows = np.array([place[name] for name in ids], dtype=np.int64)
    except KeyError as error:
        raise BenchError(
            f"the engine closed no sample of impression {error}: {report.refused_because}"
        ) from error
    predictions = np.concatenate([part.predictions for part in parts])[rows].astype(np.float64)
    # The bias and the trunk's hidden layer stand before the features.
    first = 1 + trunk.hidden_size
    return EnginePass(
        clicked=np.concatenate([part.labels for part in parts])[rows] > 0.5,
        predictions=dict(zip(panel.learner_names, predictions.T, strict=True)),
        features=np.concatenate([part.inputs[:, first:] for part in parts])[rows],
        names=list(panel.feature_names[first:]),
        published=panel.champion.name,
        seconds=report.seconds,
    )
