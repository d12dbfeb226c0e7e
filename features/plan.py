"""The plan: declarations compiled into one pass over a batch, the same in worker, training and serving.

Families and blocks run in an order in which each finds what it needs; equal blocks of several families run
once, and blocks with the same key share the rows of one table.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from time import perf_counter_ns
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from features.compiled import kernel
from features.errors import FeaturesError
from features.events import Events, IntArray, order_reads
from features.family import Family, Feature
from features.hashing import Keys, hash_numbers
from features.order import is_family, ordered, united
from features.passes import Block, Pass
from features.rows import Slots, Values
from features.scope import NUMBERS, Scope

FloatArray32 = npt.NDArray[np.float32]

#: The first number of every row: the newest event (ms) that it knows of.
SEEN = 0
HEAD = 1
#: The clock by which rows are forgotten (ms).
CLOCK_MS = 60_000
#: Columns that are worked out from an event's own, and need not be given.
WORKED_OUT = ("hour", "everything")
HOUR_MS, HOURS = 3_600_000, 24


class Table(Protocol):
    """Rows of a table, wherever they are kept. ``locate`` may replace ``values``: take it anew after it."""

    @property
    def values(self) -> Values: ...

    def locate(self, keys: Keys, begin: npt.NDArray[np.bool_]) -> Slots:
        """Row numbers, -1 where there is no row; where ``begin``, a missing row is begun."""
        ...

    def touch(self, slots: Slots) -> None:
        """These rows (never -1) are about to change."""
        ...


class Layout(NamedTuple):
    """A table: its key's columns and the numbers of a row, ``SEEN`` among them."""

    key: tuple[str, ...]
    width: int


