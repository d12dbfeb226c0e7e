"""The scorer: takes weights while it answers, and stamps every answer with what it used."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import isfinite
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from contracts.weights import Weights
from features.columns import key_matrix
from features.events import Events
from features.hashing import Keys
from serving.admission import Accepted, Identity, Reason, Refused, check
from serving.errors import RequestError, ScoreNotFiniteError
from serving.feature_view import FeatureView, absent_by_table
from serving.messages import MAX_FEATURE, ScoreRequest, Scores, Stamp
from serving.snapshot import EMPTY, Snapshot, combine

FloatArray = npt.NDArray[np.float64]
FloatArray32 = npt.NDArray[np.float32]
#: Key columns that are an item's own, beside its position; all others are the request's.
OF_ITEMS = ("item_id", "category_id", "shop_id")
#: Columns whose tables an answer names where they had no row for an item.
NAMED = ("user_id", "item_id", "category_id", "shop_id", "position", "everything")


class FrozenTrunk(Protocol):
    """What the scorer needs of ``models.deep.trunk.Trunk``."""

    @property
    def hash(self) -> str: ...

    @property
    def hidden_size(self) -> int: ...

    def hidden(self, columns: Mapping[str, Any], n: int, features: FloatArray32) -> FloatArray32: ...

    def frozen_logit(self, hidden: FloatArray32) -> npt.NDArray[Any]: ...

    def normalise(self, features: FloatArray32) -> FloatArray32: ...


def wall_clock_ms() -> int:
    """Now, in ms UTC."""
    return time.time_ns() // 1_000_000


class Scorer:
    """Scores candidates with a frozen trunk, the newest weights and the feature rows of ``view``.

    Weights swap by one assignment of an immutable snapshot, and a request reads that attribute once: an
    answer comes from exactly the version on its stamp, whatever arrives meanwhile. Before any weights
    came, the trunk's frozen head scores and the stamp says version 0.

    ``offer`` and ``retire`` may run in another thread than ``score``.
    """

    def __init__(
        self,
        trunk: FrozenTrunk,
        view: FeatureView,
        clock_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self.trunk = trunk
        self.view = view
        self.plan = view.plan
        self.real_time_names = self.plan.names
        self.identity = Identity(trunk.hash, trunk.hidden_size, self.plan.hash, tuple(self.plan.names))
        self.feature_names = self.identity.feature_names
        self.refused: Counter[Reason] = Counter()
        self.swaps = 0
        self.clock_ms = clock_ms
        self._columns = {name: i for i, name in enumerate(self.real_time_names)}
        self._snapshot = EMPTY
        self._writing = threading.Lock()

    @property
    def snapshot(self) -> Snapshot:
        """What serves now."""
        return self._snapshot

    def offer(self, weights: Weights) -> Accepted | Refused:
        """Serve ``weights`` from here on, or say why not and keep what serves.

        A source's version must grow. One that must start over (its state was lost) is retired first:
        the weights topic's tombstone for its key does that.
        """
        with self._writing:
            sources = self._snapshot.sources
            refused = check(weights, self.identity, sources)
            if refused is None:
                try:
                    return self._swap(combine({**sources, weights.source: weights}))
                except (ValueError, ArithmeticError) as error:
                    refused = Refused("merge", str(error))
            return self._refuse(refused)

    def refuse(self, refused: Refused) -> Refused:
        """Count weights that were refused before they could be offered."""
        with self._writing:
            return self._refuse(refused)

    def retire(self, source: str) -> bool:
        """Serve without ``source`` (the last one gone: the frozen head). False if it was not there."""
        with self._writing:
            left = dict(self._snapshot.sources)
            if left.pop(source, None) is None:
                return False
            self._swap(combine(left))
            return True

    def score(self, request: ScoreRequest) -> Scores:
        """Click probabilities of one request's items. Raises ``RequestError`` that names the field."""
        return self.score_batch([request])[0]

    def score_batch(self, requests: Sequence[ScoreRequest]) -> list[Scores]:
        """Score many requests with one snapshot and one pass through the trunk."""
        snapshot = self._snapshot
        sizes = [len(request.items) for request in requests]
        for request, size in zip(requests, sizes, strict=True):
            if not size:
                raise RequestError("items", "at least one item is needed")
            if request.event_time is not None and request.event_time < 0:
                raise RequestError("event_time", "must be milliseconds UTC")
        if not requests:
            return []
        now = self.clock_ms()
        times = [now if r.event_time is None else r.event_time for r in requests]
        columns = _columns(requests, sizes, times)
        real_time, absent = self._real_time(requests, sizes, times, columns)
        probability = _sigmoid(self._logits(snapshot, columns, real_time))
        if not np.isfinite(probability).all():
            raise ScoreNotFiniteError(f"trunk {self.trunk.hash!r} gave scores that are not finite")
        answers = []
        ends = np.cumsum(sizes).tolist()
        for request, size, end, at in zip(requests, sizes, ends, times, strict=True):
            part = slice(end - size, end)
            missing = {table: int(gone[part].sum()) for table, gone in absent.items()}
            answers.append(
                Scores(
                    scores=probability[part].tolist(),
                    stamp=self._stamp(snapshot, now, at, missing),
                    feature_names=self.real_time_names if request.with_features else None,
                    features=real_time[part].tolist() if request.with_features else None,
                )
            )
        return answers

    def _real_time(
        self,
        requests: Sequence[ScoreRequest],
        sizes: list[int],
        times: list[int],
        columns: Mapping[str, Any],
    ) -> tuple[FloatArray32, dict[str, npt.NDArray[np.bool_]]]:
        """(n, q) features, and by table which of the n items had no row."""
        n = len(columns["event_time"])
        unknown = np.full(n, np.nan)
        events = Events(
            kinds=np.zeros(n, dtype=np.int16),
            times=columns["event_time"],
            keys=self._keys(requests, sizes, columns),
            numbers={
                "price": np.where(columns["price"] > 0.0, columns["price"], np.nan),
                "position": columns["position"].astype(np.float64),
                "stock": columns["stock"],
                "value": unknown,
            },
            lists=np.repeat(np.arange(len(requests), dtype=np.int32), sizes),
            origins=np.full(n, -1, dtype=np.int32),
        )
        with self.view.reading(events.times) as tables:
            out, _ = self.plan.observe(events, tables, update=False)
            absent = absent_by_table(tables, [name for name in NAMED if name in tables])
        self._override(requests, out)
        return out, absent

    def _keys(
        self, requests: Sequence[ScoreRequest], sizes: list[int], columns: Mapping[str, Any]
    ) -> dict[str, Keys]:
        """The items' key columns; what a request's items share is hashed once for all of them."""
        texts = {name: partial(columns.__getitem__, name) for name in OF_ITEMS}
        own = [name for name in self.plan.remembered if name in texts or name == "position"]
        shared = [name for name in self.plan.remembered if name not in own]
        users = {"user_id": lambda: [request.user_id for request in requests]}
        contexts = [request.context for request in requests]
        of_items = key_matrix(own, sum(sizes), texts, (), columns["position"]).T
        of_requests = key_matrix(shared, len(requests), users, contexts).repeat(sizes, axis=0).T
        return {
            name: np.ascontiguousarray(column)
            for name, column in zip((*own, *shared), (*of_items, *of_requests), strict=True)
        }

    def _override(self, requests: Sequence[ScoreRequest], out: FloatArray32) -> None:
        start = 0
        for request in requests:
            for i in [i for i, item in enumerate(request.items) if item.features]:
                for name, value in (request.items[i].features or {}).items():
                    column = self._columns.get(name)
                    if column is None:
                        raise RequestError(
                            f"items[{i}].features",
                            f"unknown feature {name!r}; known are {', '.join(self.real_time_names)}",
                        )
                    if not abs(value) <= MAX_FEATURE:
                        raise RequestError(
                            f"items[{i}].features.{name}", f"must be within ±{MAX_FEATURE:g}, is {value}"
                        )
                    out[start + i, column] = value
            start += len(request.items)

    def _logits(self, snapshot: Snapshot, columns: Mapping[str, Any], real_time: FloatArray32) -> FloatArray:
        n, d = len(real_time), self.trunk.hidden_size
        hidden = self.trunk.hidden(columns, n, real_time)
        if snapshot.mean is None:
            return np.asarray(self.trunk.frozen_logit(hidden), dtype=np.float64)
        z = np.empty((n, len(snapshot.mean)))
        z[:, 0] = 1.0
        z[:, 1 : 1 + d] = hidden
        z[:, 1 + d :] = self.trunk.normalise(real_time)
        logits: FloatArray = z @ snapshot.mean
        return logits

    def _stamp(self, snapshot: Snapshot, now: int, event_time: int, missing: dict[str, int]) -> Stamp:
        return Stamp(
            version=snapshot.version,
            sources=snapshot.versions,
            trunk_hash=self.identity.trunk_hash,
            watermarks=snapshot.watermarks,
            weights_age_ms=None if snapshot.created_at is None else max(0, now - snapshot.created_at),
            event_time=event_time,
            absent={table: count for table, count in missing.items() if count},
        )

    def _swap(self, snapshot: Snapshot) -> Accepted:
        self._snapshot = snapshot
        self.swaps += 1
        return Accepted(snapshot.version)

    def _refuse(self, refused: Refused) -> Refused:
        self.refused[refused.reason] += 1
        return refused


