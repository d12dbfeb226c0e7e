"""The families once more, event by event: dictionaries and floats, ``get`` before ``update``.

Nothing here is taken from ``features/`` but declarations, names and hashes: formulas are written from the
docstrings. A world runs events in their order. When the first impression of a list comes, the whole list is
read (``derive`` key columns, then ``get``); then every event updates at its own time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from features.family import Family
from features.scope import Scope

NAN = math.nan


@dataclass(eq=False)
class Event:
    """``kind`` is "" where nothing asks for it; ``shown`` is an action's impression."""

    kind: str
    time: int
    keys: dict[str, Any]
    numbers: dict[str, float]
    request: int | None = None
    shown: Event | None = None

    def key(self, columns: Sequence[str]) -> tuple[Any, ...] | None:
        """The values of these columns, None where any is missing."""
        values = tuple(self._value(column) for column in columns)
        return None if None in values else values

    def number(self, name: str) -> float:
        """A number, NaN where it is unknown."""
        if name == "position" and self.shown is not None:
            return self.shown.numbers[name]
        return self.numbers.get(name, NAN)

    def _value(self, column: str) -> Any:
        if column == "everything":
            return 1
        if column == "hour":
            return self.time // 3_600_000 % 24
        return self.keys.get(column)


class Decayed:
    """Sums of one key: value as of the newest counted event of its row."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.columns = columns
        self.cells: dict[Any, tuple[tuple[str, ...], Callable[[Event], float], float]] = {}
        self.rows: dict[Any, tuple[float, dict[Any, float]]] = {}
        #: Kinds that begin a row; None: all that count.
        self.begun_by: tuple[str, ...] | None = None
        self.begun: set[Any] = set()

    def ask(self, name: Any, kinds: tuple[str, ...], weight: Callable[[Event], float], h: float) -> None:
        """Count ``kinds`` under this name."""
        self.cells[name] = (kinds, weight, h)

    def get(self, event: Event, now: float, name: Any) -> float:
        """The sum as of ``now``."""
        row = self.rows.get(event.key(self.columns))
        if row is None:
            return 0.0
        newest, sums = row
        return sums.get(name, 0.0) * 2.0 ** (-max(now - newest, 0.0) / 1000.0 / self.cells[name][2])

    def update(self, event: Event) -> None:
        """Count an event."""
        key = event.key(self.columns)
        if key is not None and self.begun_by is not None and event.kind in self.begun_by:
            self.begun.add(key)
        if key is None or not any(event.kind in kinds for kinds, _, _ in self.cells.values()):
            return
        if self.begun_by is not None and key not in self.begun:
            return
        newest, sums = self.rows.get(key, (event.time, {}))
        now = max(float(event.time), newest)
        for name, (kinds, weigh, h) in self.cells.items():
            old = sums.get(name, 0.0) * 2.0 ** (-(now - newest) / 1000.0 / h)
            weight = weigh(event) if event.kind in kinds else 0.0
            sums[name] = old + (0.0 if math.isnan(weight) else weight)
        self.rows[key] = (now, sums)


@dataclass
class User:
    """A user's session; ``items`` the last two different ones."""

    last: float = NAN
    start: float = 0.0
    began: float = 0.0
    step: int = 0
    before: int = 0
    sessions: int = 0
    kinds: list[str] = field(default_factory=list)
    items: list[Any] = field(default_factory=list)


