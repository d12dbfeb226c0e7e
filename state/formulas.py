"""From decayed counts to real-time features: pure arithmetic that the worker and the scorer share.

A row of counts belongs to one entity of one table (an item, a user, a category, a position, or the single
row of ``global``) and holds ``len(COUNTS) x len(half_lives)`` exponentially decayed counts together with
the event time that they are decayed to. Nothing here keeps state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from contracts.errors import SurgelineError

FloatArray = npt.NDArray[np.float64]

#: What is counted, in column order. Append only: rows on disk and in topics are laid out by it.
COUNTS: tuple[str, ...] = ("impression", "click", "cart", "favourite", "purchase", "refund")
#: Tables with one row an entity, in feature order; ``GLOBAL`` holds one row for everything.
TABLES: tuple[str, ...] = ("item", "user", "category", "position")
GLOBAL = "global"
GLOBAL_ENTITY = "*"

#: Click rate that is assumed before anything was seen, and its weight in pseudo-impressions.
BASE_RATE = 0.02
BASE_WEIGHT = 50.0
#: log1p(impressions) is divided by this so that it stays of order one (e^5 = 148 impressions).
VOLUME_SCALE = 5.0


class RowFormatError(SurgelineError, ValueError):
    """The bytes of a feature row do not fit the number of half-lives in use."""


def feature_names(half_lives_s: Sequence[float]) -> list[str]:
    """Names of the real-time features, in the order of ``features``' columns.

    >>> feature_names([60])[:3]
    ['item_ctr_60s', 'item_volume_60s', 'user_ctr_60s']
    """
    names = []
    for table in TABLES:
        for half_life in half_lives_s:
            names += [f"{table}_ctr_{half_life:g}s", f"{table}_volume_{half_life:g}s"]
    names += [f"item_cart_rate_{half_lives_s[-1]:g}s", f"item_purchase_rate_{half_lives_s[-1]:g}s"]
    names += [f"global_ctr_{half_life:g}s" for half_life in half_lives_s]
    return [*names, "log_price"]


def features(
    counts: Mapping[str, FloatArray],
    global_counts: FloatArray,
    price: npt.NDArray[np.float64],
    smoothing: float,
) -> npt.NDArray[np.float32]:
    """Real-time features of ``n`` impressions.

    ``counts[table]`` and ``global_counts`` are (n, len(COUNTS), half-lives), decayed to the impression's
    time. Returns (n, q) float32 in the order of ``feature_names``:

    * ``*_ctr``: log of the smoothed click rate over the global one at the same half-life; 0 without
      evidence. Smoothing adds ``smoothing`` pseudo-impressions at the global rate.
    * ``*_volume``: log(1 + impressions) / 5.
    * ``item_cart_rate``, ``item_purchase_rate``: the same log ratio for carts and purchases.
    * ``global_ctr``: log of the global click rate over ``BASE_RATE``.
    * ``log_price``: log(1 + price) / 10.
    """
    n, _, half_lives = global_counts.shape
    out = np.empty((n, 2 * len(TABLES) * half_lives + 2 + half_lives + 1), dtype=np.float32)
    global_rate = _smoothed(global_counts[:, 1], global_counts[:, 0], BASE_RATE, BASE_WEIGHT)
    log_global = np.log(global_rate)
    column = 0
    for table in TABLES:
        impressions = counts[table][:, 0]
        rate = _smoothed(counts[table][:, 1], impressions, global_rate, smoothing)
        out[:, column : column + 2 * half_lives : 2] = np.log(rate) - log_global
        out[:, column + 1 : column + 2 * half_lives : 2] = np.log1p(impressions) / VOLUME_SCALE
        column += 2 * half_lives
    impressions, total = counts["item"][:, 0, -1], global_counts[:, 0, -1]
    for action in ("cart", "purchase"):
        k = COUNTS.index(action)
        base = _smoothed(global_counts[:, k, -1], total, BASE_RATE, BASE_WEIGHT)
        rate = _smoothed(counts["item"][:, k, -1], impressions, base, smoothing)
        out[:, column] = np.log(rate) - np.log(base)
        column += 1
    out[:, column : column + half_lives] = log_global - np.log(BASE_RATE)
    out[:, -1] = np.log1p(price) / 10.0
    return out


def _smoothed(hits: FloatArray, trials: FloatArray, rate: FloatArray | float, weight: float) -> FloatArray:
    # Refunds and late actions can leave decayed hits above decayed trials; the ratio stays positive.
    smoothed: FloatArray = (hits + weight * rate) / (trials + weight)
    return smoothed


def decay(elapsed_ms: FloatArray, half_lives_s: Sequence[float]) -> FloatArray:
    """2 ** (-elapsed / half-life), shape (n, half-lives); elapsed below zero counts as zero."""
    half_lives_ms = np.asarray(half_lives_s, dtype=np.float64) * 1000.0
    decayed: FloatArray = np.exp2(-np.maximum(elapsed_ms, 0.0)[:, None] / half_lives_ms)
    return decayed


def pack_row(last_ms: int, counts: FloatArray) -> bytes:
    """One row as bytes: the event time it is decayed to (int64), then its counts (float64), little-endian."""
    return int(last_ms).to_bytes(8, "little", signed=True) + counts.astype("<f8").tobytes()


def unpack_row(data: bytes, half_lives: int) -> tuple[int, FloatArray]:
    """Inverse of ``pack_row``: (last_ms, counts (len(COUNTS), half_lives)). Raises ``RowFormatError``."""
    return row_time(data, half_lives), np.frombuffer(data, dtype="<f8", offset=8).reshape(
        len(COUNTS), half_lives
    )


def row_time(data: bytes, half_lives: int) -> int:
    """The event time (ms) of a packed row. Raises ``RowFormatError``."""
    expected = 8 + 8 * len(COUNTS) * half_lives
    if len(data) != expected:
        raise RowFormatError(f"a feature row of {len(data)} bytes; {half_lives} half-lives need {expected}")
    return int.from_bytes(data[:8], "little", signed=True)
