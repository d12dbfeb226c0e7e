"""What the blocks and families of a plan share while one batch runs through them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from features.alike import SHARED, Alike, alike, reads_of_heads
from features.compiled import kernel
from features.events import Events, FloatArray, IntArray, Reads
from features.hashing import Keys, cross
from features.rows import Slots, Values

T = TypeVar("T", bound=np.generic)


class Block(Protocol):
    """A part of the rows of one table, and how events move it. Blocks are values: equal ones are one.

    ``key``: the table's columns. ``width``: numbers in a row. ``reads``: numbers read an impression. Where a
    type of blocks has ``unite(blocks)``, those of one key run as the one block that it gives: ``Pass.read``
    says which. Where it has ``begins()``, only these of its ``kinds()`` begin a row where there is none; a
    row that another block of the table began is there for it, too.
    """

    @property
    def key(self) -> tuple[str, ...]: ...

    @property
    def width(self) -> int: ...

    @property
    def reads(self) -> int: ...

    def needs(self) -> tuple[Block, ...]:
        """Blocks that must have run before."""
        ...

    def kinds(self) -> tuple[int, ...]:
        """Kinds of events that move a row, and begin one where there is none."""
        ...

    def more_keys(self, batch: Pass) -> tuple[Keys, ...]:
        """Keys of further rows of the same table that each event needs beside its own to be counted."""
        ...

    def run(self, batch: Pass, rows: Values, *slots: Slots) -> FloatArray:
        """Read and update ``rows`` (rows, width) in the order of ``batch.reads``; (impressions, reads).

        ``slots`` (events,): the events' rows, then, where events are counted, those of ``more_keys``; -1
        where there is none.
        """
        ...

    def merge(self, rows: Values) -> Values:
        """One row (..., width) of the rows (..., sources, width) that several workers keep of the same key.

        Where a worker has no such row, there are zeros.
        """
        ...

    def __hash__(self) -> int: ...


class RowBlock(msgspec.Struct, frozen=True, cache_hash=True):
    """What most blocks are: values that need no other block and no further rows."""

    def needs(self) -> tuple[Block, ...]:
        """See ``Block``, as for the following."""
        return ()

    def more_keys(self, batch: Pass) -> tuple[Keys, ...]:
        """None."""
        return ()


class Lists(NamedTuple):
    """The impressions' lists: ``order`` sorts them by list and place; list k is from ``starts[k]`` on."""

    order: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]


class Sequence(NamedTuple):
    """The last events of each impression's key, (impressions, keep), the newest first; zeros behind the end.

    ``items``, ``categories``, ``shops``: keys, their lowest 53 bits. ``kinds``: numbers of ``Scope.kinds``.
    ``ages``: 1 + floor(2 log2(1 + seconds ago)), so that 0 is no event.
    """

    items: Keys
    categories: Keys
    shops: Keys
    kinds: npt.NDArray[np.int16]
    ages: npt.NDArray[np.int16]


