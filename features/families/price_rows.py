"""What an item has cost: its first and last price, so that a cut shows and a look at it has a price."""

from __future__ import annotations

import numpy as np

from features.compiled import kernel
from features.events import IMPRESSION, FloatArray
from features.passes import Pass, RowBlock, empty_reads, newest
from features.rows import Slots, Values

#: Log prices; ``at_ms`` is the time of the last one, and 0 where there is none.
COLUMNS = ("first", "last", "at_ms")


class PriceRows(RowBlock, frozen=True, cache_hash=True):
    """First and last price of an item, as log(1 + price), from impressions that have one.

    Works out for later blocks ``item_log_price`` of every event: its own price, for what has none the item's
    last (of an impression: when its list is read), NaN where there is none at all; and ``item_priced``, 1
    where there is one, else NaN.
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
        """The row that knows the newest event."""
        return newest(rows, 2)

    def run(self, batch: Pass, rows: Values, *slots: Slots) -> FloatArray:
        """First, last and time of the last."""
        out = empty_reads(batch, self)
        events, reads = batch.events, batch.reads
        with np.errstate(invalid="ignore"):
            own = np.log1p(batch.number("price").astype(np.float64))
        known = own.copy()
        _run(reads.steps, reads.at, events.kinds, events.times, own, rows, slots[0], out, known)
        batch.known["item_log_price"] = known
        batch.known["item_priced"] = np.where(np.isnan(known), np.nan, 1.0)
        return out


@kernel
def _run(steps, at, kinds, times, own, rows, slots, out, known):  # type: ignore[no-untyped-def]
    for one in steps:
        e = one if one >= 0 else ~one
        slot = slots[e]
        if slot < 0:
            continue
        row = rows[slot]
        if one < 0:
            for k in range(3):
                out[at[e], k] = row[k]
        if own[e] != own[e]:
            # Of an impression as of its list, of others as of themselves.
            if row[2] > 0.0 and (one < 0 or kinds[e] != 0):
                known[e] = row[1]
        elif one >= 0 and kinds[e] == 0:
            if row[2] == 0.0:
                row[0] = own[e]
            row[1] = own[e]
            row[2] = max(float(times[e]), row[2])
