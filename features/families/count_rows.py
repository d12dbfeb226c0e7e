"""Rows of exponentially decayed counts, exact as of every impression: what rates and prices are made of.

Forward decay (Cormode, Shkapenyuk, Srivastava, Xu: "Forward decay", ICDE 2009): a row holds its counts as
of a landmark in the past, an event adds ``2 ** ((t - landmark) / half_life)``, and reading at t multiplies by
the inverse. Events weigh what they weigh once; a row is rescaled when its landmark lies ``RESCALE`` of the
shortest half-lives back.

An event that comes behind the newest one of its row counts, and sees, that one's time: counts never grow
backwards.
"""

from __future__ import annotations

import msgspec
import numpy as np

from features.compiled import kernel
from features.events import FloatArray
from features.hashing import Keys
from features.passes import Block, Pass, empty_reads
from features.powers import power_of_two
from features.rows import Slots, Values

#: Half-lives between landmark and present at most: 2 ** 60 leaves the counts all their digits.
RESCALE = 60.0
#: Before the counts of a row stand its landmark and its newest event, both ms.
HEAD = 2


class Quantity(msgspec.Struct, frozen=True):
    """What is counted: events of any of ``kinds``.

    Each weighs one, or the number of this name that the batch knows of it (``Pass.number``).
    """

    kinds: tuple[int, ...]
    weight: str = ""


class CountRows(msgspec.Struct, frozen=True):
    """Decayed sums of ``quantities`` at ``half_lives_s`` for each key.

    Reads (quantities x half-lives) numbers, in this order. ``after``: blocks that work out the weights.
    An event whose weight is unknown (NaN) does not count.
    """

    key: tuple[str, ...]
    quantities: tuple[Quantity, ...]
    half_lives_s: tuple[float, ...]
    after: tuple[Block, ...] = ()

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return HEAD + self.reads

    @property
    def reads(self) -> int:
        """Numbers read an impression."""
        return len(self.quantities) * len(self.half_lives_s)

    def needs(self) -> tuple[Block, ...]:
        """See ``features.passes.Block``, as for the following."""
        return self.after

    def kinds(self) -> tuple[int, ...]:
        """Kinds that are counted."""
        return tuple(sorted({kind for quantity in self.quantities for kind in quantity.kinds}))

    def more_keys(self, batch: Pass) -> tuple[Keys, ...]:
        """None."""
        return ()

    def merge(self, rows: Values) -> Values:
        """Counts of several workers add, brought to the newest landmark."""
        landmark = rows[:, 0].max()
        faded = 2.0 ** ((rows[:, :1] - landmark) / (np.array(self.half_lives_s) * 1000.0))
        counts = rows[:, HEAD:] * np.tile(faded, len(self.quantities))
        return np.concatenate([[landmark, rows[:, 1].max()], counts.sum(axis=0)])

    def index(self, quantity: Quantity, half_life: int) -> int:
        """The column of a quantity at the half-life of that number."""
        return self.quantities.index(quantity) * len(self.half_lives_s) + half_life

    def run(self, batch: Pass, rows: Values, *slots: Slots) -> FloatArray:
        """Sums as of each impression."""
        out = empty_reads(batch, self)
        events, reads = batch.events, batch.reads
        weights = np.ones((len(self.quantities), len(events)))
        for k, quantity in enumerate(self.quantities):
            if quantity.weight:
                weights[k] = batch.number(quantity.weight)
        member = np.zeros((1 + max(self.kinds()), len(self.quantities)), dtype=np.bool_)
        for k, quantity in enumerate(self.quantities):
            member[list(quantity.kinds), k] = True
        half_lives_ms = np.array(self.half_lives_s) * 1000.0
        _run(
            reads.steps, reads.at, events.kinds, events.times, reads.times,
            member, weights, 1.0 / half_lives_ms, rows, slots[0], out,
        )  # fmt: skip
        return out


@kernel
def _run(  # type: ignore[no-untyped-def]
    steps, at, kinds, times, read_times, member, weights, rates, rows, slots, out
):
    many, spans = member.shape[1], len(rates)
    fastest = rates.max()
    for step in steps:
        e = step if step >= 0 else ~step
        slot = slots[e]
        if slot < 0:
            continue
        row = rows[slot]
        if step < 0:
            newest = max(float(read_times[e]), row[1])
            place = at[e]
            for h in range(spans):
                faded = power_of_two((row[0] - newest) * rates[h])
                for q in range(many):
                    out[place, q * spans + h] = row[2 + q * spans + h] * faded
            continue
        kind = kinds[e]
        if kind < 0 or kind >= len(member) or not member[kind].any():
            continue
        now = max(float(times[e]), row[1])
        if (now - row[0]) * fastest > RESCALE:
            for h in range(spans):
                faded = power_of_two((row[0] - now) * rates[h])
                for q in range(many):
                    row[2 + q * spans + h] *= faded
            row[0] = now
        row[1] = now
        for h in range(spans):
            grown = power_of_two((now - row[0]) * rates[h])
            for q in range(many):
                if member[kind, q] and weights[q, e] == weights[q, e]:
                    row[2 + q * spans + h] += grown * weights[q, e]
