"""Which items a user does something with: new or known ones, and who did something with an item last."""

from __future__ import annotations

import numpy as np

from features.compiled import kernel
from features.events import FloatArray
from features.hashing import Keys
from features.passes import Block, Pass, RowBlock, empty_reads, newest
from features.rows import Slots, Values
from features.scope import Scope

_BITS = np.uint64((1 << 53) - 1)


class PairRows(RowBlock, frozen=True, cache_hash=True):
    """Whether a user has done something with an item, 0 or 1.

    Works out for later blocks ``is_first`` of every event: 1 where it is the user's first with its item, 0
    where it is not, NaN where it is about no item.
    """

    all_kinds: int
    key: tuple[str, ...] = ("user_id", "item_id")

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return 1

    @property
    def reads(self) -> int:
        """Numbers read an impression."""
        return 1

    def kinds(self) -> tuple[int, ...]:
        """Every kind but the impression."""
        return tuple(range(1, self.all_kinds))

    def merge(self, rows: Values) -> Values:
        """Known to any is known."""
        known: Values = rows.max(axis=-2)
        return known

    def run(self, batch: Pass, rows: Values, *slots: Slots) -> FloatArray:
        """Whether it is known, as of each impression."""
        out = empty_reads(batch, self)
        first = np.full(len(batch.events), np.nan)
        _pairs(batch.reads.steps, batch.reads.at, batch.events.kinds, rows, slots[0], out, first)
        batch.known["is_first"] = first
        return out


class HabitRows(RowBlock, frozen=True, cache_hash=True):
    """A user's events about items, and how many of them were the first with their item."""

    pairs: PairRows
    key: tuple[str, ...] = ("user_id",)

    @property
    def width(self) -> int:
        """Numbers in a row: events, different items."""
        return 2

    @property
    def reads(self) -> int:
        """Numbers read an impression."""
        return 2

    def needs(self) -> tuple[Block, ...]:
        """See ``features.passes.Block``, as for the following."""
        return (self.pairs,)

    def kinds(self) -> tuple[int, ...]:
        """Every kind but the impression."""
        return self.pairs.kinds()

    def merge(self, rows: Values) -> Values:
        """Events of several workers add."""
        added: Values = rows.sum(axis=-2)
        return added

    def run(self, batch: Pass, rows: Values, *slots: Slots) -> FloatArray:
        """Both as of each impression."""
        out = empty_reads(batch, self)
        steps, at, kinds = batch.reads.steps, batch.reads.at, batch.events.kinds
        _habits(steps, at, kinds, batch.known["is_first"], rows, slots[0], out)
        return out


class LastUserRows(RowBlock, frozen=True, cache_hash=True):
    """Who did something with an item last: the lowest 53 bits of the user's key, and when (ms)."""

    all_kinds: int
    key: tuple[str, ...] = ("item_id",)

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return 2

    @property
    def reads(self) -> int:
        """Numbers read an impression."""
        return 2

    def kinds(self) -> tuple[int, ...]:
        """Every kind but the impression."""
        return tuple(range(1, self.all_kinds))

    def merge(self, rows: Values) -> Values:
        """The row that knows the newest event."""
        return newest(rows, 1)

    def run(self, batch: Pass, rows: Values, *slots: Slots) -> FloatArray:
        """Both as of each impression."""
        out = empty_reads(batch, self)
        events, reads = batch.events, batch.reads
        users = last_user(batch.keys["user_id"])
        _last_users(reads.steps, reads.at, events.kinds, events.times, users, rows, slots[0], out)
        return out


def last_user(users: Keys) -> Keys:
    """Of a user's key what a row holds."""
    bits: Keys = users & _BITS
    return bits


def habit_blocks(scope: Scope) -> tuple[PairRows, HabitRows, LastUserRows]:
    """The blocks as a scope has them."""
    pairs = PairRows(len(scope.kinds))
    return pairs, HabitRows(pairs), LastUserRows(len(scope.kinds))


@kernel
def _pairs(steps, at, kinds, rows, slots, out, first):  # type: ignore[no-untyped-def]
    for one in steps:
        e = one if one >= 0 else ~one
        slot = slots[e]
        if slot < 0:
            continue
        if one < 0:
            out[at[e], 0] = rows[slot, 0]
        elif kinds[e] > 0:
            first[e] = 1.0 - rows[slot, 0]
            rows[slot, 0] = 1.0


@kernel
def _habits(steps, at, kinds, first, rows, slots, out):  # type: ignore[no-untyped-def]
    for one in steps:
        e = one if one >= 0 else ~one
        slot = slots[e]
        if slot < 0:
            continue
        if one < 0:
            out[at[e], 0] = rows[slot, 0]
            out[at[e], 1] = rows[slot, 1]
        elif kinds[e] > 0 and first[e] == first[e]:
            rows[slot, 0] += 1.0
            rows[slot, 1] += first[e]


@kernel
def _last_users(steps, at, kinds, times, users, rows, slots, out):  # type: ignore[no-untyped-def]
    for one in steps:
        e = one if one >= 0 else ~one
        slot = slots[e]
        if slot < 0:
            continue
        if one < 0:
            out[at[e], 0] = rows[slot, 0]
            out[at[e], 1] = rows[slot, 1]
        elif kinds[e] > 0 and float(times[e]) >= rows[slot, 1]:
            rows[slot, 0] = float(users[e])
            rows[slot, 1] = float(times[e])
