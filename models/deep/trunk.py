"""Trunk inference in numpy: from raw columns to the last hidden layer, without torch.

The first layer is RepL's sparse fully connected layer: because it is linear, the product of its weights
with every embedding row is taken once, when the trunk is loaded. A request then sums one row a field.
"""

from __future__ import annotations

import hashlib
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from models.deep.fields import (
    HOURS,
    Columns,
    bucket,
    hours,
    identifiers,
    position_buckets,
    scaled_log_price,
)
from models.deep.manifest import WEIGHTS_FILE, Manifest, TrunkError, read_manifest

__all__ = ["Trunk", "TrunkError"]

Float32Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]
_Tensors = dict[str, npt.NDArray[np.generic]]

#: Click rate of the head without a trunk.
EMPTY_BASE_RATE = 0.02
#: Rows are multiplied in blocks of this size, so that BLAS takes the same path for every row however
#: many rows come along: what is learned must not depend on how events were batched.
_BLOCK = 64
#: Ids that each field remembers the row of. A full cache is emptied: hot ids are back within a tick.
CACHE_LIMIT = 262_144


class _Rows(dict[str, int]):
    """id -> row of the folded table; row 0, all zeros, for ids that training has not seen."""

    def __init__(self, trained: dict[int, int], bits: int) -> None:
        super().__init__()
        self._trained = trained
        self._bits = bits

    def __missing__(self, identifier: str) -> int:
        if len(self) >= CACHE_LIMIT:
            self.clear()
        row = self._trained.get(bucket(identifier, self._bits), 0) if identifier else 0
        self[identifier] = row
        return row


