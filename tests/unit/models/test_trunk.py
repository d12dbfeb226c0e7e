"""Failure: a wrong or damaged trunk scores silently, or a score depends on who else is in the batch.

Required: every fault is a TrunkError that names it; a row's hidden layer is a function of the row alone
(learning must not depend on how Kafka batched the events); unknown ids count as no id.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from models.deep.manifest import MANIFEST_FILE, WEIGHTS_FILE
from models.deep.trunk import Trunk, TrunkError, _Rows

Writer = Callable[..., Path]
Columns = Callable[..., dict[str, Any]]


@pytest.fixture
def trunk(trunk_writer: Writer, tmp_path: Path) -> Trunk:
    return Trunk.load(trunk_writer(tmp_path))


def test_shapes_and_types(trunk: Trunk, columns: Columns) -> None:
    hidden = trunk.hidden(columns(70), 70)
    assert (hidden.shape, hidden.dtype) == ((70, 8), np.float32)
    logit = trunk.frozen_logit(hidden)
    assert (logit.shape, logit.dtype) == ((70,), np.float64)
    np.testing.assert_allclose(logit, hidden @ trunk.head_weight + trunk.head_bias)
    assert trunk.hidden(columns(0), 0).shape == (0, 8)


def test_a_row_does_not_depend_on_its_batch(trunk: Trunk, columns: Columns) -> None:
    everything = columns(200)
    together = trunk.hidden(everything, 200)

    @given(st.integers(0, 199), st.integers(1, 130))
    @settings(max_examples=60, deadline=None)
    def check(start: int, n: int) -> None:
        n = min(n, 200 - start)
        part = {name: values[start : start + n] for name, values in everything.items()}
        assert trunk.hidden(part, n).tobytes() == together[start : start + n].tobytes()

    check()


def test_unknown_and_missing_ids_count_as_no_id(trunk: Trunk, columns: Columns) -> None:
    known = columns(3)
    unknown, missing = dict(known), dict(known)
    unknown["item_id"] = ["never-seen", "neither", "日本語\ud800"]
    missing["item_id"] = ["", "", ""]
    assert trunk.hidden(unknown, 3).tobytes() == trunk.hidden(missing, 3).tobytes()
    known["item_id"] = ["item_id-1"] * 3
    assert trunk.hidden(known, 3).tobytes() != trunk.hidden(missing, 3).tobytes()


def test_no_context_equals_empty_contexts(trunk: Trunk, columns: Columns) -> None:
    absent, empty = columns(4), columns(4)
    del absent["context"]
    empty["context"] = [None, {}, {"device": ""}, {"other": "x"}]
    assert trunk.hidden(absent, 4).tobytes() == trunk.hidden(empty, 4).tobytes()


@pytest.mark.parametrize("position", [0, 32_767, 10**9])
def test_extreme_positions_and_prices_stay_finite(trunk: Trunk, columns: Columns, position: int) -> None:
    one = columns(1) | {"position": np.array([position]), "price": np.array([1e12])}
    assert np.isfinite(trunk.hidden(one, 1)).all()


def test_the_id_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.deep.trunk.CACHE_LIMIT", 10)
    rows = _Rows({}, bits=24)
    for k in range(1000):
        assert rows[f"id-{k}"] == 0
        assert len(rows) <= 10


def test_without_a_trunk_the_frozen_head_predicts_the_base_rate() -> None:
    trunk = Trunk.empty()
    assert (trunk.hash, trunk.hidden_size, trunk.fields) == ("none", 0, ())
    logit = trunk.frozen_logit(trunk.hidden({}, 3))
    np.testing.assert_allclose(1 / (1 + np.exp(-logit)), [0.02] * 3)


def test_the_hash_covers_weights_and_settings_but_not_the_training_record(
    trunk_writer: Writer, tmp_path: Path
) -> None:
    def nudge(tensors: dict[str, Any]) -> None:
        tensors["head.bias"] = tensors["head.bias"] + 1e-3

    first = Trunk.load(trunk_writer(tmp_path / "a")).hash
    assert Trunk.load(trunk_writer(tmp_path / "b")).hash == first
    assert Trunk.load(trunk_writer(tmp_path / "c", nudge)).hash != first
    assert Trunk.load(trunk_writer(tmp_path / "d", price_mean=2.0)).hash != first


def _drop(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda tensors: tensors.pop(name)


def _replace(name: str, array: np.ndarray) -> Callable[[dict[str, Any]], None]:
    return lambda tensors: tensors.update({name: array})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_drop("layer_2.bias"), "no tensor layer_2.bias"),
        (_drop("buckets.item_id"), "buckets.item_id"),
        (_replace("head.weight", np.zeros(9, np.float32)), "head.weight has shape"),
        (_replace("layer_1.bias", np.full(16, np.nan, np.float32)), "layer_1.bias is not finite"),
        (_replace("embedding.item_id", np.zeros((3, 4), np.float32)), "embedding.item_id has shape"),
    ],
)
def test_wrong_tensors_are_named(trunk_writer: Writer, tmp_path: Path, change: Any, reason: str) -> None:
    with pytest.raises(TrunkError, match=reason):
        Trunk.load(trunk_writer(tmp_path, change))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"schema_version": 99}, "schema version 99"),
        ({"weights_sha256": "0" * 64}, "sha256"),
        ({"fields": ["colour"]}, "unknown field 'colour'"),
    ],
)
def test_wrong_manifests_are_named(
    trunk_writer: Writer, tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(TrunkError, match=reason):
        Trunk.load(trunk_writer(tmp_path, **settings))


@pytest.mark.parametrize("file", [MANIFEST_FILE, WEIGHTS_FILE])
def test_missing_and_damaged_files_are_named(trunk_writer: Writer, tmp_path: Path, file: str) -> None:
    folder = trunk_writer(tmp_path)
    (folder / file).write_bytes((folder / file).read_bytes()[:-9])
    with pytest.raises(TrunkError, match=file):
        Trunk.load(folder)
    (folder / file).unlink()
    with pytest.raises(TrunkError, match=file):
        Trunk.load(folder)


def test_inference_does_not_import_torch() -> None:
    """A worker that imports torch starts seconds later and is 200 MB larger."""
    code = "import models.deep.trunk, models.online.panel, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
