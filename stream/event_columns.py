"""Events of one kind as columns: what a decoder makes of records, and all that buffers and ticks handle.

Ids are 64-bit numbers from here on (``features.hashing``), except those of impressions, which the join
compares as texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from contracts.events import ACTION, ACTIONS, EVENTS, IMPRESSION, KINDS, Action, Behaviour, Impression
from features.columns import key_matrix
from features.events import FloatArray
from features.hashing import Keys, hash_texts
from features.plan import Plan
from features.scope import CONTEXT, OTHER

Index = slice | npt.NDArray[np.intp] | npt.NDArray[np.bool_]

#: Ids of an impression that every trunk may read.
ID_FIELDS = ("user_id", "item_id", "category_id", "shop_id")
REQUEST = "request_id"
#: Numbers of each kind of event, in the order of ``contracts.events.KINDS``.
NUMBERS: tuple[tuple[str, ...], ...] = (("position", "price", "stock"), ("value",), ("value",))
#: Fields of an event that may be key columns.
_TEXTS = (*ID_FIELDS, REQUEST, "query")
_NONE = np.empty(0, dtype=object)


class Layout(msgspec.Struct, frozen=True):
    """Which columns a kind of event has. ``kind``: index in ``contracts.events.KINDS``.

    ``keys``: names of the key columns; ``numbers``: of the numbers. ``types``: the numbers of the codes, by
    the text that an action or a behaviour has for them, the last one for every other. ``contexts``: contexts
    are kept as they came, for training, which asks what there is.
    """

    kind: int
    keys: tuple[str, ...]
    types: dict[str, int] = {}
    contexts: bool = False

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of the numbers."""
        return NUMBERS[self.kind]

    def empty(self) -> Columns:
        """No events."""
        return Columns(
            ids=_NONE,
            keys=np.empty((0, len(self.keys)), dtype=np.uint64),
            numbers=np.empty((0, len(self.numbers))),
            codes=np.empty(0, dtype=np.int16),
        )


class Columns(msgspec.Struct, eq=False):
    """``n`` events.

    ``ids`` (n,): an impression's own, or that of an action's impression; empty where a kind has none.
    ``keys`` (n, c) uint64 and ``numbers`` (n, m) float64 as the layout names them; 0 and NaN are unknown,
    but a position of 0 is the first and a price of 0 is unknown. ``codes`` (n,): an action's place in
    ``contracts.events.ACTIONS``, a behaviour's number in the plan. ``logged`` (n,): features that came with
    impressions, None where none did. ``contexts`` (n,): see ``Layout``.
    """

    ids: npt.NDArray[np.object_]
    keys: Keys
    numbers: FloatArray
    codes: npt.NDArray[np.int16]
    logged: npt.NDArray[np.object_] | None = None
    contexts: npt.NDArray[np.object_] | None = None

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, some: Index) -> Columns:
        return Columns(
            self.ids[some] if len(self.ids) else self.ids,
            self.keys[some],
            self.numbers[some],
            self.codes[some],
            None if self.logged is None else self.logged[some],
            None if self.contexts is None else self.contexts[some],
        )


def joined(parts: Sequence[Columns]) -> Columns:
    """The events of several parts, at least one, of one layout."""
    if len(parts) == 1:
        return parts[0]
    return Columns(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.keys for part in parts]),
        np.concatenate([part.numbers for part in parts]),
        np.concatenate([part.codes for part in parts]),
        _objects(parts, "logged"),
        _objects(parts, "contexts"),
    )


def _objects(parts: Sequence[Columns], name: str) -> npt.NDArray[np.object_] | None:
    """A column that parts may be without."""
    if all(getattr(part, name) is None for part in parts):
        return None
    empty = [np.full(len(part), None, dtype=object) for part in parts]
    own = [getattr(part, name) for part in parts]
    return np.concatenate([none if some is None else some for none, some in zip(empty, own, strict=True)])


