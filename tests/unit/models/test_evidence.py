"""Fails when a trunk claims more or less of its head than its training told.

Required of every kind: the evidence is the curvature of the training samples' log loss at the frozen head, by
finite differences; it survives the folder; a trunk without it, or with one of another size, is told apart.
"""

from pathlib import Path

import numpy as np
import pytest

from models.deep.evidence import CHUNK_ROWS, head_evidence
from models.deep.fitted import Options, export
from models.deep.load import load_trunk
from models.deep.trunk import EVIDENCE, TrunkError
from models.online.panel import Panel
from models.train import train_from_samples
from tests.unit.models.conftest import KINDS
from tests.unit.models.test_fit import NAMES, SMALL, fit, log

STEP = 1e-3


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_evidence_is_the_curvature_of_the_log_loss(
    kind: str, features: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In chunks that do not divide the samples; by differences of the gradient."""
    samples = log(n=500, features=features)
    train_from_samples(samples, tmp_path, kind, SMALL, log="a log", label_window_s=60.0)
    trunk = load_trunk(tmp_path)
    d, q = trunk.hidden_size, len(trunk.feature_names)
    given = samples.features if q else np.zeros((len(samples), 0), dtype=np.float32)
    z = np.concatenate(
        [np.ones((500, 1)), trunk.hidden(samples.columns, 500, given), trunk.normalise(given)], axis=1
    )
    head = np.concatenate([[trunk.head_bias], trunk.head_weight, np.zeros(q)])

    def slope(w: np.ndarray) -> np.ndarray:
        result: np.ndarray = z.T @ (1 / (1 + np.exp(-(z @ w))))
        return result

    moves = STEP * np.eye(1 + d + q)
    curvature = np.array([(slope(head + move) - slope(head - move)) / (2 * STEP) for move in moves])
    assert trunk.head_evidence.shape == curvature.shape
    np.testing.assert_allclose(trunk.head_evidence, curvature, rtol=1e-3, atol=1e-2)
    assert CHUNK_ROWS > 500
    monkeypatch.setattr("models.deep.evidence.CHUNK_ROWS", 7)
    np.testing.assert_allclose(head_evidence(trunk, samples), trunk.head_evidence, rtol=1e-4, atol=1e-3)


def test_a_trunk_without_evidence_knows_nothing(tmp_path: Path) -> None:
    """One that another program wrote: its head is where learning starts, as loosely as the scenario says."""
    export(fit("network", log(features=True)), tmp_path)
    trunk = load_trunk(tmp_path)
    assert not trunk.head_evidence.any()
    p = 1 + trunk.hidden_size + len(NAMES)
    assert trunk.head_evidence.shape == (p, p)


def test_evidence_of_another_size_is_refused(tmp_path: Path) -> None:
    """Of a head that this trunk does not have."""
    fitted = fit("network", log(features=True))
    fitted.tensors[EVIDENCE] = np.zeros((3, 3), dtype=np.float32)
    export(fitted, tmp_path)
    with pytest.raises(TrunkError, match=r"head\.evidence has shape"):
        load_trunk(tmp_path)


def test_the_panel_takes_its_share(tmp_path: Path) -> None:
    """On top of the scenario's own precision, in the places of what the trunk reads."""
    train_from_samples(
        log(features=True), tmp_path, "network", Options(4, 1), log="a log", label_window_s=60.0
    )
    trunk = load_trunk(tmp_path)

    def prior(share: float, names: tuple[str, ...]) -> np.ndarray:
        return Panel(trunk, names, 5.0, 2.0, share, 1.0).champion.prior_precision

    names = tuple(trunk.feature_names)
    own = np.diag([5.0] * (1 + trunk.hidden_size) + [2.0] * len(names))
    np.testing.assert_array_equal(prior(0.0, names), own)
    np.testing.assert_allclose(prior(0.25, names), own + 0.25 * trunk.head_evidence)