class Trunk:
    """The frozen deep model up to its last hidden layer (d = ``hidden_size``), and its frozen head.

    ``head_weight`` (d,) and ``head_bias`` are the head as it was trained; online learning starts there.

    >>> trunk = Trunk.empty()
    >>> trunk.hidden({}, 2).shape, round(trunk.head_bias, 2)
    ((2, 0), -3.89)
    """

    hash: str
    hidden_size: int
    fields: tuple[str, ...]
    head_weight: FloatArray
    head_bias: float

    def __init__(self, manifest: Manifest | None, tensors: _Tensors) -> None:
        if manifest is None:
            self.hash, self.hidden_size, self.fields = "none", 0, ()
            self.head_weight = np.zeros(0)
            self.head_bias = float(np.log(EMPTY_BASE_RATE / (1.0 - EMPTY_BASE_RATE)))
            return
        self.hash = manifest.trunk_hash
        self.hidden_size = manifest.hidden_size
        self.fields = tuple(manifest.fields)
        self.head_weight = tensors["head.weight"].astype(np.float64)
        self.head_bias = float(tensors["head.bias"][0])
        self._price_scaling = (manifest.price_mean, manifest.price_scale)
        self._weight = tensors["layer_2.weight"].astype(np.float32).T.copy()
        self._bias = tensors["layer_2.bias"].astype(np.float32)
        self._center = tensors["layer_2.center"].astype(np.float32)
        self._fold(manifest, tensors)

    @classmethod
    def empty(cls) -> Trunk:
        """No trunk: d = 0, and a frozen head that always predicts ``EMPTY_BASE_RATE``."""
        return cls(None, {})

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> Trunk:
        """Read and check a folder that ``python -m models.train`` wrote. Raises ``TrunkError``."""
        manifest = read_manifest(Path(folder))
        path = Path(folder) / WEIGHTS_FILE
        try:
            data = path.read_bytes()
        except OSError as error:
            raise TrunkError(f"{path}: cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != manifest.weights_sha256:
            raise TrunkError(
                f"{path}: its sha256 is not the manifest's; the file is damaged or of another trunk"
            )
        try:
            tensors: _Tensors = load_tensors(data)
        except SafetensorError as error:
            raise TrunkError(f"{path}: not a safetensors file: {error}") from error
        _check(manifest, tensors, path)
        return cls(manifest, tensors)

    def hidden(self, columns: Columns, n: int, features: Float32Array | None = None) -> Float32Array:
        """The last hidden layer (n, d) of ``n`` impressions; mean 0 and deviation 1 where it was trained.

        ``columns``: ``user_id``, ``item_id``, ``category_id``, ``shop_id`` (strings), ``position`` (int),
        ``price`` (float), ``event_time`` (ms UTC), and ``context`` (dicts or None; may be absent). Only
        those that the trunk's fields name are read. Unknown ids count as no id. ``features`` (n, q):
        real-time features, for kinds of trunks that read them; this one does not.
        """
        if self.hidden_size == 0 or n == 0:
            return np.zeros((n, self.hidden_size), dtype=np.float32)
        layer = np.empty((-(-n // _BLOCK) * _BLOCK, self._first_bias.shape[0]), dtype=np.float32)
        layer[n:] = 0.0
        rows = layer[:n]
        if self._price is None:
            rows[:] = self._first_bias
        else:
            price = scaled_log_price(columns["price"], *self._price_scaling)
            np.multiply(price[:, None], self._price, out=rows)
            rows += self._first_bias
        for field, cache in self._rows.items():
            ids = identifiers(columns, field, n)
            rows += self._table[list(map(cache.__getitem__, ids))]
        if self._position_row:
            rows += self._table[position_buckets(columns["position"]) + self._position_row]
        if self._hour_row:
            rows += self._table[hours(columns["event_time"]) + self._hour_row]
        np.maximum(layer, 0.0, out=layer)
        hidden = (layer.reshape(-1, _BLOCK, layer.shape[1]) @ self._weight).reshape(-1, self.hidden_size)[:n]
        hidden += self._bias
        np.maximum(hidden, 0.0, out=hidden)
        hidden -= self._center
        return hidden

    def frozen_logit(self, hidden: Float32Array) -> FloatArray:
        """The frozen head's log odds (n,)."""
        logits: FloatArray = hidden @ self.head_weight + self.head_bias
        return logits

    def _fold(self, manifest: Manifest, tensors: _Tensors) -> None:
        """Multiply every embedding row with its field's slice of the first layer's weights."""
        weight = tensors["layer_1.weight"].astype(np.float64)
        size = manifest.embedding_size
        table = [np.zeros((1, manifest.layer_size))]
        start, column = 1, 0
        self._rows: dict[str, _Rows] = {}
        for field in manifest.id_fields:
            buckets = tensors[f"buckets.{field}"].tolist()
            trained = {number: start + k for k, number in enumerate(buckets)}
            self._rows[field] = _Rows(trained, manifest.bucket_bits)
            table.append(
                tensors[f"embedding.{field}"].astype(np.float64) @ weight[:, column : column + size].T
            )
            start, column = start + len(buckets), column + size
        # Row 0 is the unknown id, so that 0 can mean: this field is not read.
        self._position_row = self._hour_row = 0
        for field in ("position", "hour"):
            if field in manifest.fields:
                embedding = tensors[f"embedding.{field}"].astype(np.float64)
                table.append(embedding @ weight[:, column : column + size].T)
                setattr(self, f"_{field}_row", start)
                start, column = start + len(embedding), column + size
        self._price: Float32Array | None = None
        if "price" in manifest.fields:
            self._price = weight[:, column].astype(np.float32)
        self._first_bias = tensors["layer_1.bias"].astype(np.float32)
        self._table = np.concatenate(table).astype(np.float32)


def _check(manifest: Manifest, tensors: _Tensors, path: Path) -> None:
    size, layer, hidden = manifest.embedding_size, manifest.layer_size, manifest.hidden_size
    looked_up = [*manifest.id_fields, *(f for f in ("position", "hour") if f in manifest.fields)]
    shapes: dict[str, tuple[int, ...]] = {
        "layer_1.weight": (layer, size * len(looked_up) + ("price" in manifest.fields)),
        "layer_1.bias": (layer,),
        "layer_2.weight": (hidden, layer),
        "layer_2.bias": (hidden,),
        "layer_2.center": (hidden,),
        "head.weight": (hidden,),
        "head.bias": (1,),
    }
    for field in manifest.id_fields:
        name = f"buckets.{field}"
        if name not in tensors or tensors[name].ndim != 1 or tensors[name].dtype != np.int64:
            raise TrunkError(f"{path}: no int64 vector {name}, the manifest names the field")
        shapes[name] = tensors[name].shape
    rows = {"position": manifest.position_buckets, "hour": HOURS}
    for field in looked_up:
        count = rows[field] if field in rows else len(tensors[f"buckets.{field}"])
        shapes[f"embedding.{field}"] = (count, size)
    for name, shape in shapes.items():
        if name not in tensors:
            raise TrunkError(f"{path}: no tensor {name}")
        if tensors[name].shape != shape:
            raise TrunkError(f"{path}: {name} has shape {tensors[name].shape}, the manifest needs {shape}")
        if tensors[name].dtype.kind == "f" and not np.isfinite(tensors[name].astype(np.float64)).all():
            raise TrunkError(f"{path}: {name} is not finite")