class World:
    """All families of a plan on one stream."""

    def __init__(
        self, families: Sequence[Family], scope: Scope, references: Mapping[str, type[Reference]]
    ) -> None:
        self.scope = scope
        self.sums: dict[tuple[str, ...], Decayed] = {}
        self.places: dict[str, Decayed] = {}
        self.users: dict[Any, User] = {}
        self.prices: dict[Any, tuple[float, float]] = {}
        self.state = [references[_declared(family)](family, self) for family in families]
        self.features = {f.name: f for family in families for f in family.features(scope)}
        extras = [state.extras() for state in self.state]
        self.extras = [name for names in extras for name in names]
        self.names = [
            [*(f.name for f in family.features(scope)), *names]
            for family, names in zip(families, extras, strict=True)
        ]

    def run(self, events: Sequence[Event]) -> list[list[float]]:
        """Features of the impressions, in the order of the events."""
        read: dict[int, list[float]] = {}
        for event in events:
            if event.kind == "impression" and id(event) not in read:
                members = [e for e in events if e.request == event.request]
                for one, row in zip(members, self.read(members, event.time), strict=True):
                    read[id(one)] = row
            self.update(event)
        return [read[id(event)] for event in events if event.kind == "impression"]

    def read(self, members: list[Event], now: int) -> list[list[float]]:
        """The features of a list, bounded, in the order of its members."""
        shown = sorted(members, key=lambda e: zero(e.number("position")))
        for state in self.state:
            state.derive(shown, now)
        columns: dict[str, list[float]] = {}
        for state, names in sorted(
            zip(self.state, self.names, strict=True), key=lambda pair: pair[0].after_others
        ):
            rows = state.get(shown, now, columns)
            columns |= {name: [row[k] for row in rows] for k, name in enumerate(names)}
        found = {
            id(e): [
                *(_bounded(columns[name][i], f) for name, f in self.features.items()),
                *(columns[name][i] for name in self.extras),
            ]
            for i, e in enumerate(shown)
        }
        return [found[id(e)] for e in members]

    def update(self, event: Event) -> None:
        """Every sum, then every family, then the session and prices that they read."""
        if event.shown is not None:
            for column in self.scope.derived:
                event.keys[column] = event.shown.keys.get(column)
        for sums in self.sums.values():
            sums.update(event)
        for sums in self.places.values():
            if not math.isnan(event.number("position")):
                sums.update(event)
        for state in self.state:
            state.update(event)
        self._step(event)
        item, price = event.keys.get("item_id"), math.log1p(event.number("price"))
        if event.kind == "impression" and item is not None and not math.isnan(price):
            first, _ = self.prices.get(item, (price, price))
            self.prices[item] = (first, price)

    def by_place(self, clicks: str) -> None:
        """Count clicks and impressions of every place."""
        sums = self.places.setdefault(clicks, Decayed(("everything",)))
        for place in range(1, 33):
            for name, kind in (("clicks", clicks), ("shown", "impression")):
                sums.ask((name, place), (kind,), lambda e, p=place: float(place_of(e) == p), 86_400.0)

    def decayed(self, columns: tuple[str, ...]) -> Decayed:
        """The sums of a key."""
        return self.sums.setdefault(columns, Decayed(columns))

    def kinds(self, name: str) -> tuple[str, ...]:
        """The kinds that a name stands for."""
        return tuple(k for k in self.scope.kinds if k != "impression") if name == "any" else (name,)

    def user(self, event: Event) -> User:
        """A user's session, begun anew where it is not known."""
        return self.users.get(event.keys["user_id"], User())

    def price(self, event: Event) -> float:
        """Log price: the event's own, or its item's last."""
        own = math.log1p(event.number("price"))
        known = self.prices.get(event.keys.get("item_id"))
        if not math.isnan(own) or known is None:
            return own
        return known[1]

    def _step(self, event: Event) -> None:
        if event.kind in ("impression", ""):
            return
        user = self.users.setdefault(event.keys["user_id"], User())
        if user.sessions == 0 or event.time - user.last > self.scope.gap_s * 1000:
            user.start, user.before, user.step = event.time, user.before + user.step, 0
            user.began = user.began if user.sessions else event.time
            user.sessions, user.kinds = user.sessions + 1, []
        user.last = event.time if math.isnan(user.last) else max(user.last, event.time)
        user.step += 1
        user.kinds = [event.kind, *user.kinds][:3]
        item = event.keys.get("item_id")
        if item is not None and user.items[:1] != [item]:
            user.items = [item, *user.items][:2]


class Reference:
    """What every family may do; ``after_others`` where it reads their columns."""

    after_others = False

    def __init__(self, family: Any, world: World) -> None:
        self.family, self.world = family, world
        self.begin()

    def begin(self) -> None:
        """Ask for sums."""

    def extras(self) -> list[str]:
        """Names of what is no feature: sequences and crossings, as ``streams.extras`` has them."""
        return []

    def derive(self, shown: list[Event], now: int) -> None:
        """Put key columns into the impressions of a list (by place)."""

    def get(self, shown: list[Event], now: int, columns: dict[str, list[float]]) -> list[list[float]]:
        """One row an impression."""
        return [self.one(event, now) for event in shown]

    def one(self, event: Event, now: int) -> list[float]:
        """An impression's features, for families that look at no list."""
        raise NotImplementedError

    def update(self, event: Event) -> None:
        """Learn an event."""


def low_bits(keys: Any) -> Any:
    """As many bits as a float32 holds."""
    return (keys & np.uint64(0xFFFFFF)).astype(np.float32)


def zero(x: float) -> float:
    return 0.0 if math.isnan(x) else x


def signed(x: float) -> float:
    return math.copysign(math.log1p(abs(x)) / 3.0, x)


def log_seconds(elapsed_ms: float) -> float:
    return math.log1p(max(elapsed_ms, 0.0) / 1000.0) / 10.0


def _bounded(x: float, feature: Any) -> float:
    return float(feature.neutral) if math.isnan(x) else min(max(x, feature.low), feature.high)


def text(value: Any) -> str:
    return "" if value is None else str(value)


def place_of(event: Event) -> int:
    """From 1 to 32, 0 where it is unknown."""
    place = event.number("position")
    return 0 if math.isnan(place) else min(int(place) + 1, 32)


def _declared(family: Any) -> str:
    name: str = family.DECLARED
    return name
