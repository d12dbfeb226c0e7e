"""How raw columns become what a trunk reads; training and inference share every line of it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models.deep.manifest import CONTEXT

IndexArray = npt.NDArray[np.intp]
Columns = Mapping[str, Sequence[Any] | npt.NDArray[Any]]

#: Positions 0..15 have a bucket each, then one bucket an octave up to 32,767.
POSITION_BUCKETS = 27
MAX_POSITION = 32_767
HOURS = 24
_MS_AN_HOUR = 3_600_000

_positions = np.arange(MAX_POSITION + 1)
_POSITION_BUCKET: IndexArray = np.where(
    _positions < 16, _positions, 12 + np.floor(np.log2(np.maximum(_positions, 1)))
).astype(np.intp)


def bucket(identifier: str, bits: int) -> int:
    """The id's bucket, the same on every machine (crc32 of UTF-8).

    >>> bucket("item-1", 24)
    6864041
    """
    return zlib.crc32(identifier.encode("utf-8", "surrogatepass")) & ((1 << bits) - 1)


def position_buckets(position: Sequence[int] | npt.NDArray[Any]) -> IndexArray:
    """
    >>> position_buckets([0, 15, 16, 31, 32, 99_999]).tolist()
    [0, 15, 16, 16, 17, 26]
    """
    clipped = np.minimum(np.maximum(np.asarray(position), 0), MAX_POSITION)
    buckets: IndexArray = _POSITION_BUCKET[clipped]
    return buckets


def hours(event_time: Sequence[int] | npt.NDArray[Any]) -> IndexArray:
    """Hour of the day, UTC, of event times in ms.

    >>> hours([0, 3_600_000, 86_400_000]).tolist()
    [0, 1, 0]
    """
    hour: IndexArray = (np.asarray(event_time, dtype=np.int64) // _MS_AN_HOUR % HOURS).astype(np.intp)
    return hour


def scaled_log_price(
    price: Sequence[float] | npt.NDArray[Any], mean: float, scale: float
) -> npt.NDArray[np.float32]:
    """(log(1 + price) - mean) / scale, float32."""
    scaled = (np.log1p(np.asarray(price, dtype=np.float64)) - mean) / scale
    return scaled.astype(np.float32)


def identifiers(columns: Columns, field: str, n: int) -> Sequence[str]:
    """The ids of a field; "" where there is none. ``context.<key>`` reads the ``context`` column."""
    if not field.startswith(CONTEXT):
        return columns[field]  # type: ignore[return-value]
    contexts = columns.get("context")
    if contexts is None:
        return [""] * n
    key = field[len(CONTEXT) :]
    return [context.get(key, "") if context else "" for context in contexts]
