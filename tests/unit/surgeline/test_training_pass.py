"""Fails when a trunk is trained on other features, ids or labels than the engine had: a feature that knew of
later events, a click outside the label window, a row that is another impression's."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from contracts.scenario import Learners, Scenario, Times
from features.hashing import hash_texts
from models.deep.fitted import Options
from models.deep.load import kinds, load_trunk
from models.deep.trunk import Trunk, TrunkError
from models.train import train_from_samples
from surgeline.evaluation.rehearse import Rehearsal
from surgeline.training_pass import collect

START = 1_731_254_400_000
SCENARIO = Scenario(learners=Learners(river=[]), times=Times(label_window_s=5.0))


@pytest.fixture(scope="module")
def log() -> pl.DataFrame:
    """Six impressions a second of nine items; every third is clicked, some of them after the label window."""
    rows = []
    for n in range(600):
        at = START + n * 160
        event = {
            "event_time": at,
            "impression_id": f"i{n}",
            "user_id": f"u{n % 7}",
            "item_id": f"x{n % 9}",
            "category_id": "c",
            "position": n % 5,
            "price": 1.0 + n,
            # A key that is not there from the beginning.
            "context": {"device": "phone", "city": "x" if n > 300 else None},
        }
        rows.append({**event, "event": "impression", "action": None})
        if n % 3 == 0:
            late = 9000 if n % 2 else 400
            rows.append({**event, "event": "action", "event_time": at + late, "action": "click"})
    return pl.DataFrame(rows, infer_schema_length=None).sort("event_time", maintain_order=True)


def test_columns_and_labels_are_those_of_the_log(log: pl.DataFrame) -> None:
    samples, report = collect(log.iter_slices(97), SCENARIO)
    assert report.samples == len(samples) == 600
    n = np.round((np.asarray(samples.columns["event_time"]) - START) / 160).astype(int)
    assert n.tolist() == list(range(600))
    assert samples.clicked.tolist() == [k % 3 == 0 and k % 2 == 0 for k in n]
    assert samples.columns["item_id"].tolist() == hash_texts([f"x{k % 9}" for k in n]).tolist()
    assert (
        samples.columns["context.city"].tolist() == hash_texts(["x" if k > 300 else "" for k in n]).tolist()
    )
    np.testing.assert_array_equal(samples.columns["price"], 1.0 + n)
    assert samples.features.shape == (600, len(samples.feature_names)) and samples.features_hash


def test_features_know_nothing_of_what_comes_later(log: pl.DataFrame) -> None:
    """A log that is cut gives the features of the whole one, also where it is read in other pieces."""
    whole, _ = collect(log.iter_slices(97), SCENARIO)
    cut, _ = collect(log.filter(pl.col("event_time") < START + 40_000).iter_slices(31), SCENARIO)
    assert len(cut) == 250
    assert cut.features.tobytes() == whole.features[:250].tobytes()
    assert cut.features_hash == whole.features_hash and cut.features.std(axis=0).max() > 0.0


def in_order(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T)]


def test_features_are_those_of_a_worker_that_learns(log: pl.DataFrame, tmp_path: Path) -> None:
    """Nobody learns in the pass, which must not be seen in what is trained on."""
    seen: list[np.ndarray] = []
    rehearsal = Rehearsal(SCENARIO, Trunk.empty(), tmp_path, lambda _, closed: seen.append(closed.inputs))
    with contextlib.closing(rehearsal.engine.store):
        rehearsal.feed(log)
        rehearsal.finish()
    samples, report = collect(log.iter_slices(97), SCENARIO)
    # A worker's samples stand by partition, those that are trained on in the log's order.
    assert np.array_equal(in_order(np.concatenate(seen)[:, 1:]), in_order(samples.features))
    assert rehearsal.engine.panel.samples == 600 and not any(one.samples for one in report.metrics.values())


@pytest.mark.parametrize("kind", kinds())
def test_a_trunk_is_trained_on_them(log: pl.DataFrame, kind: str, tmp_path: Path) -> None:
    samples, _ = collect(log.iter_slices(97), SCENARIO)
    options = Options(hidden_size=4, epochs=2)
    report = train_from_samples(samples, tmp_path, kind, options, log="sale", label_window_s=5.0)
    assert (report.kind, report.features) == (kind, list(samples.feature_names))
    assert f"{len(samples.feature_names)} real-time features" in report.describe()
    assert (report.training.first_event_time, report.training.rows) == (START, 600)
    trunk = load_trunk(tmp_path)
    assert np.isfinite(trunk.hidden(samples.columns, 600, samples.features)).all()
    trunk.check_features(samples.feature_names, samples.features_hash)
    with pytest.raises(TrunkError, match="other features"):
        trunk.check_features([], "")


def test_a_log_without_rows_gives_no_samples() -> None:
    samples, _ = collect([], SCENARIO)
    assert len(samples) == 0 and samples.feature_names
