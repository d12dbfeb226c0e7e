"""Failure: FTRL differs from the published algorithm, or does not start at the frozen head.

Required: with one sample a call it is Algorithm 1 of McMahan et al. 2013; state continues bit for bit.
"""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from models.online.codec import LearnerStateError
from models.online.ftrl import MINIBATCH, Ftrl

P = 4


def samples(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, P)), (rng.random(n) < 0.3).astype(np.float64)


def algorithm_1(start: np.ndarray, z: np.ndarray, y: np.ndarray, l1: float) -> np.ndarray:
    """The paper's pseudo-code, coordinate by coordinate."""
    alpha, beta, l2 = 0.05, 1.0, 1.0
    u, n, w = [0.0] * P, [0.0] * P, [0.0] * P
    for row, label in zip(z, y, strict=True):
        for i in range(P):
            if abs(u[i]) <= l1:
                w[i] = 0.0
            else:
                w[i] = -1 / ((beta + n[i] ** 0.5) / alpha + l2) * (u[i] - np.sign(u[i]) * l1)
        p = 1 / (1 + np.exp(-(row @ (start + np.array(w)))))
        for i in range(P):
            g = (p - label) * row[i]
            sigma = ((n[i] + g * g) ** 0.5 - n[i] ** 0.5) / alpha
            u[i] += g - sigma * w[i]
            n[i] += g * g
    return np.array([u, n])


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.5]))
@settings(max_examples=20, deadline=None)
def test_sample_by_sample_it_is_the_papers_algorithm(seed: int, l1: float) -> None:
    start = np.array([-1.0, 0.5, 0.0, 2.0])
    learner = Ftrl(start, l1=l1)
    z, y = samples(seed, 30)
    for k in range(30):
        assert learner.learn(z[k : k + 1], y[k : k + 1]) == 1
    u, n = algorithm_1(start, z, y, l1)
    np.testing.assert_allclose(learner._u, u, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(learner._n, n, rtol=1e-9)


def test_it_starts_at_the_frozen_head() -> None:
    start = np.array([-1.0, 0.5, 0.0, 2.0])
    assert (Ftrl(start).weights == start).all()


def test_a_large_batch_equals_its_minibatches() -> None:
    z, y = samples(1, 3 * MINIBATCH)
    whole, parts = Ftrl(np.zeros(P)), Ftrl(np.zeros(P))
    whole.learn(z, y)
    for k in range(3):
        parts.learn(z[k * MINIBATCH : (k + 1) * MINIBATCH], y[k * MINIBATCH : (k + 1) * MINIBATCH])
    assert whole.state_bytes() == parts.state_bytes()


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_a_restored_state_continues_bit_for_bit(seed: int) -> None:
    kept, restored = Ftrl(np.ones(P)), Ftrl(np.ones(P))
    kept.learn(*samples(seed, 50))
    restored.load_state(kept.state_bytes())
    for each in (kept, restored):
        each.learn(*samples(seed + 1, 50))
    assert kept.state_bytes() == restored.state_bytes()


def test_a_state_of_another_size_is_refused() -> None:
    with pytest.raises(LearnerStateError, match="shape"):
        Ftrl(np.zeros(P + 1)).load_state(Ftrl(np.zeros(P)).state_bytes())
