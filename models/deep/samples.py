"""From labelled impressions to what the network reads: which fields are worth reading, and their rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.deep.fields import (
    HOURS,
    POSITION_BUCKETS,
    Columns,
    bucket,
    hours,
    identifiers,
    position_buckets,
    scaled_log_price,
)
from models.deep.manifest import BUCKET_BITS, CONTEXT, ID_FIELDS

IntArray = npt.NDArray[np.int64]

#: Ids seen less often than this while training share the unknown row: one click would be learned by heart.
MIN_COUNT = 10
#: Context keys with values in at least this share of the rows are read, the most frequent ones first.
MIN_CONTEXT_SHARE = 0.01
MAX_CONTEXT_KEYS = 16
#: The hour is read only from logs this long: in a shorter one it tells the date, not the time of day.
MIN_HOUR_SPAN_MS = 2 * 86_400_000


@dataclass(frozen=True)
class Samples:
    """``n`` labelled impressions by time. ``columns`` as in ``Trunk.hidden``; ``clicked`` (n,) bool."""

    columns: Columns
    clicked: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.clicked)

    def slice(self, start: int, stop: int) -> Samples:
        """Rows ``start`` to ``stop``."""
        return Samples(
            {name: values[start:stop] for name, values in self.columns.items()}, self.clicked[start:stop]
        )


@dataclass(frozen=True)
class Encoder:
    """How raw columns become rows. ``buckets[field]``: sorted trained buckets; their row is 1 + rank."""

    fields: list[str]
    buckets: dict[str, IntArray]
    price_mean: float
    price_scale: float

    @property
    def rows(self) -> list[int]:
        """Embedding rows of every looked-up field, in the order of ``index``' columns."""
        sizes = [1 + len(buckets) for buckets in self.buckets.values()]
        return sizes + [
            {"position": POSITION_BUCKETS, "hour": HOURS}[f] for f in ("position", "hour") if f in self.fields
        ]

    def index(self, columns: Columns, n: int) -> IntArray:
        """Row numbers (n, fields): id fields, then position, then hour."""
        parts: list[npt.NDArray[Any]] = []
        for field, trained in self.buckets.items():
            row = {int(number): 1 + k for k, number in enumerate(trained)}
            cache = {"": 0}
            for identifier in set(identifiers(columns, field, n)) - {""}:
                cache[identifier] = row.get(bucket(identifier, BUCKET_BITS), 0)
            parts.append(np.array([cache[i] for i in identifiers(columns, field, n)], dtype=np.int64))
        if "position" in self.fields:
            parts.append(position_buckets(columns["position"]))
        if "hour" in self.fields:
            parts.append(hours(columns["event_time"]))
        return np.stack(parts, axis=1).astype(np.int64)

    def price(self, columns: Columns, n: int) -> npt.NDArray[np.float32]:
        """Scaled log prices (n,), zeros where the price is not read."""
        if "price" not in self.fields:
            return np.zeros(n, dtype=np.float32)
        return scaled_log_price(columns["price"], self.price_mean, self.price_scale)


def choose_encoder(samples: Samples) -> Encoder:
    """Read what the log can teach: fields that vary, and ids that were seen often enough."""
    columns, n = samples.columns, len(samples)
    fields: list[str] = []
    buckets: dict[str, IntArray] = {}
    for field in (*ID_FIELDS, *_context_fields(columns, n)):
        frequent = _frequent_buckets(identifiers(columns, field, n))
        if len(frequent) and (len(frequent) > 1 or len(set(identifiers(columns, field, n))) > 1):
            fields.append(field)
            buckets[field] = frequent
    if len(np.unique(position_buckets(columns["position"]))) > 1:
        fields.append("position")
    event_time = np.asarray(columns["event_time"])
    if n and event_time.max() - event_time.min() >= MIN_HOUR_SPAN_MS:
        fields.append("hour")
    if not fields:
        # A network without any field would be its bias; item_id costs nothing and unknown ids are allowed.
        fields, buckets = ["item_id"], {"item_id": np.zeros(0, dtype=np.int64)}
    log_price = np.log1p(np.asarray(columns["price"], dtype=np.float64))
    scale = float(log_price.std()) if n else 0.0
    if scale > 1e-6:
        fields.append("price")
    return Encoder(fields, buckets, float(log_price.mean()) if n else 0.0, scale if scale > 1e-6 else 1.0)


def _context_fields(columns: Columns, n: int) -> list[str]:
    counts: dict[str, int] = {}
    for context in columns.get("context") or ():
        for key, value in (context or {}).items():
            if value:
                counts[key] = counts.get(key, 0) + 1
    frequent = [key for key, count in counts.items() if count >= MIN_CONTEXT_SHARE * n]
    chosen = sorted(frequent, key=lambda key: (-counts[key], key))[:MAX_CONTEXT_KEYS]
    return [CONTEXT + key for key in sorted(chosen)]


def _frequent_buckets(ids: Any) -> IntArray:
    values, counts = np.unique(np.asarray(ids, dtype=object).astype(str), return_counts=True)
    trained = {
        bucket(str(value), BUCKET_BITS)
        for value, count in zip(values, counts, strict=True)
        if value and count >= MIN_COUNT
    }
    return np.array(sorted(trained), dtype=np.int64)
