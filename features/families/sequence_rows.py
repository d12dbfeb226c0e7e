"""The last events of a key, in a ring: rows of what trunks read as sequences."""

from __future__ import annotations

import numpy as np

from features.compiled import kernel
from features.events import FloatArray
from features.passes import Pass, RowBlock, newest
from features.rows import Slots, Values

#: Of each event. A number of a row holds 53 bits of a key exactly.
EACH = ("item", "category", "shop", "kind", "at_ms")
_BITS = np.uint64((1 << 53) - 1)
#: Before the ring: how many events there were.
HEAD = 1


class SequenceRows(RowBlock, frozen=True, cache_hash=True):
    """``keep`` events of any kind but the impression; reads ``EACH`` of them, the newest first."""

    key: tuple[str, ...]
    keep: int
    all_kinds: int

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return HEAD + self.reads

    @property
    def reads(self) -> int:
        """Numbers read an impression."""
        return self.keep * len(EACH)

    def kinds(self) -> tuple[int, ...]:
        """Every kind but the impression."""
        return tuple(range(1, self.all_kinds))

    def merge(self, rows: Values) -> Values:
        """The row that knows the newest event."""
        times = rows[..., HEAD + len(EACH) - 1 :: len(EACH)].max(axis=-1)
        merged: Values = newest(np.concatenate([rows, times[..., None]], axis=-1), -1)[..., :-1]
        return merged

    def run(self, batch: Pass, rows: Values, *slots: Slots) -> FloatArray:
        """The sequence as of each impression."""
        out = np.zeros((batch.impressions, self.reads))
        events, reads = batch.events, batch.reads
        item, category, shop = (batch.keys[name] & _BITS for name in ("item_id", "category_id", "shop_id"))
        _run(
            reads.steps, reads.at, events.kinds, events.times, item, category, shop, rows, slots[0], out
        )  # fmt: skip
        return out


@kernel
def _run(steps, at, kinds, times, items, categories, shops, rows, slots, out):  # type: ignore[no-untyped-def]
    keep = (rows.shape[1] - 1) // 5
    for one in steps:
        e = one if one >= 0 else ~one
        slot = slots[e]
        if slot < 0:
            continue
        row = rows[slot]
        count = int(row[0])
        if one < 0:
            for k in range(min(count, keep)):
                b = 1 + 5 * ((count - 1 - k) % keep)
                for i in range(5):
                    out[at[e], 5 * k + i] = row[b + i]
        elif kinds[e] > 0:
            b = 1 + 5 * (count % keep)
            row[b] = float(items[e])
            row[b + 1] = float(categories[e])
            row[b + 2] = float(shops[e])
            row[b + 3] = float(kinds[e])
            row[b + 4] = float(times[e])
            row[0] += 1.0
