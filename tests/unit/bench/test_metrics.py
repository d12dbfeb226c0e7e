"""Fails when a figure of accuracy is not what its definition says, or an interval is not paired."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from bench._metrics import METRICS, Scored, better, losses, paired


def scored(
    scores: list[float], clicked: list[int], lists: list[int], users: list[int] | None = None
) -> Scored:
    owners = users if users is not None else lists
    return Scored(np.array(scores), np.array(clicked) > 0, np.array(lists), np.array(owners))


rows = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9, 1.0]), st.integers(0, 1), st.integers(0, 4)),
    min_size=2,
    max_size=40,
).filter(lambda found: {clicked for _, clicked, _ in found} == {0, 1})


@given(rows)
def test_auc_and_log_loss_equal_scikit_learn_s(found: list[tuple[float, int, int]]) -> None:
    scores, clicked, lists = map(list, zip(*found, strict=True))
    figures = scored(scores, clicked, lists).figures()
    assert math.isclose(figures["auc"], roc_auc_score(clicked, scores), abs_tol=1e-12)
    assert math.isclose(figures["logloss"], log_loss(clicked, np.clip(scores, 1e-7, 1 - 1e-7)), rel_tol=1e-9)


@given(rows, st.lists(st.integers(0, 3), min_size=5, max_size=5))
def test_a_weight_is_so_many_copies_of_the_user(
    found: list[tuple[float, int, int]], weights: list[int]
) -> None:
    scores, clicked, users = map(list, zip(*found, strict=True))
    users = sorted(users)
    copied = [k for k, user in enumerate(users) for _ in range(weights[user])]
    if {clicked[k] for k in copied} != {0, 1}:
        return
    # Every row is a list of its own, so that copies stay whole lists.
    whole = scored(scores, clicked, list(range(len(users))), users)
    drawn = whole.figures(np.array(weights[: max(users) + 1], dtype=np.float64))
    copies = scored([scores[k] for k in copied], [clicked[k] for k in copied], list(range(len(copied))))
    for name, value in copies.figures().items():
        assert math.isclose(drawn[name], value, abs_tol=1e-9)


@pytest.mark.parametrize(
    ("scores", "clicked", "expected"),
    [
        ([0.3, 0.2, 0.1], [1, 0, 0], 1.0),
        ([0.3, 0.2, 0.1], [0, 0, 1], 1 / 3),
        ([0.2, 0.2, 0.2], [0, 1, 0], 1 / 2),  # ranks 1, 2, 3: on average 2
        ([0.3, 0.2, 0.2], [0, 1, 0], 1 / 2.5),
    ],
)
def test_mrr_takes_the_average_rank_of_equal_scores(
    scores: list[float], clicked: list[int], expected: float
) -> None:
    assert math.isclose(scored(scores, clicked, [0, 0, 0]).figures()["mrr"], expected)


def test_a_list_without_a_click_has_no_rank() -> None:
    assert scored([0.1, 0.2, 0.3, 0.4], [1, 0, 0, 0], [0, 0, 1, 1]).figures()["mrr"] == 0.5


def test_certain_and_wrong_is_a_finite_loss() -> None:
    assert np.isfinite(losses(np.array([0.0, 1.0]), np.array([True, False]))).all()


def sides(gain: float) -> tuple[Scored, Scored]:
    rng = np.random.default_rng(3)
    users = np.repeat(np.arange(60), 20)
    lists = np.repeat(np.arange(240), 5)
    clicked = np.tile(np.arange(5) == 0, 240)
    noise = rng.normal(size=1200)
    logit = [noise + strength * clicked - 1.0 for strength in (0.5 + gain, 0.5)]
    one, other = (Scored(1 / (1 + np.exp(-each)), clicked, lists, users) for each in logit)
    return one, other


def test_a_side_against_itself_differs_by_nothing_in_every_draw() -> None:
    one, _ = sides(0.0)
    found = paired(one, one, 60)
    assert set(found) == set(METRICS)
    assert all(each == {"difference": 0.0, "low": 0.0, "high": 0.0} for each in found.values())
    assert better(found) == list(METRICS)


def test_a_better_side_is_better_beyond_the_interval_and_the_worse_one_is_not() -> None:
    one, other = sides(1.0)
    found = paired(one, other, 60)
    for each in found.values():
        assert each["low"] < each["difference"] < each["high"]
    assert better(found) == []
    assert better(paired(other, one, 60)) == list(METRICS)


def test_what_is_not_a_number_is_not_better() -> None:
    nothing = {name: dict.fromkeys(("difference", "low", "high"), math.nan) for name in METRICS}
    assert better(nothing) == list(METRICS)
