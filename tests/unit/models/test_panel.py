"""Failure: a figure is reported on a sample that was learned before it was predicted, or a restart forks.

Required: figures come from the stored predictions only; the champion starts at the frozen head and wins
where traffic shifts; a restored panel continues bit for bit and has the same digest.
"""

from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from models.deep.load import load_trunk
from models.deep.trunk import Trunk
from models.online.bayes import from_head
from models.online.codec import LearnerStateError
from models.online.panel import Panel

Q = 3
NAMES = [f"feature_{k}" for k in range(Q)]
Tick = tuple[np.ndarray, np.ndarray, np.ndarray]


def panel(trunk: Trunk | None = None, river: tuple[str, ...] = ("logistic",), **more: float) -> Panel:
    settings = {
        "prior_precision": 5.0,
        "feature_prior_precision": 5.0,
        "trunk_evidence": 0.5,
        "forgetting_per_tick": 0.999,
    } | more
    return Panel(trunk or Trunk.empty(), NAMES, river=river, river_samples_per_tick=20, **settings)  # type: ignore[arg-type]


def tick(panel: Panel, seed: int, n: int = 40, rate: float = 0.3) -> Tick:
    rng = np.random.default_rng(seed)
    hidden = np.abs(rng.normal(size=(n, len(panel.feature_names) - 1 - Q))).astype(np.float32)
    z = panel.assemble(hidden, rng.normal(size=(n, Q)).astype(np.float32))
    y = (rng.random(n) < 1 / (1 + np.exp(-(np.log(rate / (1 - rate)) + z[:, -1])))).astype(np.float64)
    return z, y, panel.predict(z)


@pytest.fixture
def trunk(trunk_writer: Callable[..., Path], tmp_path: Path) -> Trunk:
    return load_trunk(trunk_writer(tmp_path))


def test_names_and_layout_of_z(trunk: Trunk) -> None:
    subject = panel(trunk)
    assert subject.feature_names == ["bias", *(f"hidden_{k}" for k in range(8)), *NAMES]
    assert subject.learner_names == ["frozen", "last_layer", "ftrl", "river_logistic"]
    hidden, rt = np.full((2, 8), 2.0, np.float32), np.full((2, Q), 3.0, np.float32)
    z = subject.assemble(hidden, rt)
    assert z.tolist() == [[1.0] + [2.0] * 8 + [3.0] * Q] * 2
    assert z.dtype == np.float32 and z.flags.c_contiguous


def test_before_learning_champion_and_ftrl_are_the_frozen_head(
    trunk: Trunk, columns: Callable[..., dict[str, object]]
) -> None:
    subject = panel(trunk, river=())
    hidden = trunk.hidden(columns(50), 50)
    z = subject.assemble(hidden, np.ones((50, Q), np.float32))
    predictions = subject.predict(z)
    wanted = 1 / (1 + np.exp(-trunk.frozen_logit(hidden)))
    assert (predictions.dtype, predictions.shape) == (np.float32, (50, 3))
    for k in range(3):
        np.testing.assert_allclose(predictions[:, k], wanted, rtol=1e-5)


def test_figures_come_from_the_stored_predictions_not_from_the_learners() -> None:
    subject = panel(river=())
    z, y, _ = tick(subject, 0)
    stored = np.tile(np.array([0.25, 0.5, 0.75], np.float32), (len(y), 1))
    for _ in range(3):
        subject.learn(z, y, stored, 1)
    pcoc = {name: figures.pcoc for name, figures in subject.metrics().items()}
    for name, p in zip(("frozen", "last_layer", "ftrl"), (0.25, 0.5, 0.75), strict=True):
        assert pcoc[name] == pytest.approx(p * len(y) / y.sum(), rel=1e-6)
    assert subject.samples == 3 * len(y)


def test_where_traffic_shifts_learning_beats_the_frozen_head() -> None:
    subject = panel()
    for k in range(40):
        z, y, predictions = tick(subject, k)
        subject.learn(z, y, predictions, 1)
    figures = subject.metrics()
    frozen = figures["frozen"].log_loss
    assert frozen is not None
    for name in ("last_layer", "ftrl", "river_logistic"):
        loss = figures[name].log_loss
        assert loss is not None and loss < frozen
    calibration = subject.window_metrics()["last_layer"].pcoc
    assert calibration == pytest.approx(1.0, abs=0.25)
    assert subject.skipped == {"unusable": 0, "river_logistic": 40 * 20}


@given(st.integers(0, 1000), st.integers(0, 3))
@settings(max_examples=10, deadline=None)
def test_a_restored_panel_continues_bit_for_bit(seed: int, ticks: int) -> None:
    kept, restored = panel(), panel()
    for k in range(ticks):
        kept.learn(*tick(kept, seed + k), 1)
    restored.load_state(kept.state_bytes())
    assert restored.digest() == kept.digest()
    for each in (kept, restored):
        each.learn(*tick(each, seed + 50), 2)
    assert kept.state_bytes() == restored.state_bytes()
    assert kept.metrics() == restored.metrics()
    assert kept.head() == restored.head()


def test_the_digest_is_of_what_was_learned_not_of_figures() -> None:
    one, other = panel(), panel()
    z, y, predictions = tick(one, 0)
    one.learn(z, y, predictions, 1)
    other.learn(z, y, np.full_like(predictions, 0.5), 1)
    assert one.digest() == other.digest()
    assert one.digest() != panel().digest()


def test_a_state_of_other_features_learners_or_trunk_is_refused(trunk: Trunk) -> None:
    state = panel(river=()).state_bytes()
    with pytest.raises(LearnerStateError, match="river_logistic"):
        panel().load_state(state)
    with pytest.raises(LearnerStateError, match="hidden_0"):
        panel(trunk, river=()).load_state(state)
    with pytest.raises(LearnerStateError, match="another prior"):
        panel(river=(), prior_precision=6.0).load_state(state)
    with pytest.raises(LearnerStateError):
        panel().load_state(b"")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1e30])
def test_rows_that_would_poison_a_state_are_dropped_and_counted(bad: float) -> None:
    clean, dirty = panel(), panel()
    z, y, predictions = tick(clean, 0)
    clean.learn(z, y, predictions, 1)
    poisoned = np.vstack([z, np.full((2, z.shape[1]), bad, np.float32)])
    dirty.learn(poisoned, np.append(y, [1.0, 0.0]), np.vstack([predictions, predictions[:2]]), 1)
    assert dirty.skipped["unusable"] == 2
    assert dirty.digest() == clean.digest()


def test_an_empty_tick_forgets_and_counts_nothing() -> None:
    subject = panel()
    subject.learn(*tick(subject, 0), 1)
    before = from_head(subject.head())
    z, y, predictions = tick(subject, 1, n=0)
    subject.learn(z, y, predictions, 100)
    after = from_head(subject.head())
    assert np.trace(after.precision) < np.trace(before.precision)
    assert subject.samples == 40


def test_the_published_head_has_one_weight_a_feature(trunk: Trunk) -> None:
    subject = panel(trunk)
    head = subject.head()
    assert len(head.mean) == len(subject.feature_names)
    assert head.prior_mean == [trunk.head_bias, *trunk.head_weight.tolist(), *[0.0] * Q]
