"""What the idiomatic peer keeps: its table rows as small structs, and decayed sums as lists of floats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

MINUTE, TEN_MINUTES, DAY, WEEK = 60, 600, 86_400, 604_800
#: Half-lives of most counts.
SHORT_AND_LONG = (TEN_MINUTES, DAY)
ALL = (MINUTE, TEN_MINUTES, DAY)

_pack = msgspec.msgpack.Encoder().encode


class Sums:
    """Decayed sums of one row: ``cells`` are (what, half-life in s), ``at`` says where each stands.

    A row is [time of its newest event in ms, one number a cell as of then].
    """

    def __init__(self, *cells: tuple[str, int]) -> None:
        self.at = {cell: place for place, cell in enumerate(cells, start=1)}
        half_lives = list(dict.fromkeys(half_life for _, half_life in cells))
        self._half_lives_ms = [half_life * 1000.0 for half_life in half_lives]
        self._spans = [half_lives.index(half_life) for _, half_life in cells]
        #: Where each thing stands, at all its half-lives.
        self.of: dict[str, list[int]] = {}
        for (what, _), place in self.at.items():
            self.of.setdefault(what, []).append(place)

    def empty(self) -> list[float]:
        """The row of what was never seen."""
        return [0.0] * (1 + len(self._spans))

    def as_of(self, row: list[float], now: float) -> list[float]:
        """``row`` as of ``now`` (ms), or as of its newest event where that is later."""
        elapsed = now - row[0]
        if elapsed <= 0.0:
            return row
        faded = [2.0 ** (-elapsed / half_life) for half_life in self._half_lives_ms]
        return [now, *(x * faded[span] for x, span in zip(row[1:], self._spans, strict=True))]


def counts(kinds: Sequence[str], half_lives: Sequence[int]) -> list[tuple[str, int]]:
    """Every kind at every half-life."""
    return [(kind, half_life) for kind in kinds for half_life in half_lives]


SEEN = ("impression", "click")
BOUGHT = (*SEEN, "purchase")
CLICKED_PLACES = [("place", WEEK), ("placed", WEEK)]

#: The sums of each table.
SUMS = {
    "everything": Sums(*counts(BOUGHT, (*ALL, WEEK)), *CLICKED_PLACES),
    "item": Sums(*counts(BOUGHT, ALL), *CLICKED_PLACES, ("usual", WEEK), ("usual_n", WEEK)),
    "category": Sums(*counts(BOUGHT, ALL)),
    "shop": Sums(*counts(SEEN, SHORT_AND_LONG)),
    "user": Sums(
        *counts(SEEN, SHORT_AND_LONG),
        *CLICKED_PLACES,
        *counts(("any_price", "any_n"), (DAY,)),
        *counts(("click_price", "click_n"), (DAY, TEN_MINUTES)),
    ),
    "user_category": Sums(*counts(SEEN, SHORT_AND_LONG)),
    "position": Sums(*counts(SEEN, SHORT_AND_LONG)),
    "touched": Sums(*counts(SEEN, (WEEK,))),
}


class Counted(msgspec.Struct, array_like=True, gc=False):
    """A row of sums alone."""

    sums: list[float]


class Item(msgspec.Struct, array_like=True, gc=False):
    """An item: its sums, and its first and last log price (NaN before there is one)."""

    sums: list[float]
    first: float = math.nan
    last: float = math.nan


class User(msgspec.Struct, array_like=True, gc=False):
    """A user: sums, and the session. Times are ms; ``before``: steps of the sessions before."""

    sums: list[float]
    last: float = 0.0
    start: float = 0.0
    began: float = 0.0
    step: int = 0
    before: int = 0
    sessions: int = 0
    item: str = ""
    item_before: str = ""


class Touch(msgspec.Struct, array_like=True, gc=False):
    """What a user did with an item, of one kind of event.

    Its last time (ms), the user's step then, how often, and two sums that fade by the user's steps.
    """

    last: float = 0.0
    step: int = 0
    count: int = 0
    short: float = 0.0
    long: float = 0.0

    def add(self, now: float, step: int) -> None:
        """One more."""
        ago = max(step - self.step, 0)
        self.last, self.step, self.count = max(self.last, now), step, self.count + 1
        self.short = self.short * 2.0 ** (-ago / 4.0) + 1.0
        self.long = self.long * 2.0 ** (-ago / 20.0) + 1.0


class Pair(msgspec.Struct, array_like=True, gc=False):
    """A user and an item."""

    any: Touch
    click: Touch


class Shown(msgspec.Struct, array_like=True, gc=False):
    """What the join remembers of an impression. ``price``: log(1 + price), NaN where it has none."""

    time: float
    user: str
    item: str
    category: str
    shop: str
    position: int
    price: float
    touched: str
    actions: int = 0


#: The types of rows; the other tables have ``Counted`` ones.
_TYPES: dict[str, Any] = {"item": Item, "user": User, "pair": Pair}
_DECODERS = {name: msgspec.msgpack.Decoder(_TYPES.get(name, Counted)).decode for name in (*SUMS, *_TYPES)}
#: Tables that rows are kept in; those of everything are plain memory.
TABLES = tuple(name for name in (*SUMS, "pair") if name != "everything")


class Table(Protocol):
    """What is used of a Faust table of bytes."""

    def get(self, key: bytes) -> bytes | None: ...

    def __setitem__(self, key: bytes, value: bytes) -> None: ...


class Rows:
    """Rows on their way through one list or one event: each is read once, and written once at the end."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self._tables = tables
        self._rows: dict[tuple[str, str], Any] = {}
        self._changed: set[tuple[str, str]] = set()

    def get(self, table: str, key: str) -> Any:
        """The row; one that was never seen, or has no key, is empty."""
        place = table, key
        row = self._rows.get(place)
        if row is None:
            data = self._tables[table].get(key.encode()) if key else None
            row = self._rows[place] = _empty(table) if data is None else _DECODERS[table](data)
        return row

    def change(self, table: str, key: str) -> Any:
        """The row, which will be written; without a key it is not kept."""
        if key:
            self._changed.add((table, key))
        return self.get(table, key)

    def has(self, table: str, key: str) -> bool:
        """Whether the row is kept already, or will be."""
        place = table, key
        return bool(key) and (place in self._changed or self._tables[table].get(key.encode()) is not None)

    def write(self) -> None:
        """Write what has changed."""
        for table, key in self._changed:
            self._tables[table][key.encode()] = _pack(self._rows[table, key])


def _empty(table: str) -> Any:
    if table == "pair":
        return Pair(Touch(), Touch())
    return _TYPES.get(table, Counted)(SUMS[table].empty())