def layouts(plan: Plan, fields: Sequence[str] = (), contexts: bool = False) -> list[Layout]:
    """The layouts of all kinds for a plan and the ``fields`` of a trunk.

    Key columns of an impression begin with the plan's ``remembered`` ones; those of a behaviour are these.
    """
    read = [name for name in fields if name.startswith(CONTEXT)]
    kinds = {kind: number for number, kind in enumerate(plan.scope.kinds)}
    other = kinds.pop(OTHER)
    return [
        Layout(0, tuple(dict.fromkeys((*plan.remembered, *ID_FIELDS, REQUEST, *read))), contexts=contexts),
        Layout(1, (), {name: number for number, name in enumerate(ACTIONS)}),
        Layout(2, tuple(plan.remembered), {**kinds, OTHER: other}),
    ]


def columns_of(layout: Layout, events: Sequence[Any]) -> Columns:
    """Decoded events as columns: the way for records that ``stream.json_scan`` leaves."""
    n = len(events)
    if not n:
        return layout.empty()
    if layout.kind == KINDS.index(IMPRESSION):
        return _impressions(layout, events, n)
    if layout.kind == KINDS.index(ACTION):
        return _actions(layout, events, n)
    return _behaviours(layout, events, n)


def _impressions(layout: Layout, events: Sequence[Impression], n: int) -> Columns:
    numbers = np.empty((n, len(layout.numbers)))
    numbers[:, 0] = [event.position for event in events]
    numbers[:, 1] = [event.price for event in events]
    numbers[:, 2] = [np.nan if event.stock is None else event.stock for event in events]
    contexts = [event.context for event in events]
    logged = [event.features or None for event in events]
    return Columns(
        ids=_texts(events, "impression_id"),
        keys=_keys(layout, events, [event.position for event in events]),
        numbers=numbers,
        codes=np.zeros(n, dtype=np.int16),
        logged=_column(logged) if any(logged) else None,
        contexts=_column(contexts) if layout.contexts else None,
    )


def _actions(layout: Layout, events: Sequence[Action], n: int) -> Columns:
    return Columns(
        ids=_texts(events, "impression_id"),
        keys=np.empty((n, 0), dtype=np.uint64),
        numbers=np.array([[event.value] for event in events]),
        codes=np.array([layout.types[event.action] for event in events], dtype=np.int16),
    )


def _behaviours(layout: Layout, events: Sequence[Behaviour], n: int) -> Columns:
    types, other = layout.types, layout.types[OTHER]
    return Columns(
        ids=_NONE,
        keys=_keys(layout, events, None),
        numbers=np.array([[event.value] for event in events]),
        codes=np.array([types.get(event.type, other) for event in events], dtype=np.int16),
    )


def _keys(layout: Layout, events: Sequence[Any], places: list[int] | None) -> Keys:
    own = EVENTS[layout.kind].__struct_fields__
    texts = {name: partial(_values, events, name) for name in _TEXTS if name in own}
    return key_matrix(layout.keys, len(events), texts, [event.context for event in events], places)


def _values(events: Sequence[Any], name: str) -> list[str]:
    return list(map(attrgetter(name), events))


def _texts(events: Sequence[Any], name: str) -> npt.NDArray[np.object_]:
    return _column(_values(events, name))


def _column(values: Sequence[Any]) -> npt.NDArray[np.object_]:
    """Objects as an array of one dimension, whatever they are."""
    return np.fromiter(values, dtype=object, count=len(values))


def type_keys(layout: Layout) -> tuple[Keys, npt.NDArray[np.int16]]:
    """The keys of a behaviour's types, in ascending order, and the numbers of their codes."""
    names = [name for name in layout.types if name != OTHER]
    keys, numbers = hash_texts(names), np.array([layout.types[name] for name in names], dtype=np.int16)
    order = np.argsort(keys)
    return keys[order], numbers[order]
