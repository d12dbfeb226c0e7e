"""JSON records of one kind of event straight to columns, without a Python object an event.

The scanner takes what it is sure of and leaves the rest: a record with an escape in a text, a nested value
that nothing asks for, a wrong or a missing field is decoded by msgspec, which also says what is wrong with
it. What both take, both read alike: the contract of events stays the one place that says what is allowed, and
bounds and names are taken from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from contracts.events import ACTIONS, EVENTS
from features.events import IntArray
from features.hashing import Keys, hash_numbers
from features.scope import CONTEXT, OTHER
from stream.event_columns import Columns, Layout, type_keys
from stream.json_kernel import (
    ACTION,
    CONTEXT_OBJECT,
    LETTERS,
    NULL,
    NUMBER,
    POWERS,
    TEXT,
    TIME,
    WHOLE,
    read_records,
)

BoolArray = npt.NDArray[np.bool_]

#: Texts whose place in the record is told: ids that are kept as texts, and names for people.
ID_SPAN, ITEM_SPAN = 0, 1
_SPANS = {"impression_id": ID_SPAN, "item_id": ITEM_SPAN}
_FIELD_OF_CODE = "type"


class Scanned(NamedTuple):
    """``taken`` (n,): the records that were read; the others' rows mean nothing. ``times`` (n,) ms UTC.

    ``columns``: all but ``ids`` are filled. ``spans`` (n, 2, 2): where texts of ``_SPANS`` begin and end.
    """

    taken: BoolArray
    times: IntArray
    columns: Columns
    spans: IntArray


class Scanner:
    """Reads records of the kind of ``layout``."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        kind = EVENTS[layout.kind]
        fields = [_Field.of(one, layout) for one in msgspec.inspect.type_info(kind).fields]  # type: ignore[attr-defined]
        self._names = _texts([field.name for field in fields])
        self._table = np.array(
            [(f.holds, f.column, f.span, f.least, f.most, f.nullable) for f in fields], dtype=np.int64
        )
        self._places = _places([field.name for field in fields])
        self._required = sum(1 << k for k, field in enumerate(fields) if field.required)
        #: What a missing field is: an amount that is not known, and every other number zero.
        self._missing = np.zeros(len(layout.numbers))
        self._missing[[f.column for f in fields if f.holds == NUMBER and f.nullable]] = np.nan
        wanted = [name for name in layout.keys if name.startswith(CONTEXT)]
        # What was searched stands in an impression's context.
        own = {field.name for field in fields}
        wanted += ["query"] if "query" in layout.keys and "query" not in own else []
        self._contexts = _texts([name.removeprefix(CONTEXT) for name in wanted])
        self._context_columns = np.array([layout.keys.index(name) for name in wanted], dtype=np.int64)
        self._choices = _texts(ACTIONS)
        self._place = layout.keys.index("position") if "position" in layout.keys and layout.kind == 0 else -1
        self._types = type_keys(layout) if _FIELD_OF_CODE in own else None

    def scan(self, data: bytes, ends: IntArray) -> Scanned:
        """``data``: the records one behind the other, ``ends`` (n,) where each ends."""
        n, layout = len(ends), self._layout
        keys = np.zeros((n, len(layout.keys) + 1), dtype=np.uint64)
        numbers = np.tile(self._missing, (n, 1))
        times, codes = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int16)
        spans = np.zeros((n, len(_SPANS), 2), dtype=np.int64)
        taken = np.zeros(n, dtype=np.bool_)
        later = np.empty((n * (numbers.shape[1] + 1), 5), dtype=np.int64)
        with np.errstate(over="ignore"):
            count = read_records(
                np.frombuffer(data, dtype=np.uint8),
                ends,
                *self._names,
                *self._places,
                self._table,
                self._required,
                *self._contexts,
                self._context_columns,
                *self._choices,
                POWERS,
                taken,
                times,
                keys,
                numbers,
                codes,
                spans,
                later,
            )
        for row, column, begin, end, most in later[:count].tolist():
            numbers[row, column] = value = float(data[begin:end])
            taken[row] &= 0.0 <= value <= most
        if self._place >= 0:
            keys[:, self._place] = hash_numbers(numbers[:, 0].astype(np.int64))
        if self._types is not None:
            codes = self._codes(keys[:, -1])
        columns = Columns(np.empty(0, dtype=object), keys[:, :-1], numbers, codes)
        return Scanned(taken, times, columns, spans)

    def _codes(self, types: Keys) -> npt.NDArray[np.int16]:
        """The codes of the keys of a behaviour's types."""
        assert self._types is not None
        known, numbers = self._types
        at = np.minimum(np.searchsorted(known, types), len(known) - 1)
        other = np.int16(self._layout.types[OTHER])
        codes: npt.NDArray[np.int16] = np.where(known[at] == types, numbers[at], other)
        return codes


class _Field(NamedTuple):
    """A field of the contract as the scanner knows it. ``column``, ``span``: where it goes, -1 for nowhere.

    ``least`` and ``most``: characters of a text, or the bounds of a number.
    """

    name: str
    holds: int
    column: int
    span: int
    least: int
    most: int
    nullable: bool
    required: bool

    @classmethod
    def of(cls, field: Any, layout: Layout) -> _Field:
        """From what msgspec knows of it. Raises ``TypeError`` for a type that the scanner does not know."""
        kinds, name = msgspec.inspect, field.encode_name
        nullable = isinstance(field.type, kinds.UnionType)
        given = field.type.types[0] if nullable else field.type
        least: int = int(getattr(given, "ge", None) or 0)
        most: int = int(getattr(given, "le", None) or 0)
        column = layout.numbers.index(name) if name in layout.numbers else -1
        if isinstance(given, kinds.StrType):
            holds, least, most = TEXT, int(given.min_length or 0), int(given.max_length or 0)
            column = layout.keys.index(name) if name in layout.keys else -1
            if name == _FIELD_OF_CODE:
                column = len(layout.keys)
        elif isinstance(given, kinds.IntType):
            holds = TIME if name == "event_time" else WHOLE
        elif isinstance(given, kinds.FloatType):
            holds = NUMBER
        elif isinstance(given, kinds.LiteralType) and set(given.values) == set(ACTIONS):
            holds = ACTION
        elif isinstance(given, kinds.DictType) and isinstance(given.value_type, kinds.StrType):
            holds, most = CONTEXT_OBJECT, int(given.value_type.max_length or 0)
        elif nullable:
            holds = NULL
        else:
            raise TypeError(f"the field {name} of an event has a type that the scanner does not know")
        span = _SPANS.get(name, -1)
        return cls(name, holds, column, span, least, most, nullable, field.required)


def _texts(names: Sequence[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Names one behind the other, and where each ends."""
    encoded = [name.encode() for name in names]
    return np.frombuffer(b"".join(encoded), dtype=np.uint8), np.cumsum(
        [0, *map(len, encoded)], dtype=np.int64
    )


def _places(names: Sequence[str]) -> tuple[npt.NDArray[np.int64], int]:
    """Numbers of names by their length and their first and last letter, -1 for none; and the factor of the
    first letter with which all names are told apart."""
    for factor in range(1, LETTERS):
        places = np.full((max(map(len, names)) + 1, LETTERS), -1, dtype=np.int64)
        for number, name in enumerate(names):
            places[len(name), (factor * ord(name[0]) + ord(name[-1])) % LETTERS] = number
        if np.count_nonzero(places >= 0) == len(names):
            return places, factor
    raise ValueError(f"not all of these are told apart: {', '.join(names)}")
