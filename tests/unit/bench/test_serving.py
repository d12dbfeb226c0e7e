"""Failure: the serving figure compares different work, or says that a limit holds where it does not.

Mechanism: a small night; the peer's features beside those that the plan reads from the same rows. Required:
equal columns, and limits by the clock and by CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bench import serving
from bench._serving_peer import OF_PRICES, Peer
from bench._serving_rows import CANDIDATES, Size, night, requests
from bench._serving_sides import FORGET_MS, engine
from models.deep.trunk import Trunk
from serving.feature_view import FeatureView
from serving.messages import MAX_ITEMS, ScoreRequest
from serving.scorer import Scorer

SMALL = Size(items=300, users=7, lists=12)


@pytest.fixture
def scorer(monkeypatch: pytest.MonkeyPatch) -> Scorer:
    """The one behind the engine's side."""
    made: list[Scorer] = []

    def keep(trunk: Trunk, view: FeatureView) -> Scorer:
        made.append(Scorer(trunk, view))
        return made[0]

    monkeypatch.setattr("bench._serving_sides.Scorer", keep)
    engine(night(SMALL))
    return made[0]


def test_both_sides_compute_the_same(scorer: Scorer) -> None:
    """Every feature of the peer is one of the engine's, and has its values."""
    known = night(SMALL)
    peer = Peer(known)
    assert len(peer.names) > len(OF_PRICES) + 30
    assert CANDIDATES == MAX_ITEMS and scorer.view.forget_ms == FORGET_MS
    for asked in requests(SMALL, 3):
        request = msgspec.convert({**asked, "with_features": True}, ScoreRequest)
        answer = scorer.score(request)
        assert answer.features is not None and answer.feature_names is not None
        where = [answer.feature_names.index(name) for name in peer.names]
        np.testing.assert_allclose(
            np.array(answer.features)[:, where], peer.features(asked), rtol=1e-4, atol=1e-5
        )
        assert answer.stamp.version == 1 and "user_id" not in answer.stamp.absent


def result(**changes: float) -> dict[str, Any]:
    one = {"p50_ms": 5.0, "p99_ms": 9.0, "cpu_ms": 4.0}
    found: dict[str, Any] = {
        "engine": one | changes,
        "first_edition": {"p50_ms": 6.0, "p99_ms": 9.5, "cpu_ms": 5.0},
        "peer": {"p50_ms": 9.0, "p99_ms": 20.0, "cpu_ms": 8.0},
    }
    for other in ("first_edition", "peer"):
        found |= {f"{other}_to_engine_{key}": found[other][key] / found["engine"][key] for key in one}
    machine = dict.fromkeys(("cores", "cpu", "memory_gb", "system", "python", "load"), 1)
    return found | {"candidates": 1000, "rates": serving.RATES, "rounds": [1], "machine": machine}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, []),
        ({"p50_ms": 6.5}, ["the median"]),
        ({"p50_ms": 9.5}, ["the median", "the median"]),
        ({"cpu_ms": 8.5}, ["CPU", "CPU"]),
        ({"p99_ms": 99.0}, []),
    ],
)
def test_a_limit_that_does_not_hold_is_said(changes: dict[str, float], says: list[str]) -> None:
    """By the clock and in CPU, beside the first edition and the peer; the table says the same."""
    broken = serving.broken(result(**changes))
    assert len(broken) == len(says) and all(a in b for a, b in zip(says, broken, strict=True))
    assert ("BROKEN" in serving.table(result(**changes))) == bool(says)


def test_without_the_history_the_first_edition_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the table says so."""
    found = {key: value for key, value in result().items() if not key.startswith("first_edition")}
    assert not serving.broken(found) and "not measured" in serving.table(found)
    monkeypatch.setattr(serving, "FIRST_EDITION", "no-such-commit")
    assert serving._first_edition(Path("/nowhere")) is None
