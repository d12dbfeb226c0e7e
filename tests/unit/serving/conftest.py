"""A scorer small enough to check by hand, and weights for it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from contracts.weights import FeatureScheme, Watermarks, Weights
from models.online.posterior import Posterior, to_head
from serving.feature_view import FeatureView
from serving.scorer import Scorer
from state.formulas import COUNTS, TABLES, pack_row

HALF_LIVES = [60.0, 600.0]
SMOOTHING = 20.0
NOW = 1_700_000_000_000

MakeWeights = Callable[..., Weights]
MakeRow = Callable[..., bytes]


class StubTrunk:
    """Four hidden units out of item id, user id, position and context: every column that is passed on."""

    hash = "stub"
    hidden_size = 4

    def hidden(self, columns: Mapping[str, Any], n: int) -> npt.NDArray[np.float32]:
        out = np.zeros((n, 4), dtype=np.float32)
        out[:, 0] = [zlib.crc32(item.encode()) % 97 / 97 for item in columns["item_id"]]
        out[:, 1] = [zlib.crc32(user.encode()) % 89 / 89 for user in columns["user_id"]]
        out[:, 2] = columns["position"] / 10.0
        out[:, 3] = [len(context or {}) for context in columns["context"]]
        return out

    def frozen_logit(self, hidden: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        return hidden.astype(np.float64).sum(axis=1) - 3.0


@pytest.fixture
def view() -> FeatureView:
    return FeatureView(HALF_LIVES)


@pytest.fixture
def scorer(view: FeatureView) -> Scorer:
    return Scorer(StubTrunk(), view, SMOOTHING, clock_ms=lambda: NOW)


@pytest.fixture
def make_row() -> MakeRow:
    """A packed row: counts by name, the same at every half-life."""

    def make(last_ms: int = NOW, **counts: float) -> bytes:
        row = np.zeros((len(COUNTS), len(HALF_LIVES)))
        for name, count in counts.items():
            row[COUNTS.index(name)] = count
        return pack_row(last_ms, row)

    return make


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
            "feature_scheme": FeatureScheme(
                tables=list(TABLES), counts=list(COUNTS), half_lives_s=HALF_LIVES, smoothing=SMOOTHING
            ),
            "heads": {"ctr": to_head(posterior)},
            "watermarks": Watermarks(features=NOW - 2000, labels=NOW - 7000),
            "created_at": NOW - 1500,
            "samples": 100 * version,
            "metrics": {},
        }
        return Weights(**(fields | changes))

    return make
