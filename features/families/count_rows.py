"""Rows of exponentially decayed counts, exact as of every impression: what rates and prices are made of.

Forward decay (Cormode, Shkapenyuk, Srivastava, Xu: "Forward decay", ICDE 2009): a row holds its counts as
of a landmark in the past, an event adds ``2 ** ((t - landmark) / half_life)``, and reading at t multiplies by
the inverse. Events are weighed once; a row is rescaled when its landmark lies ``RESCALE`` of the shortest
half-lives back.

What several families count of one key stands in one row. An event that comes behind the newest one counted in
its row counts, and sees, that one's time: counts never run backwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from features.compiled import kernel
from features.events import FloatArray
from features.passes import Block, Pass, RowBlock
from features.powers import power_of_two
from features.rows import Slots, Values

#: Seconds after which an event counts half.
HalfLife = Annotated[float, msgspec.Meta(gt=0.0, le=1e9)]
#: Half-lives between landmark and present at most: 2 ** 60 leaves the counts all their digits.
RESCALE = 60.0
#: Before the counts of a row stand its landmark and, at ``NEWEST``, its newest event, both ms.
HEAD, NEWEST = 2, 1


class Quantity(msgspec.Struct, frozen=True, cache_hash=True):
    """What is counted: events of any of ``kinds``.

    Each weighs one, or the number of this name that the batch knows of it (``Pass.number``).
    """

    kinds: tuple[int, ...]
    weight: str = ""


class CountRows(RowBlock, frozen=True, cache_hash=True):
    """Decayed sums for each key: ``cells`` are quantities, each with a half-life in seconds.

    Reads one number a cell. ``after``: blocks that work out the weights. An event whose weight is unknown
    (NaN) does not count. ``begun_by``: kinds that begin a row where there is none; empty: every kind that is
    counted. What came before a row was begun is not counted.
    """

    key: tuple[str, ...]
    cells: tuple[tuple[Quantity, float], ...]
    after: tuple[Block, ...] = ()
    begun_by: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return HEAD + len(self.cells)

    @property
    def reads(self) -> int:
        """Numbers read an impression."""
        return len(self.cells)

    def needs(self) -> tuple[Block, ...]:
        """See ``features.passes.Block``, as for the following."""
        return self.after

    def kinds(self) -> tuple[int, ...]:
        """Kinds that are counted."""
        return tuple(sorted({kind for quantity, _ in self.cells for kind in quantity.kinds}))

    def begins(self) -> tuple[int, ...]:
        """Those of them that begin a row."""
        return self.begun_by or self.kinds()

    @staticmethod
    def unite(blocks: Sequence[CountRows]) -> CountRows:
        """One block with the cells of several of the same key."""
        cells = dict.fromkeys(cell for block in blocks for cell in block.cells)
        after = dict.fromkeys(before for block in blocks for before in block.after)
        begun_by = {kind for block in blocks for kind in block.begins()}
        return CountRows(blocks[0].key, tuple(cells), tuple(after), tuple(sorted(begun_by)))

    def merge(self, rows: Values) -> Values:
        """Counts of several workers add, brought to the newest landmark."""
        half_lives_ms = np.array([half_life for _, half_life in self.cells]) * 1000.0
        merged: Values = rows.max(axis=-2)  # of landmark and newest event
        since = (rows[..., :1] - merged[..., None, :1]) / half_lives_ms
        merged[..., HEAD:] = (rows[..., HEAD:] * 2.0**since).sum(axis=-2)
        return merged

    def columns(self, cells: Iterable[tuple[Quantity, float]]) -> npt.NDArray[np.int64]:
        """Where these cells are read."""
        return np.array([self.cells.index(cell) for cell in cells], dtype=np.int64)

    def run(self, batch: Pass, rows: Values, *slots: Slots) -> FloatArray:
        """Sums as of each impression, or of each group of ``Pass.alike`` that shares the key."""
        events, reads, layout = batch.events, batch.reads_for(self.key), _layout(self)
        # A row that is not there reads as zeros; one that is there fills its whole line.
        out = np.zeros((len(reads.shown), self.reads))
        weights = np.empty((len(layout.weights), len(events)))
        for k, name in enumerate(layout.weights):
            weights[k] = batch.number(name)
        _run(
            reads.steps, reads.at, events.kinds, events.times, reads.times, layout.starts, layout.moved,
            layout.spans, layout.weight, layout.rates, weights, rows, slots[0], out,
        )  # fmt: skip
        return out


@lru_cache(maxsize=1024)
def count_rows(
    key: tuple[str, ...],
    quantities: tuple[Quantity, ...],
    half_lives_s: tuple[float, ...],
    after: tuple[Block, ...] = (),
    begun_by: tuple[int, ...] = (),
) -> CountRows:
    """Every quantity at every half-life."""
    cells = dict.fromkeys((quantity, float(h)) for quantity in quantities for h in half_lives_s)
    return CountRows(key, tuple(cells), after, begun_by)


class _Layout(NamedTuple):
    """A block for the kernel: cells ``moved[starts[kind] : starts[kind + 1]]`` count events of a kind.

    ``spans[cell]`` numbers its half-life in ``rates`` (1 / ms), ``weight[cell]`` its row of weights or -1.
    """

    starts: npt.NDArray[np.int64]
    moved: npt.NDArray[np.int64]
    spans: npt.NDArray[np.int64]
    weight: npt.NDArray[np.int64]
    rates: FloatArray
    weights: tuple[str, ...]


@lru_cache(maxsize=1024)
def _layout(block: CountRows) -> _Layout:
    kinds = range(1 + max(block.kinds()))
    moved = [[c for c, (quantity, _) in enumerate(block.cells) if k in quantity.kinds] for k in kinds]
    half_lives = list(dict.fromkeys(half_life for _, half_life in block.cells))
    weights = tuple(dict.fromkeys(quantity.weight for quantity, _ in block.cells if quantity.weight))
    return _Layout(
        starts=np.cumsum([0, *map(len, moved)]),
        moved=np.array([c for cells in moved for c in cells], dtype=np.int64),
        spans=np.array([half_lives.index(half_life) for _, half_life in block.cells]),
        weight=np.array([weights.index(q.weight) if q.weight else -1 for q, _ in block.cells]),
        rates=1.0 / (np.array(half_lives) * 1000.0),
        weights=weights,
    )


@kernel
def _run(  # type: ignore[no-untyped-def]
    steps, at, kinds, times, read_times, starts, moved, spans, weight, rates, weights, rows, slots, out
):
    fastest = rates.max()
    # What neighbours in a batch share (impressions of one list, events of one millisecond) is raised once.
    faded, faded_for = np.empty(len(rates)), np.nan
    grown, grown_for = np.empty(len(rates)), np.nan
    for step in steps:
        e = step if step >= 0 else ~step
        slot = slots[e]
        if slot < 0:
            continue
        if step < 0:
            ago = rows[slot, 0] - max(float(read_times[e]), rows[slot, 1])
            if ago != faded_for:
                faded_for = ago
                for h in range(len(rates)):
                    faded[h] = power_of_two(ago * rates[h])
            place = at[e]
            for c in range(len(spans)):
                out[place, c] = rows[slot, 2 + c] * faded[spans[c]]
            continue
        kind = kinds[e]
        if kind < 0 or kind + 1 >= len(starts) or starts[kind] == starts[kind + 1]:
            continue
        now = max(float(times[e]), rows[slot, 1])
        since = now - rows[slot, 0]
        if since * fastest > RESCALE:
            for c in range(len(spans)):
                rows[slot, 2 + c] *= power_of_two(-since * rates[spans[c]])
            rows[slot, 0] = now
            since = 0.0
        rows[slot, 1] = now
        if since != grown_for:
            grown_for = since
            for h in range(len(rates)):
                grown[h] = power_of_two(since * rates[h])
        for m in range(starts[kind], starts[kind + 1]):
            c = moved[m]
            if weight[c] < 0:
                rows[slot, 2 + c] += grown[spans[c]]
            else:
                amount = weights[weight[c], e]
                if amount == amount:
                    rows[slot, 2 + c] += grown[spans[c]] * amount
