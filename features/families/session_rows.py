"""Where a user is in a session: steps, times, what was done last. Every later block of the user reads it.

A session is a user's actions and behaviours without a pause longer than ``gap_s``. Impressions are no steps:
a list is shown, not done.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from features.compiled import kernel
from features.events import FloatArray
from features.passes import Pass, RowBlock, empty_reads, newest
from features.rows import Slots, Values
from features.scope import Scope

#: Columns of a row and of what is read, in order.
COLUMNS = (
    "last_ms",
    "start_ms",
    "step",
    "steps_before",
    "sessions",
    "kind_1",
    "kind_2",
    "kind_3",
    "item_high",
    "item_low",
    "item_before_high",
    "item_before_low",
    "touched_at_ms",
    "began_ms",
)
LAST, START, STEP, BEFORE, SESSIONS, KIND_1, KIND_2, KIND_3, HIGH, LOW, HIGH_2, LOW_2, TOUCHED, BEGAN = range(
    len(COLUMNS)
)
_HALF = np.uint64(32)
_LOWER = np.uint64(0xFFFFFFFF)


class SessionRows(RowBlock, frozen=True, cache_hash=True):
    """The session of a user as of each impression, with ``seconds since`` left to the formulas.

    Works out for later blocks, as of each event and before it: ``step`` (events of the user so far),
    ``since_last`` (ms since the user's last event; NaN where there is none), and the key ``item_before`` of
    the item that the user last did something with.
    """

    gap_ms: int
    all_kinds: int
    key: tuple[str, ...] = ("user_id",)

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return len(COLUMNS)

    @property
    def reads(self) -> int:
        """Numbers read an impression."""
        return len(COLUMNS)

    def kinds(self) -> tuple[int, ...]:
        """Every kind but the impression."""
        return tuple(range(1, self.all_kinds))

    def merge(self, rows: Values) -> Values:
        """The row that knows the newest event."""
        return newest(rows, LAST)

    def run(self, batch: Pass, rows: Values, *slots: Slots) -> FloatArray:
        """The user's session as of each impression."""
        out = empty_reads(batch, self)
        events, reads, n = batch.events, batch.reads, len(batch.events)
        step, since = np.zeros(n), np.full(n, np.nan)
        item_before = np.zeros(n, dtype=np.uint64)
        _run(
            reads.steps, reads.at, events.kinds, events.times, reads.times, events.keys["item_id"],
            float(self.gap_ms), rows, slots[0], out, step, since, item_before,
        )  # fmt: skip
        batch.known |= {"step": step, "since_last": since}
        batch.keys["item_before"] = item_before
        return out


@kernel
def _run(  # type: ignore[no-untyped-def]
    steps, at, kinds, times, read_times, items, gap_ms, rows, slots, out, step, since, item_before
):
    for one in steps:
        e = one if one >= 0 else ~one
        if one >= 0 and kinds[e] <= 0:
            # What an impression has read stays as of its list.
            continue
        slot = slots[e]
        if slot < 0:
            continue
        row = rows[slot]
        now = float(times[e] if one >= 0 else read_times[e])
        fresh = row[SESSIONS] == 0 or now - row[LAST] > gap_ms
        step[e] = row[BEFORE] + row[STEP]
        if row[SESSIONS] > 0:
            since[e] = max(now - row[LAST], 0.0)
        item_before[e] = (np.uint64(row[HIGH]) << _HALF) | np.uint64(row[LOW])
        if one < 0:
            place = at[e]
            for k in range(len(row)):
                out[place, k] = row[k]
            if fresh:
                out[place, START] = now
                out[place, STEP] = 0.0
                out[place, BEFORE] = row[BEFORE] + row[STEP]
                out[place, KIND_1] = 0.0
                out[place, KIND_2] = 0.0
                out[place, KIND_3] = 0.0
            continue
        if fresh:
            row[START] = now
            row[BEFORE] += row[STEP]
            row[STEP] = 0.0
            row[SESSIONS] += 1.0
            row[KIND_1] = 0.0
            row[KIND_2] = 0.0
            row[KIND_3] = 0.0
            if row[BEGAN] == 0.0:
                row[BEGAN] = now
        row[LAST] = max(now, row[LAST])
        row[STEP] += 1.0
        row[KIND_3] = row[KIND_2]
        row[KIND_2] = row[KIND_1]
        row[KIND_1] = float(kinds[e])
        item = items[e]
        high = float(item >> _HALF)
        low = float(item & _LOWER)
        if item != 0 and (high != row[HIGH] or low != row[LOW]):
            row[HIGH_2] = row[HIGH]
            row[LOW_2] = row[LOW]
            row[HIGH] = high
            row[LOW] = low
        if item != 0:
            row[TOUCHED] = row[LAST]


@lru_cache(maxsize=1024)
def session_rows(scope: Scope) -> SessionRows:
    """The block as a scope has it."""
    return SessionRows(round(scope.gap_s * 1000), len(scope.kinds))
