"""Failure: River on the panel is not River, or a restart makes it another model.

Required: predictions are those of ``predict_proba_one``, what a tick cannot afford is skipped evenly and
counted, a restored state continues bit for bit, and our own estimator passes River's checks.
"""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from river import checks, linear_model, naive_bayes, optim

from models.online.codec import LearnerStateError
from models.online.river_api import SurgelineBayesianLogistic
from models.online.river_learner import RIVER_MODELS, RiverLearner, river_learner

NAMES = ["ctr", "volume", "price"]
every_model = pytest.mark.parametrize("model", sorted(RIVER_MODELS))


def samples(seed: int, n: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """z has two columns, bias and a hidden unit, that River does not read."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2 + len(NAMES))).astype(np.float32), (rng.random(n) < 0.3).astype(np.float64)


@every_model
def test_it_is_river_sample_by_sample(model: str) -> None:
    learner, plain = river_learner(model, NAMES, 1000), RIVER_MODELS[model]()
    z, y = samples(0)
    assert learner.learn(z, y) == 30
    for row, label in zip(z[:, 2:].astype(float).tolist(), y.astype(bool).tolist(), strict=True):
        plain.learn_one(dict(zip(NAMES, row, strict=True)), label)
    fresh, _ = samples(1)
    wanted = [
        plain.predict_proba_one(dict(zip(NAMES, row, strict=True)))[True]
        for row in fresh[:, 2:].astype(float).tolist()
    ]
    np.testing.assert_allclose(learner.predict(fresh), wanted, rtol=1e-12)


@every_model
def test_a_restored_state_continues_bit_for_bit(model: str) -> None:
    @given(st.integers(0, 1000), st.integers(0, 2))
    @settings(max_examples=10, deadline=None)
    def check(seed: int, batches: int) -> None:
        kept, restored = (river_learner(model, NAMES, 20) for _ in range(2))
        for k in range(batches):
            kept.learn(*samples(seed + k))
        restored.load_state(kept.state_bytes())
        assert restored.skipped == kept.skipped
        for each in (kept, restored):
            each.learn(*samples(seed + 9))
        assert kept.state_bytes() == restored.state_bytes()
        z, _ = samples(seed)
        assert kept.predict(z).tobytes() == restored.predict(z).tobytes()

    check()


def test_what_a_tick_cannot_afford_is_skipped_evenly_and_counted() -> None:
    limited, chosen = river_learner("sgd", NAMES, 10), river_learner("sgd", NAMES, 10)
    z, y = samples(0, 40)
    assert limited.learn(z, y) == 10
    assert limited.skipped == 30
    chosen.learn(z[::4], y[::4])
    assert limited.model.weights == chosen.model.weights


def test_a_state_of_another_model_or_features_is_refused() -> None:
    state = river_learner("ftrl", NAMES, 10).state_bytes()
    with pytest.raises(LearnerStateError, match="optimizer"):
        river_learner("logistic", NAMES, 10).load_state(state)
    with pytest.raises(LearnerStateError, match="features"):
        river_learner("ftrl", NAMES[:2], 10).load_state(state)


def test_an_unknown_name_lists_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match="'forest'; allowed are ftrl, logistic, sgd"):
        river_learner("forest", NAMES, 10)


@pytest.mark.parametrize(
    "model", [naive_bayes.GaussianNB, lambda: linear_model.LogisticRegression(optim.Adam())]
)
def test_models_that_cannot_be_saved_exactly_are_refused(model: object) -> None:
    class Holder:
        optimizer = None
        l1 = 0.0

    built = model()  # type: ignore[operator]
    with pytest.raises(ValueError, match="can be saved exactly"):
        RiverLearner("x", built if hasattr(built, "optimizer") else Holder(), NAMES, 10)


def _checks() -> list[object]:
    return list(checks.yield_checks(SurgelineBayesianLogistic()))


@pytest.mark.parametrize("check", _checks(), ids=lambda check: check.__name__)
def test_our_estimator_passes_rivers_checks(check: object) -> None:
    check(SurgelineBayesianLogistic())  # type: ignore[operator]
