"""The items of the list that a user was shown last."""

from __future__ import annotations

import numpy as np

from features.compiled import kernel
from features.events import IMPRESSION, FloatArray
from features.passes import Pass, RowBlock, empty_reads, newest
from features.rows import Slots, Values

#: A number of a row holds 53 bits of a key exactly.
_BITS = np.uint64((1 << 53) - 1)
#: Before the items stands when the list was shown (ms), 0 where there was none.
HEAD = 1


class PreviousRows(RowBlock, frozen=True, cache_hash=True):
    """The first ``keep`` items of a user's last list, by place.

    Reads whether an impression's item is among them, and when that list was shown. A list takes the place of
    the one before when its first impression is counted.
    """

    keep: int
    key: tuple[str, ...] = ("user_id",)

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return HEAD + self.keep

    @property
    def reads(self) -> int:
        """Numbers read an impression."""
        return 2

    def kinds(self) -> tuple[int, ...]:
        """Impressions."""
        return (IMPRESSION,)

    def merge(self, rows: Values) -> Values:
        """The row that knows the newest list."""
        return newest(rows, 0)

    def run(self, batch: Pass, rows: Values, *slots: Slots) -> FloatArray:
        """Both as of each impression."""
        out = empty_reads(batch, self)
        events, reads, lists = batch.events, batch.reads, batch.lists
        items = (batch.keys["item_id"] & _BITS).astype(np.float64)
        members = reads.shown[lists.order]
        counted = np.zeros(len(lists.starts) - 1, dtype=np.bool_)
        _run(
            reads.steps, reads.at, events.times, events.lists, items, members, lists.starts, counted, rows,
            slots[0], out,
        )  # fmt: skip
        return out


@kernel
def _run(  # type: ignore[no-untyped-def]
    steps, at, times, lists, items, members, starts, counted, rows, slots, out
):
    keep = rows.shape[1] - 1
    for one in steps:
        e = one if one >= 0 else ~one
        k, slot = lists[e], slots[e]
        if slot < 0 or k < 0:
            continue
        row = rows[slot]
        if one < 0:
            for i in range(keep):
                if items[e] != 0.0 and row[1 + i] == items[e]:
                    out[at[e], 0] = 1.0
            out[at[e], 1] = row[0]
        elif not counted[k]:
            counted[k] = True
            row[0] = float(times[e])
            for i in range(keep):
                row[1 + i] = items[members[starts[k] + i]] if starts[k] + i < starts[k + 1] else 0.0