class Plan:
    """``families``: (where it is declared, family). Raises ``FeaturesError`` for what cannot be used.

    ``features``: the columns, in order; ``neutral`` (q,): what they are where nothing is known. ``tables``:
    by name. ``blocks``: the table of each, and which part of its rows. ``columns``: key columns that events
    must bring. ``remembered``: key columns that a joined action must have of its impression; so must it the
    number ``position``.
    """

    def __init__(self, families: Sequence[tuple[str, Family]], scope: Scope) -> None:
        self.scope = scope
        self.families = [family for _, family in families]
        self.features: list[Feature] = []
        self._gives: dict[str, Family] = {}
        self._named: dict[Family, list[str]] = {}
        seen: set[Any] = set()
        for where, family in families:
            family.check(scope, where)
            if (type(family), getattr(family, "name", family)) in seen:
                raise FeaturesError(f"{where}: is declared twice")
            seen.add((type(family), getattr(family, "name", family)))
            self._named[family] = []
            for feature in family.features(scope):
                if feature.name in self._gives:
                    raise FeaturesError(f"{where}: gives {feature.name}, which is there already")
                self._gives[feature.name] = family
                self._named[family].append(feature.name)
                self.features.append(feature)
        for where, family in families:
            for column in getattr(family, "reads_columns", lambda _: ())(scope):
                if column not in self._gives:
                    allowed = f"{', '.join(NUMBERS)} and the features of other entries"
                    raise FeaturesError(f"{where}: no column {column!r}; allowed are {allowed}")
        self._united = united(block for family in self.families for block in family.blocks(scope))
        self._steps = ordered(self.families, scope, self._united, self._gives)
        self.tables: dict[str, Layout] = {}
        self.blocks: dict[Block, tuple[str, slice]] = {}
        for step in self._steps:
            if not is_family(step):
                name = table_name(step.key)
                width = self.tables[name].width if name in self.tables else HEAD
                self.blocks[step] = name, slice(width, width + step.width)
                self.tables[name] = Layout(step.key, width + step.width)
        used = {column for layout in self.tables.values() for column in layout.key}
        used |= {column for family in self.families for column in getattr(family, "reads_keys", tuple)()}
        self._wanted = frozenset(used)
        used |= {"user_id", "item_id"}
        self.columns = [c for c in sorted(used) if c not in scope.derived and c not in WORKED_OUT]
        self.remembered = [c for c in sorted(used) if c not in WORKED_OUT]
        # The last place is that of kinds that nothing asks for, whose number is -1.
        self._moving = {name: np.zeros(len(scope.kinds) + 1, dtype=np.bool_) for name in self.tables}
        self._beginning = {name: moving.copy() for name, moving in self._moving.items()}
        for block, (name, _) in self.blocks.items():
            begins = list(getattr(block, "begins", block.kinds)())
            self._beginning[name][begins] = True
            # What begins a row is seen there, whether or not the block counts it.
            self._moving[name][[*block.kinds(), *begins]] = True
        self._low = np.array([feature.low for feature in self.features], dtype=np.float32)
        self._high = np.array([feature.high for feature in self.features], dtype=np.float32)
        self.neutral = np.array([feature.neutral for feature in self.features], dtype=np.float32)
        names = self.names
        self._columns = {family: names.index(of[0]) if of else 0 for family, of in self._named.items()}
        read = {
            name for family in self.families for name in getattr(family, "reads_columns", lambda _: ())(scope)
        }
        #: What other families read of a family: its features, by their numbers among its own.
        self._read = {
            family: [(number, name) for number, name in enumerate(of) if name in read]
            for family, of in self._named.items()
        }
        #: Where it is set: nanoseconds that each family and block took so far, see ``spent_by``.
        self.spent: dict[Family | Block, int] | None = None
        #: What a family is the last to read. Memory that is used again stays in the processor's cache.
        last = {
            self._united.get(block, block): step
            for step in self._steps
            if is_family(step)
            for block in step.blocks(scope)
        }
        self._last: dict[Family, list[Block]] = {family: [] for family in self.families}
        for block, reader in last.items():
            self._last[reader].append(block)

    @property
    def names(self) -> list[str]:
        """The features' names."""
        return [feature.name for feature in self.features]

    @property
    def hash(self) -> str:
        """Of everything that decides what a row and a column mean; the same in every process."""
        # A set's order differs between processes.
        scope = msgspec.structs.replace(self.scope, derived=frozenset())
        parts = [
            repr(scope),
            *sorted(self.scope.derived),
            *map(repr, self.families),
            *map(repr, self.features),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def observe(
        self, events: Events, tables: Mapping[str, Table], update: bool = True
    ) -> tuple[FloatArray32, Pass]:
        """Features (impressions, q) as of each impression, and the pass with what was worked out.

        With ``update`` the events are counted, else they are only read for (serving).
        """
        batch = Pass(events, order_reads(events, update), self._united, self._wanted)
        self._work_out(batch)
        columns = np.empty((len(self.features), batch.impressions), dtype=np.float32)
        slots: dict[str, Slots] = {}
        with np.errstate(all="ignore"):
            for step in self._steps:
                began = perf_counter_ns()
                if is_family(step):
                    first = self._columns[step]
                    found = step.compute(batch, self.scope)
                    if isinstance(found, np.ndarray):
                        columns[first : first + len(found)] = found
                    else:
                        for column, values in enumerate(found, start=first):
                            columns[column] = values
                    for number, name in self._read[step]:
                        batch.columns[name] = found[number]
                    for block in self._last[step]:
                        del batch.raw[block]
                else:
                    self._run(step, batch, tables, slots, update)
                if self.spent is not None:
                    self.spent[step] = self.spent.get(step, 0) + perf_counter_ns() - began
        out = np.empty((batch.impressions, len(self.features)), dtype=np.float32)
        _bound(columns, self._low, self._high, self.neutral, out)
        return out, batch

    def spent_by(self) -> list[float]:
        """Nanoseconds of ``spent`` by feature: a family's and those of its blocks, in equal parts to all that
        read them."""
        spent = self.spent or {}
        reads = {
            family: [self._united.get(block, block) for block in family.blocks(self.scope)]
            for family in self.families
        }
        readers = Counter(block for blocks in reads.values() for block in set(blocks))
        cost = {
            family: spent.get(family, 0) + sum(spent.get(b, 0) / readers[b] for b in set(blocks))
            for family, blocks in reads.items()
        }
        return [cost[(f := self._gives[one.name])] / len(self._named[f]) for one in self.features]

    def table_of(self, feature: str) -> list[str]:
        """The tables whose rows a feature reads."""
        family = self._gives[feature]
        blocks = (self._united.get(block, block) for block in family.blocks(self.scope))
        return sorted({self.blocks[block][0] for block in blocks})

    def rows_of(self, key: tuple[str, ...]) -> list[tuple[Block, slice]]:
        """The blocks of the table with this key, each with its part of a row."""
        name = table_name(key)
        return [(block, part) for block, (table, part) in self.blocks.items() if table == name]

    def merge(self, table: str, rows: Values) -> Values:
        """Of each key one row (keys, width) of those that several workers keep of it, (keys, sources, width).

        Where a worker has no row of a key, there are zeros.
        """
        merged = np.zeros((len(rows), self.tables[table].width))
        merged[:, SEEN] = rows[:, :, SEEN].max(axis=1)
        for block, (name, part) in self.blocks.items():
            if name == table:
                merged[:, part] = block.merge(rows[:, :, part])
        return merged

    def _run(
        self, block: Block, batch: Pass, tables: Mapping[str, Table], slots: dict[str, Slots], update: bool
    ) -> None:
        name, part = self.blocks[block]
        table, events = tables[name], batch.events
        own = slots.get(name)
        if own is None:
            begin = self._beginning[name][events.kinds] if update else np.zeros(len(events), dtype=np.bool_)
            own = slots[name] = table.locate(batch.key(self.tables[name].key), begin)
            if update:
                moved, newest = np.empty(len(own), dtype=np.int32), np.empty(len(own))
                moving = self._moving[name][events.kinds]
                count = _moved(own, moving, events.times, moved, newest)
                table.touch(moved[:count])
                _see(table.values, moved[:count], newest)
        more = []
        for keys in block.more_keys(batch) if update else ():
            found = table.locate(keys, np.zeros(len(keys), dtype=np.bool_))
            table.touch(found[found >= 0])
            more.append(found)
        batch.raw[block] = block.run(batch, table.values[:, part], own, *more)

    def _work_out(self, batch: Pass) -> None:
        events = batch.events
        if batch.wants("hour"):
            batch.keys["hour"] = hash_numbers(events.times // HOUR_MS % HOURS)
        batch.keys["everything"] = np.ones(len(events), dtype=np.uint64)
        place = events.numbers["position"] + 1.0
        # An action has the place of its impression, also where it came without.
        joined, origins = batch.joined
        place[joined] = place[origins]
        batch.known["place_from_1"], batch.known["placed"] = place, np.where(np.isnan(place), np.nan, 1.0)


def oldest(times: IntArray, forget_ms: int) -> IntArray:
    """What ``SEEN`` must be at least for a row to matter at ``times`` (ms): by the minute, for everybody."""
    begun: IntArray = times // CLOCK_MS * CLOCK_MS - forget_ms
    return begun


def partitioned(layout: Layout) -> bool:
    """Whether rows of this table belong to a source partition: events come by user, so do these rows."""
    return "user_id" in layout.key


def table_name(key: Sequence[str]) -> str:
    """The name of the table with this key.

    >>> table_name(["user_id", "item_id"])
    'user_id*item_id'
    """
    return "*".join(key)


@kernel
def _moved(slots, moving, times, moved, newest):  # type: ignore[no-untyped-def]
    count = 0
    for i in range(len(slots)):
        if moving[i] and slots[i] >= 0:
            moved[count] = slots[i]
            newest[count] = float(times[i])
            count += 1
    return count


@kernel
def _see(values, slots, newest):  # type: ignore[no-untyped-def]
    for i in range(len(slots)):
        values[slots[i], 0] = max(values[slots[i], 0], newest[i])


@kernel
def _bound(columns, low, high, neutral, out):  # type: ignore[no-untyped-def]
    # Some impressions at a time, so that what is read and what is written stay near.
    for begin in range(0, out.shape[0], 64):
        end = min(begin + 64, out.shape[0])
        for k in range(out.shape[1]):
            least, most, unknown = low[k], high[k], neutral[k]
            for i in range(begin, end):
                x = columns[k, i]
                y = least if x < least else x
                y = most if y > most else y
                columns[k, i] = y if x == x else unknown
        for i in range(begin, end):
            for k in range(out.shape[1]):
                out[i, k] = columns[k, i]
