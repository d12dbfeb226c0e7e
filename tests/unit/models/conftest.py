"""Trunk folders with random weights, of every kind, without torch and LightGBM."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save

from features.hashing import hash_texts
from models.deep.fields import POSITION_BUCKETS
from models.deep.manifest import MANIFEST_FILE, SCHEMA_VERSION, WEIGHTS_FILE, Manifest, Reads

IDS = ["user_id", "item_id", "category_id", "shop_id", "context.device"]
FEATURES = ["item_id.click/impression.600s", "session.step", "list.price.rank"]
KINDS = ["network", "trees"]


def _normal(rng: np.random.Generator, *shape: int) -> Any:
    return (0.3 * rng.normal(size=shape)).astype(np.float32)


def network(rng: np.random.Generator, features: int) -> tuple[list[str], dict[str, Any], dict[str, Any]]:
    """Fields, settings and tensors of a network of 20 ids a field."""
    tensors: dict[str, Any] = {
        "embedding.position": _normal(rng, POSITION_BUCKETS, 4),
        "embedding.hour": _normal(rng, 24, 4),
        "layer_1.weight": _normal(rng, 16, 4 * 7 + 1 + features),
        "layer_1.bias": _normal(rng, 16),
        "layer_2.weight": _normal(rng, 8, 16),
        "layer_2.bias": _normal(rng, 8),
        "layer_2.center": _normal(rng, 8),
        "head.weight": _normal(rng, 8),
        "head.bias": _normal(rng, 1),
    }
    for field in IDS:
        tensors[f"keys.{field}"] = np.sort(hash_texts([f"{field}-{k}" for k in range(20)]))
        tensors[f"embedding.{field}"] = _normal(rng, 20, 4)
    settings = {"embedding_size": 4, "layer_size": 16, "position_buckets": POSITION_BUCKETS}
    return [*IDS, "position", "hour", "price"], settings, tensors


def trees(rng: np.random.Generator, features: int) -> tuple[list[str], dict[str, Any], dict[str, Any]]:
    """The same of twelve trees of four leaves, and one of a single leaf, in eight units."""
    node = np.arange(85)
    place = node % 7
    tensors: dict[str, Any] = {
        "column": rng.integers(0, features + 2, 85),
        "threshold": _normal(rng, 85) + np.float32(0.5),
        # Of seven nodes the first leads to the next two, each of them to two leaves; the last tree is a leaf.
        "after": np.where((place < 3) & (node < 84), node + place + 1, node),
        "value": rng.normal(size=85),
        "root": np.arange(13) * 7,
        "unit": np.arange(13) * 8 // 13,
        "center": rng.normal(size=8),
        "factor": np.ones(8),
        "head.weight": np.ones(8),
        "head.bias": np.array([-3.0]),
    }
    for name in ("column", "after", "root", "unit"):
        tensors[name] = tensors[name].astype(np.int32)
    return ["position", "price"], {}, tensors


def write_trunk(
    folder: Path,
    change: Callable[[dict[str, Any]], None] = lambda _: None,
    kind: str = "network",
    features: int = 0,
    **fields: Any,
) -> Path:
    """Write a trunk of eight units that reads ``features`` of ``FEATURES``; ``change`` edits its tensors,
    ``fields`` the manifest."""
    read, settings, tensors = {"network": network, "trees": trees}[kind](np.random.default_rng(0), features)
    change(tensors)
    data = save(tensors)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        kind=kind,
        weights_sha256=hashlib.sha256(data).hexdigest(),
        hidden_size=8,
        reads=Reads(
            fields=read,
            price_mean=3.0,
            price_scale=1.5,
            features=FEATURES[:features],
            features_hash="of-the-plan" if features else "",
            feature_mean=[0.1, 0.2, 0.3][:features],
            feature_scale=[1.0, 2.0, 3.0][:features],
        ),
        settings=settings,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS_FILE).write_bytes(data)
    (folder / MANIFEST_FILE).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, **fields)))
    return folder


def some_columns(n: int, seed: int = 0) -> dict[str, Any]:
    """Columns of n impressions; about half of their ids were seen in training."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {
        field: [f"{field}-{k}" for k in rng.integers(0, 40, n)]
        for field in ("user_id", "item_id", "category_id", "shop_id")
    }
    columns["position"] = rng.integers(0, 60, n)
    columns["price"] = rng.lognormal(3.0, 1.0, n)
    columns["event_time"] = rng.integers(1_700_000_000_000, 1_700_100_000_000, n)
    columns["context"] = [
        {"device": f"context.device-{k}"} if k % 3 else None for k in rng.integers(0, 40, n)
    ]
    return columns


def some_features(n: int, seed: int = 0) -> Any:
    """Real-time features (n, 3) float32."""
    return np.random.default_rng(seed).normal(size=(n, len(FEATURES))).astype(np.float32)


@pytest.fixture
def trunk_writer() -> Callable[..., Path]:
    return write_trunk


@pytest.fixture
def columns() -> Callable[..., dict[str, Any]]:
    return some_columns
