"""Failure: samples that cannot be trained on end in a traceback, a trunk is not the one that was reported, or
a figure of a few clicks stands there as if it were a finding.

Required: every refusal says what is missing; the same samples give the same trunk; the report says what an
AUC is worth.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.deep.fitted import Options
from models.deep.load import load_trunk
from models.deep.samples import Samples
from models.train import TrainError, TrainReport, train_from_samples

T = 1_700_000_000_000


def samples(n: int, clicked: Any, **columns: Any) -> Samples:
    """``n`` impressions, a second apart; ``clicked``: numbers of those that were clicked."""
    rows = range(n)
    usual: dict[str, Any] = {
        "user_id": [f"u{k % 7}" for k in rows],
        "item_id": [f"x{k % 5}" for k in rows],
        "position": np.array([k % 3 for k in rows]),
        "price": np.full(n, 10.0),
        "event_time": T + 1000 * np.arange(n),
        "context": [{"device": "phone"}] * n,
    }
    labels = np.zeros(n, dtype=np.bool_)
    labels[list(clicked)] = True
    return Samples(usual | columns, labels)


def train(found: Samples, out: Path, kind: str = "network", **options: Any) -> TrainReport:
    chosen = Options(**({"hidden_size": 4, "epochs": 3} | options))
    return train_from_samples(found, out, kind, chosen, log="a sale", label_window_s=5.0)


def test_it_writes_a_trunk_that_loads_and_reports_in_words(tmp_path: Path) -> None:
    found = samples(400, range(0, 400, 4), price=np.arange(400) % 11 + 0.5)
    report = train(found, tmp_path / "trunk", epochs=1)
    trunk = load_trunk(tmp_path / "trunk")
    assert trunk.hidden_size == report.hidden_size == 4
    assert trunk.hash == report.trunk_hash
    said = report.describe()
    assert "400 impressions with 100 clicks from a sale" in said
    assert trunk.hash[:12] in said and str(tmp_path / "trunk") in said
    assert train(found, tmp_path / "again", epochs=1).trunk_hash == trunk.hash
    training = report.training
    assert (training.first_event_time, training.last_event_time) == (T, T + 399_000)
    assert (training.log, training.label_window_s) == ("a sale", 5.0)


def test_samples_without_a_click_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="a sale: none of the 3 impressions was clicked; nothing to learn"):
        train(samples(3, []), tmp_path / "trunk")
    assert not (tmp_path / "trunk").exists()


@pytest.mark.parametrize("options", [{"hidden_size": -1}, {"epochs": -2}])
def test_negative_sizes_are_refused(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(TrainError, match="must not be negative; 0 leaves them to the kind"):
        train(samples(4, [1]), tmp_path, **options)


def test_a_library_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LightGBM's wheel needs the system's libgomp, which slim images lack."""
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    monkeypatch.delitem(sys.modules, "models.deep.fits.trees", raising=False)
    with pytest.raises(TrainError, match=r"trains a trunk of kind trees cannot be loaded: .*lightgbm"):
        train(samples(4, [1]), tmp_path / "trunk", kind="trees")
    with pytest.raises(TrainError, match="'forest'; there are network, trees"):
        train(samples(4, [1]), tmp_path / "trunk", kind="forest")


def test_a_folder_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainError, match="cannot be written"):
        train(samples(4, [1]), tmp_path / "file", hidden_size=2, epochs=1)


def test_an_auc_that_chance_would_give_is_said_to_be_one(tmp_path: Path) -> None:
    """Failure: "AUC 0.5000" or "AUC 0.71" of three held-out clicks stands there as if it were a finding.

    Required: how many clicks were held out, the interval, that it cannot be told from chance, what would.
    """
    rng = np.random.default_rng(3)
    said = train(samples(600, rng.choice(600, 20, replace=False)), tmp_path).describe()
    clicks = int(said.split("held out the newest 90, ".capitalize())[1].split(" ")[0])
    assert 0 < clicks < 20
    assert "(95 %: " in said
    assert f"{clicks} held-out clicks cannot tell this trunk from one that knows nothing" in said
    assert f"about 262, a log with {262 / clicks:,.1f} times the clicks" in said
    assert "surgeline simulate" in said


def test_one_score_for_all_is_said(tmp_path: Path) -> None:
    """Clicks that depend on nothing: training ends with the constant that it began with."""
    alike = {"user_id": ["u"] * 600, "item_id": ["x"] * 600, "position": np.zeros(600, dtype=np.int64)}
    found = samples(600, range(0, 600, 7), **alike, context=[None] * 600)
    assert "Every impression gets the same score" in train(found, tmp_path).describe()


def test_an_auc_that_says_something_stands_alone(tmp_path: Path) -> None:
    clicked = [k for k in range(0, 3000, 4) if k % 12]
    items = [f"x{k % 4}" for k in range(3000)]
    said = train(samples(3000, clicked, item_id=items, user_id=["u"] * 3000), tmp_path).describe()
    assert "cannot tell" not in said and "same score" not in said
    assert "(95 %: " in said