class Pass:
    """One batch on its way through a plan.

    ``raw[block]`` (impressions, block.reads): what a block has read, as of each impression; forgotten when
    the last family has read it. Where impressions that are alike read the same (``shares``), there is one
    row a group of ``alike``, and ``read`` gives one an impression.
    ``known[name]`` (events,): numbers that a block has worked out for every event, for those after it.
    ``keys[name]`` (events,): key columns, those that families have worked out among them.
    ``columns[name]`` (impressions,): features that another family reads, before they are bounded.
    ``sequences[key]`` and ``crossings[name]``: what the families of these names work out.
    ``memo``: what families share, by a key of theirs. ``united``: the blocks that run for others.
    ``wanted``: key columns that something asks for, or ``None`` where that is not known.
    """

    def __init__(
        self,
        events: Events,
        reads: Reads,
        united: Mapping[Block, Block] | None = None,
        wanted: frozenset[str] | None = None,
    ) -> None:
        self.events = events
        self.reads = reads
        self.raw: dict[Block, FloatArray] = {}
        self.known: dict[str, FloatArray] = {}
        self.keys: dict[str, Keys] = dict(events.keys)
        self.columns: dict[str, FloatArray] = {}
        self.sequences: dict[str, Sequence] = {}
        self.crossings: dict[str, Keys] = {}
        self.memo: dict[Any, Any] = {}
        self._united = {} if united is None else united
        self._wanted = wanted

    @property
    def impressions(self) -> int:
        """How many impressions the batch has."""
        return len(self.reads.shown)

    def read(self, block: Any) -> tuple[Any, FloatArray]:
        """The block that ran for this one, and what it has read as of each impression."""
        ran = self._united.get(block, block)
        raw = self.raw[ran]
        return ran, raw[self.alike.group] if self.shares(ran.key) else raw

    def read_alike(self, block: Any) -> tuple[Any, FloatArray]:
        """As ``read``, but one row a group of ``alike``; only for blocks of which these share the key."""
        ran = self._united.get(block, block)
        return ran, self.raw[ran]

    def shares(self, key: tuple[str, ...]) -> bool:
        """Whether counts of this key are read once for all impressions that are alike."""
        return SHARED.issuperset(key) and not self.alike.each_alone

    @cached_property
    def alike(self) -> Alike:
        """Impressions of one list and one user."""
        return alike(self.shown(self.events.lists), self.shown(self.keys["user_id"]))

    def reads_for(self, key: tuple[str, ...]) -> Reads:
        """The steps for counts of this key."""
        return self._alike_reads if self.shares(key) else self.reads

    @cached_property
    def _alike_reads(self) -> Reads:
        return reads_of_heads(self.reads, self.alike)

    def spread(self, values: npt.NDArray[T]) -> npt.NDArray[T]:
        """What was worked out for each group of ``alike``, (..., groups), for each impression."""
        if self.alike.each_alone:
            return values
        spread: npt.NDArray[T] = values.take(self.alike.group, axis=-1)
        return spread

    def number(self, name: str) -> FloatArray:
        """A column of numbers (events,): one of the events', or one that a block has worked out."""
        known = self.known.get(name)
        numbers: FloatArray = self.events.numbers[name] if known is None else known
        return numbers

    def key(self, columns: tuple[str, ...]) -> Keys:
        """Keys of several columns together (events,)."""
        return cross([self.keys[column] for column in columns])

    def shown(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The impressions' part of a column of events."""
        part: npt.NDArray[Any] = values[self.reads.shown]
        return part

    @cached_property
    def places(self) -> FloatArray:
        """The impressions' places in their lists, from 0 on; 0 where it is unknown."""
        places = self.shown(self.number("position"))
        return np.where(np.isnan(places), 0.0, places)

    @cached_property
    def times(self) -> IntArray:
        """When the impressions are read (ms)."""
        times: IntArray = self.shown(self.reads.times)
        return times

    @cached_property
    def lists(self) -> Lists:
        """The impressions by list and place; equal places in the order of the events."""
        numbers = self.shown(self.events.lists)
        order = np.empty(len(numbers), dtype=np.int64)
        starts = np.zeros(int(numbers.max(initial=-1)) + 2, dtype=np.int64)
        _sort_lists(numbers, self.places, order, starts)
        return Lists(order, starts)

    def wants(self, name: str) -> bool:
        """Whether anything asks for a key column that a family can work out."""
        return self._wanted is None or name in self._wanted

    def provide(self, name: str, shown: Keys) -> None:
        """Give the impressions' values of a key column; an action has that of its impression."""
        column = self.keys.get(name)
        column = np.zeros(len(self.events), dtype=np.uint64) if column is None else column.copy()
        column[self.reads.shown] = shown
        # An action whose impression is in this batch could not bring what is worked out only now.
        here, origins = self.joined
        column[here] = column[origins]
        self.keys[name] = column

    @cached_property
    def joined(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int32]]:
        """Actions whose impressions are in this batch, and those."""
        here = np.flatnonzero(self.events.origins >= 0)
        return here, self.events.origins[here]


def empty_reads(batch: Pass, block: Block) -> FloatArray:
    """Zeros for what a block reads: the neutral value of an impression that has no row."""
    return np.zeros((batch.impressions, block.reads))


def newest(rows: Values, by: int) -> Values:
    """Of the rows (..., sources, width) the one with the largest number in column ``by``; of equal ones the
    first."""
    best = np.argmax(rows[..., by], axis=-1)[..., None, None]
    row: Values = np.take_along_axis(rows, best, axis=-2)[..., 0, :]
    return row


@kernel
def _sort_lists(numbers, places, order, starts):  # type: ignore[no-untyped-def]
    # Counted into lists, then each inserted by place: lists come sorted almost always.
    for k in numbers:
        starts[k + 1] += 1
    for k in range(1, len(starts)):
        starts[k] += starts[k - 1]
    filled = starts.copy()
    for i in range(len(numbers)):
        at = filled[numbers[i]]
        filled[numbers[i]] += 1
        while at > starts[numbers[i]] and places[order[at - 1]] > places[i]:
            order[at] = order[at - 1]
            at -= 1
        order[at] = i