def _columns(requests: Sequence[ScoreRequest], sizes: list[int], times: list[int]) -> dict[str, Any]:
    """The requests' items as the columns that a trunk reads."""
    items = [item for request in requests for item in request.items]
    users: list[str] = []
    contexts: list[dict[str, str] | None] = []
    for request, size in zip(requests, sizes, strict=True):
        users += [request.user_id] * size
        contexts += [request.context] * size
    price = np.array([item.price for item in items], dtype=np.float64)
    if not np.isfinite(price).all():
        # Past the decoder's bounds only in requests that were built in Python.
        bad = next(i for r in requests for i, item in enumerate(r.items) if not isfinite(item.price))
        raise RequestError(f"items[{bad}].price", "must be a finite number")
    stock = [item.stock for item in items]
    none = stock.count(None) == len(stock)
    return {
        "user_id": users,
        "item_id": [item.item_id for item in items],
        "category_id": [item.category_id for item in items],
        "shop_id": [item.shop_id for item in items],
        "position": np.array([item.position for item in items], dtype=np.int64),
        "price": price,
        "stock": np.full(len(items), np.nan) if none else np.array(stock, dtype=np.float64),
        "event_time": np.repeat(np.array(times, dtype=np.int64), sizes),
        "context": contexts,
    }


def _sigmoid(logits: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x)) without overflow: the exponent is never positive."""
    small = np.exp(-np.abs(logits))
    probability: FloatArray = np.where(logits >= 0, 1.0, small) / (1.0 + small)
    return probability
