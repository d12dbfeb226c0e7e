"""Fails when the table of features tells another worth than a direct computation on the same samples.

Required: the share that is known, the AUC within what bins can blur, and the growth of the log loss without a
feature; in any batches; a worker's samples are thinned out evenly, and it is told how many there were.
"""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from sklearn.metrics import log_loss, roc_auc_score

from models.online.worth import WorthMeter

NAMES = ["strong", "weak", "against", "constant"]
N = 4000
HEAD = np.array([-1.5, 0.3, 1.2, 0.3, -0.8, 0.5])


def samples(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """z = [1 | hidden | four features], clicks as the head says; a fifth of each feature is unknown."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(N, 6))
    z[:, 0], z[:, 5] = 1.0, 0.0
    z[:, 2:5][rng.random((N, 3)) < 0.2] = 0.0
    return z.astype(np.float32), (rng.random(N) < 1 / (1 + np.exp(-z @ HEAD))).astype(np.float64)


def meter(limit: int | None = None) -> WorthMeter:
    return WorthMeter(NAMES, 2, np.zeros(4), limit)


def test_worth_equals_a_direct_computation() -> None:
    z, y = samples()
    counted = meter()
    # The mean that replaces a feature is that of all so far: one call knows all.
    counted.see(z, y, HEAD)
    found = counted.worth()
    wide = z.astype(np.float64)
    losses = []
    for k in range(4):
        without = wide.copy()
        without[:, 2 + k] = wide[:, 2 + k].mean()
        losses.append(log_loss(y, 1 / (1 + np.exp(-without @ HEAD))))
    gains = np.array(losses) - log_loss(y, 1 / (1 + np.exp(-wide @ HEAD)))
    gains = gains.clip(min=0.0)
    for k, one in enumerate(found):
        assert one.name == NAMES[k]
        assert one.known == pytest.approx(np.count_nonzero(z[:, 2 + k]) / N)
        assert one.auc == pytest.approx(roc_auc_score(y, z[:, 2 + k]), abs=2e-3)
        assert one.gain_share == pytest.approx(gains[k] / gains.sum(), abs=1e-6)
    assert found[3].auc == 0.5 and found[3].gain_share == pytest.approx(0.0, abs=1e-9)
    assert found[3].known == 0.0
    assert found[2].auc is not None and found[2].auc < 0.5


@given(st.lists(st.integers(0, 700), max_size=8))
@settings(max_examples=20)
def test_batches_do_not_matter_beyond_the_running_mean(sizes: list[int]) -> None:
    z, y = samples()
    whole, parts = meter(), meter()
    whole.see(z, y, HEAD)
    begin = 0
    for size in [*sizes, N]:
        parts.see(z[begin : begin + size], y[begin : begin + size], HEAD)
        begin += size
    assert parts.samples == N
    for one, other in zip(whole.worth(), parts.worth(), strict=True):
        assert one.known == other.known and one.auc == other.auc
        assert one.gain_share == pytest.approx(other.gain_share, abs=0.05)


def test_a_worker_looks_at_some_samples_of_a_tick() -> None:
    """From one end of the tick to the other, whatever its size."""
    z, y = samples()
    limited = meter(limit=64)
    limited.see(z, y, HEAD)
    limited.see(z[:10], y[:10], HEAD)
    assert limited.samples == 64 + 10


def test_nothing_is_undefined_not_wrong() -> None:
    """Before the first sample, with one class, without features, and with numbers of any size."""
    assert [(w.known, w.auc, w.gain_share) for w in meter().worth()] == [(None, None, None)] * 4
    one_class = meter()
    z, y = samples()
    one_class.see(z[:5], np.zeros(5), HEAD)
    assert all(w.auc is None for w in one_class.worth())
    WorthMeter([], 1, np.zeros(0)).see(z, y, HEAD)
    far = meter()
    z[0, 2], z[1, 2] = 1e4, -1e4
    far.see(z, y, HEAD)
    assert all(w.auc is not None and 0.0 <= w.auc <= 1.0 for w in far.worth())
