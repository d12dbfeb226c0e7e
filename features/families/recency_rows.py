"""When, how often and for how long a key's things happened: rows of a pair such as (user, item)."""

from __future__ import annotations

import numpy as np

from features.compiled import kernel
from features.events import FloatArray
from features.families.session_rows import SessionRows
from features.hashing import Keys, cross
from features.passes import Block, Pass, RowBlock, empty_reads, newest
from features.powers import power_of_two
from features.rows import Slots, Values

#: Of each kind: time of the first and of the last event, the user's step at the last, how many there were,
#: and two sums that fade by the user's steps.
EACH = ("first_ms", "last_ms", "last_step", "count", "faded_short", "faded_long")
SHORT_STEPS, LONG_STEPS = 4.0, 20.0
#: After the kinds: dwell after the key's events, its largest, and how many events had one.
DWELL = ("dwell_s", "longest_dwell_s", "dwells")


class RecencyRows(RowBlock, frozen=True, cache_hash=True):
    """``groups`` are sets of event kinds; reads ``len(EACH)`` numbers each, then ``DWELL``.

    Faded sums count an event ``2 ** (-steps since / half)``, as of the read. Dwell is the time from any
    event of the user to the next one, at most ``cap_s``. It goes to the item that the user did something with
    last, once there was an event of these kinds about it, and needs the key to be (user_id, item_id).
    """

    key: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    session: SessionRows
    cap_s: float = 600.0

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return self.reads

    @property
    def reads(self) -> int:
        """Numbers read an impression."""
        return len(EACH) * len(self.groups) + len(DWELL)

    def needs(self) -> tuple[Block, ...]:
        """See ``features.passes.Block``, as for the following."""
        return (self.session,)

    def kinds(self) -> tuple[int, ...]:
        """Kinds of any of the sets."""
        return tuple(sorted({kind for group in self.groups for kind in group}))

    def more_keys(self, batch: Pass) -> tuple[Keys, ...]:
        """The row of the item that the user's last event was about: it gets its dwell."""
        if self.key != ("user_id", "item_id"):
            return (np.zeros(len(batch.events), dtype=np.uint64),)
        return (cross([batch.keys["user_id"], batch.keys["item_before"]]),)

    def merge(self, rows: Values) -> Values:
        """Of each kind the first and the last event of all workers; numbers of events and dwell add.

        Steps and what fades by them are those of the worker that had the last event.
        """
        parts = []
        for begin in range(0, len(EACH) * len(self.groups), len(EACH)):
            each = rows[..., begin : begin + len(EACH)]
            part, known = newest(each, 1), each[..., 3] > 0
            first = np.where(known, each[..., 0], np.inf).min(axis=-1)
            part[..., 0] = np.where(known.any(axis=-1), first, 0.0)
            part[..., 3] = each[..., 3].sum(axis=-1)
            parts.append(part)
        dwell = rows[..., -len(DWELL) :].sum(axis=-2)
        dwell[..., 1] = rows[..., -2].max(axis=-1)
        merged: Values = np.concatenate([*parts, dwell], axis=-1)
        return merged

    def run(self, batch: Pass, rows: Values, *slots: Slots) -> FloatArray:
        """What is known of each impression's key."""
        out = empty_reads(batch, self)
        events, reads = batch.events, batch.reads
        member = np.zeros((len(self.groups), 1 + int(max(max(k) for k in self.groups))), dtype=np.bool_)
        for k, kinds in enumerate(self.groups):
            member[k, list(kinds)] = True
        before = slots[1] if len(slots) > 1 else slots[0]
        _run(
            reads.steps, reads.at, events.kinds, events.times, reads.times, member,
            batch.known["step"], batch.known["since_last"], self.cap_s, rows, slots[0], before, out,
        )  # fmt: skip
        return out


@kernel
def _run(  # type: ignore[no-untyped-def]
    steps, at, kinds, times, read_times, member, user_step, since_last, cap_s, rows, slots, before, out
):
    groups, most = member.shape
    end = groups * 6
    for one in steps:
        e = one if one >= 0 else ~one
        if one >= 0 and kinds[e] > 0 and before[e] >= 0 and since_last[e] == since_last[e]:
            # The user goes on: what came before has had its dwell.
            earlier = rows[before[e]]
            begun = False
            for g in range(groups):
                begun = begun or earlier[g * 6 + 3] > 0.0
            if begun:
                dwell = min(since_last[e] / 1000.0, cap_s)
                earlier[end] += dwell
                earlier[end + 1] = max(earlier[end + 1], dwell)
                earlier[end + 2] += 1.0
        slot = slots[e]
        if slot < 0:
            continue
        row = rows[slot]
        if one < 0:
            place = at[e]
            for g in range(groups):
                b = g * 6
                for k in range(4):
                    out[place, b + k] = row[b + k]
                if row[b + 3] > 0.0:
                    ago = max(user_step[e] - row[b + 2], 0.0)
                    out[place, b + 4] = row[b + 4] * power_of_two(-ago * 0.25)
                    out[place, b + 5] = row[b + 5] * power_of_two(-ago * 0.05)
            for k in range(3):
                out[place, end + k] = row[end + k]
            continue
        kind = kinds[e]
        if kind <= 0 or kind >= most:
            continue
        now = float(times[e])
        for g in range(groups):
            if not member[g, kind]:
                continue
            b = g * 6
            if row[b + 3] == 0.0:
                row[b] = now
            ago = max(user_step[e] - row[b + 2], 0.0)
            row[b + 1] = max(row[b + 1], now)
            row[b + 4] = row[b + 4] * power_of_two(-ago * 0.25) + 1.0
            row[b + 5] = row[b + 5] * power_of_two(-ago * 0.05) + 1.0
            row[b + 2] = user_step[e]
            row[b + 3] += 1.0
