"""How raw columns become what a trunk reads; training and inference share every line of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from features.hashing import Keys, hash_texts

IndexArray = npt.NDArray[np.intp]
Float32Array = npt.NDArray[np.float32]
#: Columns of n impressions. An id column has texts, or their keys (uint64, 0 for none).
Columns = Mapping[str, Sequence[Any] | npt.NDArray[Any]]

#: Context keys are fields ``context.<key>``: a column of that name, else a key of the ``context`` column.
CONTEXT = "context."
#: Columns that are numbers. Every other field is an id.
NUMBERS = ("position", "hour", "price")

#: Positions 0..15 have a bucket each, then one bucket an octave up to 32,767.
POSITION_BUCKETS = 27
MAX_POSITION = 32_767
HOURS = 24
_MS_AN_HOUR = 3_600_000

_positions = np.arange(MAX_POSITION + 1)
_POSITION_BUCKET: IndexArray = np.where(
    _positions < 16, _positions, 12 + np.floor(np.log2(np.maximum(_positions, 1)))
).astype(np.intp)


def keys(columns: Columns, field: str, n: int) -> Keys:
    """The ids of a field as 64-bit keys (n,); 0 where an impression has none.

    >>> keys({"item_id": ["a", ""]}, "item_id", 2).tolist() == [int(hash_texts(["a"])[0]), 0]
    True
    """
    column = columns.get(field)
    if column is None:
        if not field.startswith(CONTEXT):
            raise KeyError(f"no column {field}")
        contexts = columns.get("context")
        if contexts is None:
            return np.zeros(n, dtype=np.uint64)
        key = field[len(CONTEXT) :]
        column = [context.get(key, "") if context else "" for context in contexts]
    if isinstance(column, np.ndarray) and column.dtype == np.uint64:
        return column
    return hash_texts(list(column))


def position_buckets(position: Sequence[int] | npt.NDArray[Any]) -> IndexArray:
    """
    >>> position_buckets([0, 15, 16, 31, 32, 99_999]).tolist()
    [0, 15, 16, 16, 17, 26]
    """
    buckets: IndexArray = _POSITION_BUCKET[_clipped(position)]
    return buckets


def log_position(position: Sequence[int] | npt.NDArray[Any]) -> Float32Array:
    """log(1 + position), float32.

    >>> log_position([0, 1]).round(3).tolist()
    [0.0, 0.6930000185966492]
    """
    return np.log1p(_clipped(position).astype(np.float64)).astype(np.float32)


def hours(event_time: Sequence[int] | npt.NDArray[Any]) -> IndexArray:
    """Hour of the day, UTC, of event times in ms.

    >>> hours([0, 3_600_000, 86_400_000]).tolist()
    [0, 1, 0]
    """
    hour: IndexArray = (np.asarray(event_time, dtype=np.int64) // _MS_AN_HOUR % HOURS).astype(np.intp)
    return hour


def scaled_log_price(
    price: Sequence[float] | npt.NDArray[Any], mean: float = 0.0, scale: float = 1.0
) -> Float32Array:
    """(log(1 + price) - mean) / scale, float32; an unknown price (NaN) counts as 0."""
    scaled = (np.log1p(np.nan_to_num(np.asarray(price, dtype=np.float64))) - mean) / scale
    return scaled.astype(np.float32)


def _clipped(position: Sequence[int] | npt.NDArray[Any]) -> IndexArray:
    # The plan's columns have positions as floats, with NaN for none.
    numbers = np.nan_to_num(np.asarray(position, dtype=np.float64))
    return np.clip(numbers, 0, MAX_POSITION).astype(np.intp)
