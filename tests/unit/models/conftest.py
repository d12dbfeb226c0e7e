"""A trunk folder with random weights, without torch."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save

from models.deep.fields import POSITION_BUCKETS, bucket
from models.deep.manifest import BUCKET_BITS, MANIFEST_FILE, SCHEMA_VERSION, WEIGHTS_FILE, Manifest

FIELDS = ["user_id", "item_id", "category_id", "shop_id", "context.device", "position", "hour", "price"]


def write_trunk(
    folder: Path, change: Callable[[dict[str, Any]], None] = lambda _: None, **fields: Any
) -> Path:
    """Write a trunk of 20 ids a field; ``change`` edits its tensors, ``fields`` the manifest."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Any:
        return (0.3 * rng.normal(size=shape)).astype(np.float32)

    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        weights_sha256="",
        fields=FIELDS,
        embedding_size=4,
        layer_size=16,
        hidden_size=8,
        position_buckets=POSITION_BUCKETS,
        price_mean=3.0,
        price_scale=1.5,
    )
    tensors: dict[str, Any] = {
        "embedding.position": normal(POSITION_BUCKETS, 4),
        "embedding.hour": normal(24, 4),
        "layer_1.weight": normal(16, 4 * 7 + 1),
        "layer_1.bias": normal(16),
        "layer_2.weight": normal(8, 16),
        "layer_2.bias": normal(8),
        "layer_2.center": normal(8),
        "head.weight": normal(8),
        "head.bias": normal(1),
    }
    for field in manifest.id_fields:
        trained = sorted({bucket(f"{field}-{k}", BUCKET_BITS) for k in range(20)})
        tensors[f"buckets.{field}"] = np.array(trained, dtype=np.int64)
        tensors[f"embedding.{field}"] = normal(len(trained), 4)
    change(tensors)
    data = save(tensors)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS_FILE).write_bytes(data)
    settings = {"weights_sha256": hashlib.sha256(data).hexdigest(), **fields}
    (folder / MANIFEST_FILE).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, **settings)))
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


@pytest.fixture
def trunk_writer() -> Callable[..., Path]:
    return write_trunk


@pytest.fixture
def columns() -> Callable[..., dict[str, Any]]:
    return some_columns
