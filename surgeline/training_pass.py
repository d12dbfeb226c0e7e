"""The engine's own pass over a log, for what a trunk is trained on: columns and features as of their time.

Nothing here computes a feature or a label: both are what the engine worked out when it saw the impression
and when its label closed. So a trunk is trained on exactly what it will be given.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from contracts.scenario import Scenario
from features.hashing import hash_texts
from models.deep.fields import CONTEXT, Columns
from models.deep.samples import Samples
from models.deep.trunk import Float32Array, Trunk
from state.joins.join import Closed
from surgeline.evaluation.rehearse import FAR_MS, Rehearsal, RehearsalReport

_Arrays = dict[str, npt.NDArray[Any]]


class Collector:
    """Give ``trunk`` to an engine, ``observe`` to its ``observer``; ``samples`` when the log is over.

    Ids are kept as keys, so an open impression costs 8 bytes a column, and a sample its features beside.
    """

    def __init__(self) -> None:
        self.trunk = _Listener()
        self._columns: list[_Arrays] = []
        self._inputs: list[Float32Array] = []
        self._labels: list[npt.NDArray[np.float64]] = []

    def observe(self, tick: int, closed: Closed) -> None:
        """Samples whose label closed."""
        # Samples close by whole ticks, so each tick stands in one piece.
        for at in closed.ticks[np.flatnonzero(np.diff(closed.ticks, prepend=-1))].tolist():
            self._columns.append(self.trunk.seen.pop(at))
        # Without the bias.
        self._inputs.append(closed.inputs[:, 1:])
        self._labels.append(closed.labels)

    def samples(self, names: Iterable[str], features_hash: str) -> Samples:
        """All that closed, by time. ``names``: of the features."""
        fields = sorted({field for part in self._columns for field in part})
        columns = {field: _joined(self._columns, field) for field in fields}
        labels = np.concatenate([np.zeros(0), *self._labels])
        names = tuple(names)
        features = np.concatenate([np.zeros((0, len(names)), dtype=np.float32), *self._inputs])
        order = np.argsort(columns["event_time"], kind="stable") if columns else np.zeros(0, dtype=np.intp)
        return Samples(
            {field: values[order] for field, values in columns.items()},
            labels[order] > 0.5,
            features[order],
            names,
            features_hash,
        )


class _Listener(Trunk):
    """A trunk of no hidden units that remembers, by tick, which columns the engine gave it."""

    reads_every_context = True

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, _Arrays] = {}
        self._latest: _Arrays = {}

    def hidden(self, columns: Columns, n: int, features: Float32Array | None = None) -> Float32Array:
        self._latest = compact(columns)
        return super().hidden(columns, n, features)

    def predicted(self, tick: int, inputs: Float32Array) -> None:
        """The engine's ``predict_observer``: the columns that came last are this tick's."""
        self.seen[tick] = self._latest


def collect(frames: Iterable[pl.DataFrame], scenario: Scenario) -> tuple[Samples, RehearsalReport]:
    """Labelled impressions of canonical frames in event-time order, with the scenario's features."""
    collector = Collector()
    # Nobody asks what the learners say here, so they need not learn.
    learners = msgspec.structs.replace(scenario.learners, river=[])
    scenario = msgspec.structs.replace(scenario, learners=learners)
    with tempfile.TemporaryDirectory(prefix="surgeline-training-") as folder:
        rehearsal = Rehearsal(scenario, collector.trunk, folder, collector.observe)
        engine = rehearsal.engine
        engine.predict_observer = collector.trunk.predicted
        engine.learn_from = FAR_MS
        with contextlib.closing(engine.store):
            for frame in frames:
                rehearsal.feed(frame)
            rehearsal.finish()
            return collector.samples(engine.plan.names, engine.plan.hash), rehearsal.report()


def compact(columns: Columns) -> _Arrays:
    """Columns as arrays: texts as keys, contexts as one column a key.

    >>> sorted(compact({"item_id": ["a"], "context": [{"os": "x"}], "price": np.array([1.0])}))
    ['context.os', 'item_id', 'price']
    """
    found: _Arrays = {}
    for field, values in columns.items():
        if field == "context":
            contexts: list[Mapping[str, str]] = [context or {} for context in values]
            for key in sorted({key for context in contexts for key in context}):
                found[CONTEXT + key] = hash_texts([context.get(key, "") for context in contexts])
        else:
            found[field] = values if isinstance(values, np.ndarray) else hash_texts(values)
    return found


def _joined(parts: list[_Arrays], field: str) -> npt.NDArray[Any]:
    """A column of all parts; a part without it (a context key that nobody had then) has no ids in it."""
    return np.concatenate(
        [
            part[field] if field in part else np.zeros(len(part["event_time"]), dtype=np.uint64)
            for part in parts
        ]
    )
