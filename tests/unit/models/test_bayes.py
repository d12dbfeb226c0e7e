"""Failure: the served head is not the posterior that it claims to be, or a restart changes what it learns.

Required: the mean minimises the penalised loss; contributions of workers add; forgetting leads back to the
prior; hostile batches leave the head finite; a restored state continues bit for bit.
"""

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.optimize import minimize

from contracts.weights import Head, WeightsError
from models.online.bayes import TOLERANCE, BayesianLogistic, from_head, merge, to_head
from models.online.codec import LearnerStateError

P = 5
seeds = st.integers(0, 2**32 - 1)


def learner(forgetting: float = 1.0) -> BayesianLogistic:
    return BayesianLogistic(np.linspace(-1.0, 1.0, P), np.linspace(1.0, 3.0, P), forgetting)


def batch(seed: int, n: int = 40, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z = (scale * rng.normal(size=(n, P))).astype(np.float32)
    z[:, 0] = 1.0
    return z, (rng.random(n) < rng.random()).astype(np.float64)


def optimum(z: np.ndarray, y: np.ndarray, prior: BayesianLogistic) -> np.ndarray:
    """The minimiser of log loss plus the prior's penalty, by a general optimiser."""
    rows = z.astype(np.float64)

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        logits, pull = rows @ w, w - prior.mean
        value = np.logaddexp(0, logits).sum() - y @ logits + 0.5 * pull @ prior.precision @ pull
        return value, rows.T @ (1 / (1 + np.exp(-logits)) - y) + prior.precision @ pull

    found: np.ndarray = minimize(objective, prior.mean, jac=True, method="BFGS", options={"gtol": 1e-9}).x
    return found


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_the_mean_is_the_optimum_within_the_stated_distance(seed: int) -> None:
    posterior = learner()
    z, y = batch(seed)
    posterior.learn(z, y)
    off = posterior.mean - optimum(z, y, learner())
    assert np.sqrt(off @ posterior.precision @ off) < 1.5 * TOLERANCE


def test_the_precision_is_the_priors_plus_the_curvature_of_the_log_loss() -> None:
    posterior = learner()
    z, y = batch(3)
    posterior.learn(z, y)
    p = posterior.predict(z)
    curvature = (z * (p * (1 - p))[:, None]).T.astype(np.float64) @ z
    np.testing.assert_allclose(
        posterior.precision - posterior.prior_precision, curvature, rtol=0.05, atol=0.2
    )


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e6])
def test_separable_and_badly_scaled_batches_leave_it_finite(scale: float) -> None:
    posterior = learner()
    z, _ = batch(0, scale=scale)
    for _ in range(5):
        posterior.learn(z, (z[:, 1] > 0).astype(np.float64))
    assert np.isfinite(posterior.mean).all()
    assert np.isfinite(posterior.predict(z)).all()
    from_head(to_head(posterior.posterior()))


def test_without_evidence_it_returns_to_the_prior() -> None:
    posterior = learner(forgetting=0.5)
    posterior.learn(*batch(1))
    posterior.learn(np.empty((0, P)), np.empty(0), elapsed_ticks=200)
    np.testing.assert_allclose(posterior.mean, posterior.prior_mean, atol=1e-12)
    np.testing.assert_allclose(posterior.precision, posterior.prior_precision, atol=1e-12)


def test_a_quiet_gap_forgets_as_much_as_its_ticks_one_by_one() -> None:
    at_once, one_by_one = learner(0.9), learner(0.9)
    for each in (at_once, one_by_one):
        each.learn(*batch(1))
    none = np.empty((0, P)), np.empty(0)
    at_once.learn(*none, elapsed_ticks=10)
    for _ in range(10):
        one_by_one.learn(*none, elapsed_ticks=1)
    np.testing.assert_allclose(at_once.mean, one_by_one.mean, rtol=1e-10)


def test_nothing_to_learn_changes_nothing() -> None:
    posterior = learner()
    posterior.learn(*batch(1))
    before = posterior.state_bytes()
    posterior.learn(np.empty((0, P)), np.empty(0), elapsed_ticks=3)
    assert posterior.state_bytes() == before


@given(seeds, st.integers(1, 3), st.sampled_from([1.0, 0.99]))
@settings(max_examples=25, deadline=None)
def test_a_restored_state_continues_bit_for_bit(seed: int, batches: int, forgetting: float) -> None:
    kept, restored = learner(forgetting), learner(forgetting)
    for k in range(batches):
        kept.learn(*batch(seed + k), elapsed_ticks=1)
    restored.load_state(kept.state_bytes())
    for each in (kept, restored):
        each.learn(*batch(seed + 99), elapsed_ticks=2)
    assert kept.state_bytes() == restored.state_bytes()


