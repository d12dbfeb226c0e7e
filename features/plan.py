"""The plan: declarations compiled into one pass over a batch, the same in worker, training and serving.

Families and blocks run in an order in which each finds what it needs; equal blocks of several families run
once, and blocks with the same key share the rows of one table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from features.compiled import kernel
from features.errors import FeaturesError
from features.events import Events, order_reads
from features.family import Family, Feature
from features.hashing import Keys, hash_numbers
from features.passes import Block, Pass
from features.rows import Slots, Values
from features.scope import Scope

FloatArray32 = npt.NDArray[np.float32]

#: The first number of every row: the newest event (ms) that it knows of.
SEEN = 0
HEAD = 1
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

    ``features``: the columns, in order. ``tables``: by name. ``columns``: key columns that events must bring.
    ``remembered``: key columns that a joined action must have of its impression.
    """

    def __init__(self, families: Sequence[tuple[str, Family]], scope: Scope) -> None:
        self.scope = scope
        self.families = [family for _, family in families]
        self.features: list[Feature] = []
        for where, family in families:
            family.check(scope, where)
            for feature in family.features(scope):
                if feature.name in self.names:
                    raise FeaturesError(f"{where}: gives {feature.name}, which is there already")
                self.features.append(feature)
        self._steps = self._ordered()
        self.tables: dict[str, Layout] = {}
        self._slices: dict[Block, tuple[str, slice]] = {}
        for step in self._steps:
            if not _is_family(step):
                name = table_name(step.key)
                width = self.tables[name].width if name in self.tables else HEAD
                self._slices[step] = name, slice(width, width + step.width)
                self.tables[name] = Layout(step.key, width + step.width)
        used = {column for layout in self.tables.values() for column in layout.key}
        used |= {"user_id", "item_id"}
        self.columns = [c for c in sorted(used) if c not in scope.derived and c not in WORKED_OUT]
        self.remembered = [c for c in sorted(used) if c not in WORKED_OUT]
        self._moving = {
            name: np.array(
                sorted({k for b, (table, _) in self._slices.items() if table == name for k in b.kinds()}),
                dtype=np.int16,
            )
            for name in self.tables
        }
        self._low = np.array([feature.low for feature in self.features])
        self._high = np.array([feature.high for feature in self.features])
        self._neutral = np.array([feature.neutral for feature in self.features])

    @property
    def names(self) -> list[str]:
        """The features' names."""
        return [feature.name for feature in self.features]

    @property
    def hash(self) -> str:
        """Of everything that decides what a row and a column mean."""
        parts = [repr(self.scope), *map(repr, self.families), *map(repr, self.features)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def observe(
        self, events: Events, tables: Mapping[str, Table], update: bool = True
    ) -> tuple[FloatArray32, Pass]:
        """Features (impressions, q) as of each impression, and the pass with what was worked out.

        With ``update`` the events are counted, else they are only read for (serving).
        """
        batch = Pass(events, order_reads(events, update))
        self._work_out(batch)
        out = np.empty((batch.impressions, len(self.features)), dtype=np.float32)
        slots: dict[str, Slots] = {}
        column = 0
        columns = self._columns
        for step in self._steps:
            if _is_family(step):
                column = columns[step]
                for values in step.compute(batch, self.scope):
                    out[:, column] = values
                    column += 1
            else:
                self._run(step, batch, tables, slots, update)
        _bound(out, self._low, self._high, self._neutral)
        return out, batch

    def merge(self, table: str, rows: Values) -> Values:
        """One row (width,) of what several workers keep of a key, (sources, width)."""
        if len(rows) == 1:
            own: Values = rows[0]
            return own
        merged = np.zeros(self.tables[table].width)
        merged[SEEN] = rows[:, SEEN].max()
        for block, (name, part) in self._slices.items():
            if name == table:
                merged[part] = block.merge(rows[:, part])
        return merged

    def _run(
        self, block: Block, batch: Pass, tables: Mapping[str, Table], slots: dict[str, Slots], update: bool
    ) -> None:
        name, part = self._slices[block]
        table = tables[name]
        own = slots.get(name)
        if own is None:
            begin = np.isin(batch.events.kinds, self._moving[name]) if update else _none(len(batch.events))
            keys = batch.key(self.tables[name].key)
            own = slots[name] = table.locate(keys, begin)
            if update:
                moved = own[begin & (own >= 0)]
                table.touch(moved)
                _see(table.values, moved, batch.events.times[begin & (own >= 0)])
        more = []
        for keys in block.more_keys(batch):
            found = table.locate(keys, _none(len(keys)))
            if update:
                table.touch(found[found >= 0])
            more.append(found)
        batch.raw[block] = block.run(batch, table.values[:, part], own, *more)

    def _work_out(self, batch: Pass) -> None:
        events = batch.events
        batch.keys["hour"] = hash_numbers(events.times // HOUR_MS % HOURS)
        batch.keys["everything"] = np.ones(len(events), dtype=np.uint64)
        batch.known["place_from_1"] = np.nan_to_num(events.numbers["position"]) + 1.0

    def _ordered(self) -> list[Any]:
        """Blocks and families so that what one needs comes before it."""
        provider = {
            column: family for family in self.families for column in getattr(family, "provides", tuple)()
        }
        order: list[Any] = []
        waiting: set[int] = set()

        def put_block(block: Block) -> None:
            if block in order:
                return
            for before in block.needs():
                put_block(before)
            for column in block.key:
                if column in provider:
                    put_family(provider[column])
            order.append(block)

        def put_family(family: Family) -> None:
            if any(step is family for step in order):
                return
            if id(family) in waiting:
                raise FeaturesError(f"{family!r} needs what it works out itself")
            waiting.add(id(family))
            for block in family.blocks(self.scope):
                put_block(block)
            order.append(family)

        for family in self.families:
            put_family(family)
        self._columns = {}
        at = 0
        for family in self.families:
            self._columns[family] = at
            at += len(family.features(self.scope))
        return order


def table_name(key: Sequence[str]) -> str:
    """The name of the table with this key.

    >>> table_name(["user_id", "item_id"])
    'user_id*item_id'
    """
    return "*".join(key)


def _is_family(step: Any) -> bool:
    return hasattr(step, "compute")


def _none(size: int) -> npt.NDArray[np.bool_]:
    return np.zeros(size, dtype=np.bool_)


@kernel
def _see(values, slots, times):  # type: ignore[no-untyped-def]
    for i in range(len(slots)):
        values[slots[i], 0] = max(values[slots[i], 0], float(times[i]))


@kernel
def _bound(out, low, high, neutral):  # type: ignore[no-untyped-def]
    for i in range(out.shape[0]):
        for k in range(out.shape[1]):
            x = out[i, k]
            if x != x:
                out[i, k] = neutral[k]
            else:
                out[i, k] = min(max(x, low[k]), high[k])
