"""Failure: a wrong or damaged trunk scores silently, or a score depends on who else is in the batch.

Required of every kind: each fault is a TrunkError that names it; a row's hidden layer is a function of the
row alone (learning must not depend on how Kafka batched the events); a trunk of other features than the
scenario's is refused; unknown ids count as no id.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings

from features.compiled import plain
from features.hashing import hash_texts
from models.deep.kinds import network, trees
from models.deep.load import kinds, load_trunk
from models.deep.manifest import MANIFEST_FILE, WEIGHTS_FILE
from models.deep.trunk import Trunk, TrunkError
from tests.unit.models.conftest import FEATURES, KINDS, some_columns, some_features, write_trunk


@pytest.fixture(params=[(kind, features) for kind in KINDS for features in (0, 3)], ids=str)
def trunk(request: pytest.FixtureRequest, tmp_path: Path) -> Trunk:
    """One of each kind, of columns alone and with features."""
    kind, features = request.param
    return load_trunk(write_trunk(tmp_path, kind=kind, features=features))


def hidden(trunk: Trunk, columns: dict[str, Any], features: Any) -> Any:
    n = len(columns["position"])
    return trunk.hidden(columns, n, features[:n] if trunk.feature_names else None)


def test_every_kind_is_in_this_battery() -> None:
    assert kinds() == KINDS


def test_shapes_and_types(trunk: Trunk) -> None:
    found = hidden(trunk, some_columns(70), some_features(70))
    assert (found.shape, found.dtype) == ((70, 8), np.float32)
    logit = trunk.frozen_logit(found)
    assert (logit.shape, logit.dtype) == ((70,), np.float64)
    np.testing.assert_allclose(logit, found @ trunk.head_weight + trunk.head_bias)
    assert hidden(trunk, some_columns(0), some_features(0)).shape == (0, 8)
    assert found.std(axis=0).max() > 0.01


def test_a_row_does_not_depend_on_its_batch(trunk: Trunk) -> None:
    everything, features = some_columns(200), some_features(200)
    together = hidden(trunk, everything, features)

    @given(st.integers(0, 199), st.integers(1, 130))
    @settings(max_examples=60, deadline=None)
    def check(start: int, n: int) -> None:
        n = min(n, 200 - start)
        part = {name: values[start : start + n] for name, values in everything.items()}
        assert hidden(trunk, part, features[start:]).tobytes() == together[start : start + n].tobytes()

    check()


def test_texts_and_their_keys_are_the_same_ids(trunk: Trunk) -> None:
    texts = some_columns(50)
    keys = {field: hash_texts(texts[field]) for field in ("user_id", "item_id", "category_id", "shop_id")}
    keys["context.device"] = hash_texts([(c or {}).get("device", "") for c in texts["context"]])
    rest = {field: texts[field] for field in ("position", "price", "event_time")}
    features = some_features(50)
    assert hidden(trunk, keys | rest, features).tobytes() == hidden(trunk, texts, features).tobytes()


def test_numbers_may_come_as_the_plan_has_them(trunk: Trunk) -> None:
    """As floats, NaN where an impression has none."""
    whole, floats = some_columns(3), some_columns(3)
    whole |= {"position": np.array([2, 5, 0]), "price": np.array([1.0, 2.0, 0.0])}
    floats |= {"position": np.array([2.0, 5.0, np.nan]), "price": np.array([1.0, 2.0, np.nan])}
    features = some_features(3)
    assert hidden(trunk, floats, features).tobytes() == hidden(trunk, whole, features).tobytes()


@pytest.mark.parametrize("position", [0, 32_767, 10**9])
@pytest.mark.parametrize("feature", [-1e30, 0.0, 1e30])
def test_extreme_values_stay_finite(trunk: Trunk, position: int, feature: float) -> None:
    one = some_columns(1) | {"position": np.array([position]), "price": np.array([1e12])}
    found = hidden(trunk, one, np.full((1, 3), feature, dtype=np.float32))
    assert np.isfinite(found).all() and np.abs(found).max() < 1e3


def test_unknown_and_missing_ids_count_as_no_id(tmp_path: Path) -> None:
    trunk = load_trunk(write_trunk(tmp_path))
    known = some_columns(3)
    unknown, missing = dict(known), dict(known)
    unknown["item_id"] = ["never-seen", "neither", "日本語"]
    missing["item_id"] = ["", "", ""]
    assert trunk.hidden(unknown, 3).tobytes() == trunk.hidden(missing, 3).tobytes()
    known["item_id"] = ["item_id-1"] * 3
    assert trunk.hidden(known, 3).tobytes() != trunk.hidden(missing, 3).tobytes()


def test_no_context_equals_empty_contexts(trunk: Trunk) -> None:
    absent, empty = some_columns(4), some_columns(4)
    del absent["context"]
    empty["context"] = [None, {}, {"device": ""}, {"other": "x"}]
    features = some_features(4)
    assert hidden(trunk, absent, features).tobytes() == hidden(trunk, empty, features).tobytes()


def test_without_a_trunk_the_frozen_head_predicts_the_base_rate() -> None:
    trunk = Trunk.empty()
    assert (trunk.hash, trunk.kind, trunk.hidden_size, trunk.fields) == ("none", "none", 0, ())
    logit = trunk.frozen_logit(trunk.hidden({}, 3))
    np.testing.assert_allclose(1 / (1 + np.exp(-logit)), [0.02] * 3)
    trunk.check_features(FEATURES, "whatever")


@pytest.mark.parametrize("kind", KINDS)
def test_features_must_be_given_and_be_those_of_the_plan(kind: str, tmp_path: Path) -> None:
    trunk = load_trunk(write_trunk(tmp_path, kind=kind, features=3))
    trunk.check_features(FEATURES, "of-the-plan")
    with pytest.raises(
        TrunkError, match=r"has not seen new\.one; there is no list\.price\.rank.*Train it ag"
    ):
        trunk.check_features([*FEATURES[:2], "new.one"], "another")
    with pytest.raises(TrunkError, match="same names with other settings"):
        trunk.check_features(FEATURES, "another")
    for features in (None, some_features(2)[:, :2], some_features(3)):
        with pytest.raises(TrunkError, match="reads real-time features"):
            trunk.hidden(some_columns(2), 2, features)


def test_a_trunk_of_ids_alone_fits_any_plan(tmp_path: Path) -> None:
    load_trunk(write_trunk(tmp_path)).check_features(FEATURES, "whatever")


def test_normalised_features_are_of_order_one(tmp_path: Path) -> None:
    trunk = load_trunk(write_trunk(tmp_path, features=3))
    given = np.array([[1.1, 2.2, -1e9]], dtype=np.float32)
    np.testing.assert_allclose(trunk.normalise(given), [[1.0, 1.0, -8.0]], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_hash_covers_weights_and_settings_but_not_the_training_record(kind: str, tmp_path: Path) -> None:
    def nudge(tensors: dict[str, Any]) -> None:
        tensors["head.bias"] = tensors["head.bias"] + 1e-3

    def of(name: str, *more: Any, **fields: Any) -> str:
        return load_trunk(write_trunk(tmp_path / name, *more, kind=kind, features=3, **fields)).hash

    first = of("a")
    reads = msgspec.json.decode((tmp_path / "a" / MANIFEST_FILE).read_bytes())["reads"]
    assert of("b") == first
    assert of("c", nudge) != first
    assert of("d", reads=reads | {"features_hash": "x"}) != first
    assert of("e", training=None) == first


def _drop(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda tensors: tensors.pop(name)


def _replace(name: str, array: np.ndarray) -> Callable[[dict[str, Any]], None]:
    return lambda tensors: tensors.update({name: array})


def _put(name: str, at: int, value: float) -> Callable[[dict[str, Any]], None]:
    def change(tensors: dict[str, Any]) -> None:
        tensors[name][at] = value

    return change


NETWORK_FAULTS = [
    (_drop("layer_2.bias"), "no tensor layer_2.bias"),
    (_drop("keys.item_id"), "keys.item_id"),
    (_replace("keys.item_id", np.arange(20)), "no uint64 vector keys.item_id"),
    (_put("keys.item_id", 3, 0), "keys.item_id is not in ascending order"),
    (_replace("head.weight", np.zeros(9, np.float32)), "head.weight has shape"),
    (_replace("layer_1.bias", np.full(16, np.nan, np.float32)), "layer_1.bias is not finite"),
    (_replace("embedding.item_id", np.zeros((3, 4), np.float32)), "embedding.item_id has shape"),
]
TREES_FAULTS = [
    (_drop("value"), "no tensor value"),
    (_drop("unit"), "no tensor unit"),
    (_put("threshold", 0, np.nan), "threshold is not finite"),
    (_replace("threshold", np.zeros(85)), "threshold is of type float64"),
    (_replace("unit", np.zeros(12, np.int32)), "unit has shape"),
    (_put("column", 0, 99), "column names an input"),
    (_put("unit", 0, 8), "unit names a unit"),
    # Walked, it would go round for ever, or read what is not there.
    (_put("after", 1, 0), "after leads to"),
    (_put("after", 80, 84), "after leads to"),
    (_put("root", 0, 85), "root leads to"),
]


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [("network", *fault) for fault in NETWORK_FAULTS] + [("trees", *fault) for fault in TREES_FAULTS],
)
def test_wrong_tensors_are_named(tmp_path: Path, kind: str, change: Any, reason: str) -> None:
    with pytest.raises(TrunkError, match=reason):
        load_trunk(write_trunk(tmp_path, change, kind=kind, features=3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"schema_version": 99}, "schema version 99"),
        ({"schema_version": 2}, "schema version 2, this build reads 3; train the trunk again"),
        ({"weights_sha256": "0" * 64}, "sha256"),
        ({"settings": {"layer_size": "wide"}}, "settings"),
        ({"hidden_size": 9}, "has shape"),
        ({"reads": {"features": ["a"]}}, "must have one length"),
    ],
)
def test_wrong_manifests_are_named(tmp_path: Path, kind: str, changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(TrunkError, match=reason):
        load_trunk(write_trunk(tmp_path, kind=kind, **changed))


def test_an_unknown_kind_is_named(tmp_path: Path) -> None:
    path = write_trunk(tmp_path) / MANIFEST_FILE
    path.write_bytes(path.read_bytes().replace(b'"network"', b'"oracle"'))
    with pytest.raises(TrunkError, match="kind 'oracle'; there are network, trees"):
        load_trunk(tmp_path)


def test_a_manifest_of_the_first_edition_says_what_to_do(tmp_path: Path) -> None:
    """It has other fields: what it lacks must not be what is complained about."""
    write_trunk(tmp_path)
    first = {"schema_version": 2, "weights_sha256": "", "fields": ["item_id"], "embedding_size": 8}
    (tmp_path / MANIFEST_FILE).write_bytes(msgspec.json.encode(first))
    with pytest.raises(TrunkError, match="train the trunk again with `surgeline train`"):
        load_trunk(tmp_path)


def test_trees_refuse_ids(tmp_path: Path) -> None:
    with pytest.raises(TrunkError, match="trees cannot read 'item_id'"):
        load_trunk(write_trunk(tmp_path, kind="trees", reads={"fields": ["item_id"]}))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", [MANIFEST_FILE, WEIGHTS_FILE])
def test_missing_and_damaged_files_are_named(tmp_path: Path, kind: str, file: str) -> None:
    folder = write_trunk(tmp_path, kind=kind)
    (folder / file).write_bytes((folder / file).read_bytes()[:-9])
    with pytest.raises(TrunkError, match=file):
        load_trunk(folder)
    (folder / file).unlink()
    with pytest.raises(TrunkError, match=file):
        load_trunk(folder)


@pytest.mark.parametrize(
    ("kind", "module", "name"), [("trees", trees, "_walk"), ("network", network, "_finish_layer")]
)
def test_all_forms_of_a_kinds_kernel_give_the_same_bits(
    tmp_path: Path, monkeypatch: Any, kind: str, module: Any, name: str
) -> None:
    """Compiled, as plain Python, and in numpy for where there is no compiler."""
    trunk = load_trunk(write_trunk(tmp_path, kind=kind, features=3))
    columns, features = some_columns(150), some_features(150)
    wanted = trunk.hidden(columns, 150, features)
    monkeypatch.setattr(module, name, plain(getattr(module, name)))
    assert trunk.hidden(columns, 150, features).tobytes() == wanted.tobytes()
    monkeypatch.setattr(module, "COMPILED", False)
    assert trunk.hidden(columns, 150, features).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("library", ["torch", "lightgbm"])
def test_inference_imports_no_library_of_training(library: str) -> None:
    """A worker that imports torch starts seconds later and is 200 MB larger."""
    code = (
        "import models.deep.load, models.deep.kinds.network, models.deep.kinds.trees, models.online.panel, "
        f"models.train, sys; sys.exit('{library}' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
