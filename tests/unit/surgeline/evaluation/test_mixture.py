"""Fails when the weights of the mixture see the future, do not add up, miss the best or never come back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgeline.evaluation.mixture import ALPHA, expert_weights, fixed_share


def losses(seed: int, steps: int = 20, count: int = 4, size: float = 3000.0) -> np.ndarray:
    return np.random.default_rng(seed).random((steps, count)) * size


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 2, 5]), st.sampled_from([1.0, 100.0, 1e6]))
def test_weights_sum_to_one_and_keep_their_share(seed: int, count: int, size: float) -> None:
    found = fixed_share(losses(seed, count=count, size=size))
    assert np.isfinite(found).all()
    assert found.sum(axis=1) == pytest.approx(1.0)
    assert found[0] == pytest.approx(1.0 / count)
    assert (found >= ALPHA / count * (1 - 1e-9)).all()


def test_without_sharing_they_are_the_posterior() -> None:
    table = losses(3, size=2.0)
    before = np.cumsum(table, axis=0) - table
    plain = np.exp(-before) / np.exp(-before).sum(axis=1, keepdims=True)
    assert fixed_share(table, alpha=0.0) == pytest.approx(plain)
    half = np.exp(-0.5 * before) / np.exp(-0.5 * before).sum(axis=1, keepdims=True)
    assert fixed_share(table, eta=0.5, alpha=0.0) == pytest.approx(half)


def test_one_step_of_sharing_by_hand() -> None:
    found = fixed_share(np.array([[0.0, np.log(3.0)], [0.0, 0.0]]), alpha=0.2)
    assert found[1] == pytest.approx([0.8 * 0.75 + 0.1, 0.8 * 0.25 + 0.1])


def test_the_best_learner_wins() -> None:
    table = losses(5, size=1.0) + 700.0
    table[:, 2] -= 20.0
    found = fixed_share(table)
    assert (found[1:].argmax(axis=1) == 2).all()
    assert found[-1, 2] > 0.98


def test_a_late_winner_recovers_with_fixed_share_only() -> None:
    table = np.zeros((40, 2))
    table[:30, 1] = 50.0
    table[30:, 0] = 50.0
    shared, plain = fixed_share(table), fixed_share(table, alpha=0.0)
    assert shared[30, 0] > 0.99
    assert shared[32, 1] > 0.99
    assert plain[-1, 1] < 1e-6


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 19))
def test_weights_do_not_see_their_own_bucket_or_later_ones(seed: int, at: int) -> None:
    table = losses(seed, size=5.0)
    other = table.copy()
    other[at:] = losses(seed + 1, size=5.0)[at:]
    found, changed = fixed_share(table), fixed_share(other)
    assert np.array_equal(found[: at + 1], changed[: at + 1])
    if at < 19:
        assert not np.array_equal(found[at + 1], changed[at + 1])


def test_an_undefined_loss_leaves_the_share_alone() -> None:
    found = fixed_share(np.array([[np.nan, 1.0], [1.0, np.inf], [0.0, 0.0]]))
    assert found[1] == pytest.approx([ALPHA / 2, 1 - ALPHA / 2])
    assert found[2] == pytest.approx([1 - ALPHA / 2, ALPHA / 2])


def test_entries_carry_their_buckets_start_and_names() -> None:
    found = expert_weights([10, 30], {"a": np.array([0.0, 0.0]), "b": np.array([9.0, 0.0])})
    assert [entry.at for entry in found] == [10, 30]
    assert found[0].weights == pytest.approx({"a": 0.5, "b": 0.5})
    assert found[1].weights["a"] > 0.99
    assert expert_weights([10], {}) == []


def test_a_share_is_a_share() -> None:
    with pytest.raises(ValueError, match="alpha"):
        fixed_share(losses(1), alpha=1.5)
