"""A scorer small enough to check by hand, a worker whose rows it reads, and weights for it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from contracts.events import ACTIONS
from contracts.weights import Watermarks, Weights
from features.declared import plan_from
from features.plan import Plan
from models.online.posterior import Posterior, to_head
from serving.feature_view import FeatureView
from serving.scorer import Scorer
from tests.unit.serving.worker_side import Worker

NOW = 1_700_000_000_000
FORGET_MS = 7 * 86_400_000
SPANS = [60, 600]
FEATURES: dict[str, Any] = {
    "counts": [
        {"keys": ["everything"], "half_lives_s": SPANS, "velocities": ["impression"]},
        {"keys": ["item_id"], "half_lives_s": SPANS, "parent": ["category_id"]},
        {"keys": ["user_id"], "half_lives_s": SPANS, "volumes": ["search"]},
        {"keys": ["category_id"], "half_lives_s": SPANS},
        {"keys": ["position"], "half_lives_s": SPANS},
        {"keys": ["context.page", "item_id"], "half_lives_s": SPANS},
        {"keys": ["last_kind", "touches"], "half_lives_s": SPANS},
    ],
    "session": {},
    "touched": {},
    "recency": [{}, {"keys": ["item_id"], "of": ["click", "purchase"], "as": ["seconds", "count"]}],
    "price": {},
    "list": [{"of": "price"}, {"of": "stock"}],
}
PLAN = plan_from(FEATURES, ACTIONS)

MakeWeights = Callable[..., Weights]


class StubTrunk:
    """Five hidden units out of item id, user id, position, context and features: all that is passed on."""

    hash = "stub"
    hidden_size = 5

    def hidden(
        self, columns: Mapping[str, Any], n: int, features: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        out = np.zeros((n, 5), dtype=np.float32)
        out[:, 0] = [zlib.crc32(item.encode()) % 97 / 97 for item in columns["item_id"]]
        out[:, 1] = [zlib.crc32(user.encode()) % 89 / 89 for user in columns["user_id"]]
        out[:, 2] = columns["position"] / 10.0
        out[:, 3] = [len(context or {}) for context in columns["context"]]
        out[:, 4] = features[:, 0] / 10.0
        return out

    def frozen_logit(self, hidden: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        return hidden.astype(np.float64).sum(axis=1) - 3.0

    def normalise(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return (features - np.float32(0.25)) * np.float32(0.5)


@pytest.fixture
def plan() -> Plan:
    return PLAN


@pytest.fixture
def view(plan: Plan) -> FeatureView:
    return FeatureView(plan, FORGET_MS)


@pytest.fixture
def worker(plan: Plan) -> Worker:
    return Worker(plan)


@pytest.fixture
def scorer(view: FeatureView) -> Scorer:
    return Scorer(StubTrunk(), view, clock_ms=lambda: NOW)


@pytest.fixture
def make_weights(scorer: Scorer) -> MakeWeights:
    """Weights that ``scorer`` takes; the mean is drawn from (source, version), the precision grows."""
    p = len(scorer.feature_names)

    def make(version: int = 1, source: str = "w0", **changes: Any) -> Weights:
        random = np.random.default_rng([zlib.crc32(source.encode()), version])
        prior_mean, prior = np.zeros(p), np.full(p, 20.0)
        data = random.normal(size=(5, p))
        posterior = Posterior(random.normal(size=p), np.diag(prior) + data.T @ data, prior_mean, prior)
        fields: dict[str, Any] = {
            "source": source,
            "version": version,
            "parent": version - 1,
            "trunk_hash": "stub",
            "feature_names": list(scorer.feature_names),
            "features_hash": scorer.plan.hash,
            "heads": {"ctr": to_head(posterior)},
            "watermarks": Watermarks(features=NOW - 2000, labels=NOW - 7000),
            "created_at": NOW - 1500,
            "samples": 100 * version,
            "metrics": {},
        }
        return Weights(**(fields | changes))

    return make
