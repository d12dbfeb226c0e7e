"""Fails when a peer does not learn, is not repeatable, or knows a label before it predicts."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from bench import _lightgbm_peer, _river_peer, _vw_peer
from bench._metrics import losses
from bench._registry import BenchError
from bench._rows import Step, steps_by_list

CHOSEN = 5


def data(lists: int = 150) -> tuple[pl.DataFrame, np.ndarray, list[Step]]:
    """Lists of ``CHOSEN`` rows; what is clicked is told by one column, most of the time."""
    rng = np.random.default_rng(1)
    n = lists * CHOSEN
    sign = rng.integers(0, 2, n)
    clicked = rng.random(n) < np.where(sign, 0.8, 0.05)
    features = pl.DataFrame({"sign": sign, "noise": rng.integers(0, 50, n), "text": ["a b:c|d"] * n})
    return features, clicked, steps_by_list(np.repeat(np.arange(lists), CHOSEN))


def runs() -> dict[str, object]:
    found: dict[str, object] = {
        f"vw_{name}": lambda *given, name=name: _vw_peer.predict(*given, name) for name in _vw_peer.LEARNERS
    }
    return {**found, "river": _river_peer.predict}


@pytest.mark.parametrize("name", runs())
def test_an_online_peer_learns_and_is_repeatable(name: str) -> None:
    features, clicked, steps = data()
    run = runs()[name]
    found = run(features, clicked, steps)  # type: ignore[operator]
    half = len(clicked) // 2
    rate = np.full(half, clicked.mean())
    assert losses(found[half:], clicked[half:]).mean() < 0.8 * losses(rate, clicked[half:]).mean()
    assert (run(features, clicked, steps) == found).all()  # type: ignore[operator]


@pytest.mark.parametrize("name", runs())
def test_what_is_predicted_does_not_depend_on_its_own_or_later_labels(name: str) -> None:
    features, clicked, steps = data(40)
    at = len(clicked) // 2
    other = clicked.copy()
    other[at:] = ~other[at:]
    run = runs()[name]
    one, two = run(features, clicked, steps), run(features, other, steps)  # type: ignore[operator]
    assert (one[: at + CHOSEN] == two[: at + CHOSEN]).all()
    assert (one[at + CHOSEN :] != two[at + CHOSEN :]).any()


def test_vowpal_wabbit_s_text_has_no_character_of_its_own_in_values() -> None:
    assert _vw_peer.lines(pl.DataFrame({"a": ["x y:z|w"], "b": [3]})) == ["|f a=x_y_z_w b=3"]


def numbers() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    inputs = rng.normal(size=(1_500, 3)).astype(np.float32)
    return inputs, rng.random(1_500) < 1 / (1 + np.exp(-3 * inputs[:, 0]))


def test_frozen_trees_do_not_know_what_comes_after_the_cut() -> None:
    inputs, clicked = numbers()
    other = clicked.copy()
    other[1_000:] = ~other[1_000:]
    found = _lightgbm_peer.frozen(inputs, clicked, 1_000)
    assert (found == _lightgbm_peer.frozen(inputs, other, 1_000)).all()
    assert losses(found[1_000:], clicked[1_000:]).mean() < 0.55
    with pytest.raises(BenchError, match="too few rows"):
        _lightgbm_peer.frozen(inputs, clicked, 5)


def test_cross_fitted_trees_do_not_know_the_users_whom_they_predict() -> None:
    inputs, clicked = numbers()
    users = np.arange(1_500) // 10
    found = _lightgbm_peer.cross_fitted(inputs, clicked, users)
    other = clicked.copy()
    other[users == 7] = ~other[users == 7]
    again = _lightgbm_peer.cross_fitted(inputs, other, users)
    assert (found[users == 7] == again[users == 7]).all() and (found != again).any()
