"""A small network over ids, context and real-time features, in numpy.

The first layer is RepL's sparse fully connected layer: because it is linear, the product of its weights with
every embedding row is taken once, when the trunk is loaded. A request then sums one row a field; price and
features are multiplied with what is left of the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from features.compiled import COMPILED, kernel
from features.hashing import Keys
from features.rows import Rows
from models.deep.fields import (
    HOURS,
    NUMBERS,
    POSITION_BUCKETS,
    Columns,
    hours,
    keys,
    position_buckets,
    scaled_log_price,
)
from models.deep.manifest import Manifest, Reads, Size, TrunkError
from models.deep.trunk import Float32Array, FloatArray, Tensors, Trunk, check_tensors

#: Rows are multiplied in blocks of this size, so that BLAS takes the same path for every row however
#: many rows come along: what is learned must not depend on how events were batched.
_BLOCK = 64
#: A unit below zero still gives this share: no unit is ever switched off for good.
SLOPE = 0.1


class Settings(msgspec.Struct, kw_only=True, frozen=True):
    """Sizes of an id's embedding and of the first layer."""

    embedding_size: Size
    layer_size: Size
    position_buckets: Annotated[int, msgspec.Meta(ge=POSITION_BUCKETS, le=POSITION_BUCKETS)]


class NetworkTrunk(Trunk):
    """Hidden units have mean 0 and deviation 1 where they were trained."""

    def __init__(self, manifest: Manifest, tensors: Tensors) -> None:
        self._take(manifest, tensors)
        self._price_scaling = (manifest.reads.price_mean, manifest.reads.price_scale)
        self._weight = tensors["layer_2.weight"].astype(np.float32).T.copy()
        self._bias = tensors["layer_2.bias"].astype(np.float32)
        self._center = tensors["layer_2.center"].astype(np.float32)
        self._fold(tensors)

    def hidden(self, columns: Columns, n: int, features: Float32Array | None = None) -> Float32Array:
        """As ``Trunk.hidden`` says."""
        given = self._checked(features, n) if self.feature_names else None
        if n == 0:
            return np.zeros((0, self.hidden_size), dtype=np.float32)
        size = self._first_bias.shape[0]
        blocks = -(-n // _BLOCK)
        if given is None:
            layer = np.zeros((blocks * _BLOCK, size), dtype=np.float32)
        else:
            padded = np.zeros((blocks * _BLOCK, len(self.feature_names)), dtype=np.float32)
            self._normalise_into(given, padded[:n])
            layer = (padded.reshape(blocks, _BLOCK, -1) @ self._features).reshape(-1, size)
        price = np.zeros(n, dtype=np.float32)
        if "price" in self.fields:
            price = scaled_log_price(columns["price"], *self._price_scaling)
        found = np.empty(
            (n, len(self._ids) + bool(self._position_row) + bool(self._hour_row)), dtype=np.int64
        )
        k = 0
        for field, (index, start) in self._ids.items():
            slots = index.find(keys(columns, field, n))
            found[:, k] = np.where(slots >= 0, slots + start, 0)
            k += 1
        if self._position_row:
            found[:, k] = position_buckets(columns["position"]) + self._position_row
            k += 1
        if self._hour_row:
            found[:, k] = hours(columns["event_time"]) + self._hour_row
        finish = _finish_layer if COMPILED else finish_layer_in_numpy
        finish(layer[:n], self._first_bias, price, self._price, self._table, found, np.float32(SLOPE))
        hidden = (layer.reshape(blocks, _BLOCK, size) @ self._weight).reshape(-1, self.hidden_size)[:n]
        hidden += self._bias
        np.maximum(hidden, SLOPE * hidden, out=hidden)
        hidden -= self._center
        return hidden

    def _fold(self, tensors: Tensors) -> None:
        """Multiply every embedding row with its field's slice of the first layer's weights."""
        weight: FloatArray = tensors["layer_1.weight"].astype(np.float64)
        table = [np.zeros((1, len(weight)))]
        start, column = 1, 0
        self._ids: dict[str, tuple[Rows, int]] = {}
        # Row 0 is the unknown id, so that 0 can mean: this field is not read.
        self._position_row = self._hour_row = 0
        for field in looked_up(self.fields):
            embedding = tensors[f"embedding.{field}"].astype(np.float64)
            if field in NUMBERS:
                setattr(self, f"_{field}_row", start)
            else:
                trained = tensors[f"keys.{field}"].astype(np.uint64)
                index = Rows(0)
                index.locate(trained, np.ones(len(trained), dtype=np.bool_))
                self._ids[field] = index, start
            table.append(embedding @ weight[:, column : column + embedding.shape[1]].T)
            start, column = start + len(embedding), column + embedding.shape[1]
        self._table = np.concatenate(table).astype(np.float32)
        self._price: Float32Array = np.zeros(len(weight), dtype=np.float32)
        if "price" in self.fields:
            self._price = weight[:, column].astype(np.float32)
            column += 1
        self._features = weight[:, column:].T.astype(np.float32).copy()
        self._first_bias: Float32Array = tensors["layer_1.bias"].astype(np.float32)


@kernel
def _finish_layer(rows, bias, price, weight, table, found, slope):  # type: ignore[no-untyped-def]
    # An impression's row stays in the processor's cache while all of it is added.
    for i in range(rows.shape[0]):
        for k in range(rows.shape[1]):
            rows[i, k] += bias[k]
        for k in range(rows.shape[1]):
            rows[i, k] += price[i] * weight[k]
        for field in range(found.shape[1]):
            at = found[i, field]
            for k in range(rows.shape[1]):
                rows[i, k] += table[at, k]
        for k in range(rows.shape[1]):
            rows[i, k] = max(rows[i, k], slope * rows[i, k])


def finish_layer_in_numpy(
    rows: Float32Array,
    bias: Float32Array,
    price: Float32Array,
    weight: Float32Array,
    table: Float32Array,
    found: npt.NDArray[np.int64],
    slope: np.float32,
) -> None:
    """Add to each of ``rows`` (n, c) the ``bias`` (c,), its ``price`` (n,) times ``weight`` (c,), and those
    rows of ``table`` that ``found`` (n, fields) names, in order; then the layer's leaky units."""
    rows += bias
    rows += price[:, None] * weight
    for field in found.T:
        rows += table[field]
    np.maximum(rows, slope * rows, out=rows)


def rank(trained: Keys, given: Keys, start: int) -> np.ndarray:
    """Table rows (n,) of keys: ``start`` + their place among the sorted ``trained`` ones, 0 for unknown ones.

    >>> rank(np.array([5, 9], np.uint64), np.array([9, 7, 0, 10], np.uint64), 1).tolist()
    [2, 0, 0, 0]
    """
    if not len(trained):
        return np.zeros(len(given), dtype=np.intp)
    place = np.minimum(np.searchsorted(trained, given), len(trained) - 1)
    return np.where(trained[place] == given, place + start, 0)


def looked_up(fields: tuple[str, ...] | list[str]) -> list[str]:
    """Fields with an embedding, in the order of the first layer's weights: all but the price."""
    ids = [field for field in fields if field not in NUMBERS]
    return ids + [field for field in ("position", "hour") if field in fields]


def build(manifest: Manifest, tensors: Tensors, path: Path) -> NetworkTrunk:
    """Raises ``TrunkError`` where manifest and tensors (of ``path``) do not fit together."""
    try:
        settings = msgspec.convert(manifest.settings, Settings)
    except msgspec.ValidationError as error:
        raise TrunkError(f"{path.parent}: the manifest's settings: {error}") from error
    check_tensors(tensors, _shapes(manifest.reads, manifest.hidden_size, settings, tensors, path), path)
    return NetworkTrunk(manifest, tensors)


def _shapes(
    reads: Reads, hidden: int, settings: Settings, tensors: Tensors, path: Path
) -> dict[str, tuple[int, ...]]:
    size, layer = settings.embedding_size, settings.layer_size
    fields = looked_up(reads.fields)
    width = size * len(fields) + ("price" in reads.fields) + len(reads.features)
    shapes: dict[str, tuple[int, ...]] = {
        "layer_1.weight": (layer, width),
        "layer_1.bias": (layer,),
        "layer_2.weight": (hidden, layer),
        "layer_2.bias": (hidden,),
        "layer_2.center": (hidden,),
        "head.weight": (hidden,),
        "head.bias": (1,),
    }
    for field in fields:
        rows = {"position": settings.position_buckets, "hour": HOURS}.get(field)
        if rows is None:
            name = f"keys.{field}"
            trained = tensors.get(name)
            if trained is None or trained.ndim != 1 or trained.dtype != np.uint64:
                raise TrunkError(f"{path}: no uint64 vector {name}, the manifest names the field")
            ascending = trained.astype(np.uint64)
            if (ascending[1:] <= ascending[:-1]).any():
                raise TrunkError(f"{path}: {name} is not in ascending order")
            rows = len(trained)
        shapes[f"embedding.{field}"] = (rows, size)
    return shapes