def test_a_state_of_another_prior_is_refused_and_changes_nothing() -> None:
    other = BayesianLogistic(np.zeros(P), np.ones(P))
    mine = learner()
    before = mine.state_bytes()
    with pytest.raises(LearnerStateError, match="another prior"):
        mine.load_state(other.state_bytes())
    assert mine.state_bytes() == before


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_one_head_merges_to_itself_bit_for_bit(seed: int) -> None:
    posterior = learner()
    posterior.learn(*batch(seed))
    mean, precision = merge([to_head(posterior.posterior())])
    assert mean.tobytes() == posterior.mean.tobytes()
    assert precision.tobytes() == posterior.precision.tobytes()


def test_merged_workers_equal_one_where_the_linearisation_is_the_same() -> None:
    """Tiny features keep every p at sigmoid(prior): the likelihood is then Gaussian up to 1e-6."""
    prior = (np.zeros(P), np.ones(P))
    one, left, right = (BayesianLogistic(*prior) for _ in range(3))
    z, y = batch(5, n=60, scale=1e-3)
    z[:, 0] = 1e-3
    one.learn(z, y)
    left.learn(z[:25], y[:25])
    right.learn(z[25:], y[25:])
    mean, precision = merge([to_head(left.posterior()), to_head(right.posterior())])
    np.testing.assert_allclose(mean, one.mean, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(precision, one.precision, rtol=1e-6, atol=1e-10)


def test_merging_adds_natural_parameters_beyond_the_shared_prior() -> None:
    left, right = learner(), learner()
    left.learn(*batch(1))
    right.learn(*batch(2))
    mean, precision = merge([to_head(left.posterior()), to_head(right.posterior())])
    prior = left.prior_precision
    np.testing.assert_allclose(precision, left.precision + right.precision - prior)
    eta = left.precision @ left.mean + right.precision @ right.mean - prior @ left.prior_mean
    np.testing.assert_allclose(precision @ mean, eta, rtol=1e-9)


def test_a_worker_that_saw_nothing_does_not_move_the_merge() -> None:
    busy = learner()
    busy.learn(*batch(1))
    mean, _ = merge([to_head(busy.posterior()), to_head(learner().posterior())])
    np.testing.assert_allclose(mean, busy.mean, rtol=1e-10)


def test_heads_that_cannot_be_merged_are_refused() -> None:
    mine, other = learner(), BayesianLogistic(np.zeros(P), np.ones(P))
    with pytest.raises(WeightsError, match="different priors"):
        merge([to_head(mine.posterior()), to_head(other.posterior())])
    with pytest.raises(WeightsError, match="no heads"):
        merge([])


@pytest.mark.parametrize("precision", ["", "AAAA", "not base64!", "é"])
def test_a_head_with_a_broken_precision_is_refused(precision: str) -> None:
    good = to_head(BayesianLogistic(np.zeros(1), np.ones(1)).posterior())
    for part in ("precision", "prior_precision"):
        head: Head = msgspec.structs.replace(good, **{part: precision})
        with pytest.raises(WeightsError, match=f"a head's {part}"):
            from_head(head)


def test_what_the_prior_knows_together_it_keeps_together() -> None:
    """A prior that is not diagonal: forgetting leads back to all of it, and workers do not count it twice."""
    rows = np.random.default_rng(7).normal(size=(50, P))
    prior = (np.linspace(-1.0, 1.0, P), np.eye(P) + rows.T @ rows)
    left, right = BayesianLogistic(*prior, forgetting=0.5), BayesianLogistic(*prior)
    left.learn(*batch(1))
    left.learn(np.zeros((0, P)), np.zeros(0), elapsed_ticks=200)
    np.testing.assert_allclose(left.precision, prior[1], rtol=1e-9, atol=1e-9)
    right.learn(*batch(2))
    mean, precision = merge([to_head(left.posterior()), to_head(right.posterior())])
    np.testing.assert_allclose(precision, right.precision, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(mean, right.mean, rtol=1e-9, atol=1e-9)


def test_a_prior_that_is_none_is_refused() -> None:
    """A matrix that is not positive definite has no mean to return to."""
    for precision in (np.zeros(P), np.full(P, np.nan), np.ones((P, P)), np.ones((P - 1, P - 1))):
        with pytest.raises(ValueError, match="prior_precision must be"):
            BayesianLogistic(np.zeros(P), precision)


@pytest.mark.parametrize("forgetting", [0.0, 1.1, -1.0])
def test_forgetting_outside_of_its_range_is_refused(forgetting: float) -> None:
    with pytest.raises(ValueError, match="forgetting"):
        learner(forgetting)
