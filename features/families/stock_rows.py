"""What impressions have said of an item's stock: how much there was, and how much is left."""

from __future__ import annotations

import numpy as np

from features.compiled import kernel
from features.events import IMPRESSION, FloatArray
from features.passes import Pass, RowBlock, empty_reads, newest
from features.rows import Slots, Values

#: ``at_ms``: when it was last known; 0 where it never was.
COLUMNS = ("most", "last", "at_ms")


class StockRows(RowBlock, frozen=True, cache_hash=True):
    """The largest and the last stock of an item, from impressions that have one.

    Reads both as of the impression, whose own stock, where it has one, is the last.
    """

    key: tuple[str, ...] = ("item_id",)

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return len(COLUMNS)

    @property
    def reads(self) -> int:
        """Numbers read an impression."""
        return len(COLUMNS)

    def kinds(self) -> tuple[int, ...]:
        """Impressions."""
        return (IMPRESSION,)

    def merge(self, rows: Values) -> Values:
        """The last stock is that of the newest row; the largest one is the largest."""
        merged = newest(rows, 2).copy()
        merged[..., 0] = rows[..., 0].max(axis=-1)
        return merged

    def run(self, batch: Pass, rows: Values, *slots: Slots) -> FloatArray:
        """As of each impression, its own stock among it."""
        out = empty_reads(batch, self)
        events, reads = batch.events, batch.reads
        stock = batch.number("stock").astype(np.float64)
        _run(reads.steps, reads.at, events.kinds, events.times, reads.times, stock, rows, slots[0], out)
        return out


@kernel
def _run(steps, at, kinds, times, read_times, stock, rows, slots, out):  # type: ignore[no-untyped-def]
    for one in steps:
        e = one if one >= 0 else ~one
        slot = slots[e]
        known = stock[e] == stock[e]
        if one < 0:
            a = at[e]
            if slot >= 0:
                for k in range(3):
                    out[a, k] = rows[slot, k]
            if known:
                out[a, 0] = max(out[a, 0], stock[e])
                out[a, 1] = stock[e]
                out[a, 2] = max(out[a, 2], float(read_times[e]))
        elif slot >= 0 and known and kinds[e] == IMPRESSION:
            rows[slot, 0] = max(rows[slot, 0], stock[e])
            rows[slot, 1] = stock[e]
            rows[slot, 2] = max(rows[slot, 2], float(times[e]))
