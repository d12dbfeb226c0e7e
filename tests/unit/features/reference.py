"""The families once more, event by event: dictionaries and floats, ``get`` before ``update``.

Nothing here is taken from ``features/`` but declarations, names and hashes: formulas are written from the
docstrings. A world runs events in their order. When the first impression of a list comes, the whole list is
read (``derive`` key columns, then ``get``); then every event updates at its own time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from features.family import Family
from features.hashing import cross, hash_numbers, hash_texts
from features.scope import Scope

NAN = math.nan
Read = dict[int, list[float]]


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
        if key is None or not any(event.kind in kinds for kinds, _, _ in self.cells.values()):
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

    def __init__(self, families: Sequence[Family], scope: Scope) -> None:
        self.scope = scope
        self.sums: dict[tuple[str, ...], Decayed] = {}
        self.places: dict[str, Decayed] = {}
        self.users: dict[Any, User] = {}
        self.prices: dict[Any, tuple[float, float]] = {}
        self.state: list[Any] = [References[type(family).DECLARED](family, self) for family in families]  # type: ignore[attr-defined]
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
        shown = sorted(members, key=lambda e: _zero(e.number("position")))
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
                sums.ask((name, place), (kind,), lambda e, p=place: float(_place(e) == p), 86_400.0)

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


class CountsReference(Reference):
    """Smoothed rates, volumes, velocities."""

    def begin(self) -> None:
        f = self.family
        chain = [f.keys, *([f.parent] if f.parent else []), ("everything",)]
        self.chain = list(dict.fromkeys(chain))
        names = [side for rate in f.rates for side in rate.split("/")] + [*f.volumes, *f.velocities]
        if any(name.endswith((".expected", ".examined")) for name in names):
            self.world.by_place("click")
        for columns in self.chain:
            for name in names:
                for h in f.half_lives_s:
                    kind, _, weight = self._split(name)
                    self.world.decayed(columns).ask(
                        (name, h), self.world.kinds(kind), self._weigher(weight), h
                    )

    def one(self, event: Event, now: int) -> list[float]:
        f, own = self.family, self.world.decayed(self.family.keys)
        out = []
        for rate in f.rates:
            above, below = rate.split("/")
            for h in f.half_lives_s:
                found, base = self.base(below), 0.0
                for columns in reversed(self.chain):
                    sums = self.world.decayed(columns)
                    weight = self.weight(columns, below)
                    base = found
                    found = (sums.get(event, now, (above, h)) + weight * base) / (
                        sums.get(event, now, (below, h)) + weight
                    )
                out.append(math.log(found / base))
        for kind in f.volumes:
            out += [math.log1p(own.get(event, now, (kind, h))) / 5.0 for h in f.half_lives_s]
        for kind in f.velocities:
            speed = [own.get(event, now, (kind, h)) * math.log(2.0) / h + 1e-3 for h in f.half_lives_s]
            out += [math.log(a / b) for a, b in pairwise(speed)]
        return out

    def base(self, below: str) -> float:
        """What a rate is before anything was seen."""
        return 1.0 if below.endswith(".expected") else 0.02

    def weight(self, columns: tuple[str, ...], below: str) -> float:
        """What a parent is worth, in what stands below."""
        unit = 0.02 if below.endswith(".expected") else 1.0
        if columns == ("everything",):
            return 50.0 * unit
        smoothing: float | None = self.family.smoothing
        return unit * (self.world.scope.smoothing if smoothing is None else smoothing)

    def derive(self, shown: list[Event], now: int) -> None:
        for event in shown:
            event.numbers |= _by_place(self.world, "click", event, now)

    def _split(self, name: str) -> tuple[str, str, str]:
        return name.partition(".")

    def _weigher(self, weight: str) -> Callable[[Event], float]:
        if weight == "place":
            return lambda event: event.number("position") + 1.0
        return {
            "": lambda event: 1.0,
            "value": lambda event: event.number("value"),
            "expected": lambda event: event.numbers.get("expected", 0.02),
            "examined": lambda event: event.numbers.get("examined", 1.0),
        }[weight]


class RecencyReference(Reference):
    """When, how often, for how long."""

    def begin(self) -> None:
        self.rows: dict[Any, dict[str, list[tuple[int, int]]]] = {}
        self.dwell: dict[Any, tuple[float, float, int]] = {}

    def one(self, event: Event, now: int) -> list[float]:
        key, user, out = event.key(self.family.keys), self.world.user(event), []
        steps = user.before + user.step
        for of in self.family.of:
            seen = self.rows.get(key, {}).get(of, [])
            for what in self.family.take:
                if what == "seconds":
                    out.append(_log_seconds(now - max(t for t, _ in seen)) if seen else NAN)
                elif what == "first_seconds":
                    out.append(_log_seconds(now - seen[0][0]) if seen else NAN)
                elif what == "steps":
                    out.append(math.log1p(steps - seen[-1][1]) / 3.0 if seen else NAN)
                elif what == "count":
                    out.append(math.log1p(len(seen)))
                elif what == "faded":
                    out += [sum(2.0 ** (-(steps - s) / half) for _, s in seen) for half in (4.0, 20.0)]
        if "dwell" in self.family.take:
            total, longest, many = self.dwell.get(key, (0.0, 0.0, 0))
            out += [math.log1p(x) / 5.0 for x in (total, longest, total / max(many, 1))]
        return out

    def update(self, event: Event) -> None:
        if event.kind in ("impression", ""):
            return
        user = self.world.user(event)
        if self.family.keys == ("user_id", "item_id") and user.items:
            before = (event.keys["user_id"], user.items[0])
            if self.rows.get(before):
                dwell = min(max(event.time - user.last, 0.0) / 1000.0, 600.0)
                total, longest, many = self.dwell.get(before, (0.0, 0.0, 0))
                self.dwell[before] = (total + dwell, max(longest, dwell), many + 1)
        key = event.key(self.family.keys)
        if key is None:
            return
        for of in self.family.of:
            if event.kind in self.world.kinds(of):
                seen = self.rows.setdefault(key, {}).setdefault(of, [])
                seen.append((event.time, user.before + user.step))


class SessionReference(Reference):
    """Where the user is."""

    def derive(self, shown: list[Event], now: int) -> None:
        for event in shown:
            kinds = self._kinds(event, now)
            event.keys |= {"last_kind": kinds[0], "last_kinds": (kinds[0], kinds[1])}

    def one(self, event: Event, now: int) -> list[float]:
        user = self.world.user(event)
        known, fresh = user.sessions > 0, self._fresh(user, now)
        step = 0 if fresh else user.step
        since = 0.0 if fresh else max(now - user.start, 0.0)
        return [
            math.log1p(step) / 3.0,
            _log_seconds(now - user.last) if known else NAN,
            _log_seconds(since),
            _log_seconds(now - user.began) if known else 0.0,
            math.log1p(user.sessions) / 5.0,
            math.log1p(user.before + user.step) / 5.0,
            math.log1p(since / 1000.0 / max(step, 1)) / 5.0,
        ]

    def _fresh(self, user: User, now: int) -> bool:
        return user.sessions == 0 or now - user.last > self.world.scope.gap_s * 1000

    def _kinds(self, event: Event, now: int) -> list[str]:
        user = self.world.user(event)
        return [*([] if self._fresh(user, now) else user.kinds), "none", "none"]


class TouchedReference(Reference):
    """Touched items of the list, and where they stand."""

    def begin(self) -> None:
        #: Of (user, item): touches, time of the last, the user's step then, time of the last click.
        self.rows: dict[Any, tuple[int, float, int, float]] = {}

    def derive(self, shown: list[Event], now: int) -> None:
        for event, row, (count, last, _, _) in zip(
            shown, self._rows(shown), map(self._touch, shown), strict=True
        ):
            offset = row["offset"]
            rank = round(1.0 / max(row["recency_rank"], 0.05)) if count else 21
            place = int(min(_zero(event.number("position")), 25))
            event.keys |= {
                "touch_offset": offset,
                "touch_age": math.floor(math.log2(1.0 + max(now - last, 0.0) / 1000.0)) if count else 40,
                "touches": min(count, 4),
                "touch_rank": rank,
                "touched": (100 + place if offset == 99 else offset, min(rank, 4)),
            }

    def get(self, shown: list[Event], now: int, columns: dict[str, list[float]]) -> list[list[float]]:
        return [[row[name] for name in row if name != "offset"] for row in self._rows(shown)]

    def update(self, event: Event) -> None:
        key = event.key(("user_id", "item_id"))
        if event.kind in ("impression", "") or key is None:
            return
        user = self.world.user(event)
        count, last, _, clicked = self.rows.get(key, (0, 0.0, 0, 0.0))
        if event.kind == self.family.clicks:
            clicked = max(clicked, float(event.time))
        self.rows[key] = (count + 1, max(last, float(event.time)), user.before + user.step, clicked)

    def _touch(self, event: Event) -> tuple[int, float, int, float]:
        return self.rows.get(event.key(("user_id", "item_id")), (0, 0.0, 0, 0.0))

    def _rows(self, shown: list[Event]) -> list[dict[str, Any]]:
        touch = [self._touch(event) for event in shown]
        place = [_zero(event.number("position")) for event in shown]
        touched = [i for i, (count, *_) in enumerate(touch) if count]
        # The newest first; what is equal keeps the order of places.
        newest = sorted(touched, key=lambda i: (-touch[i][1], -touch[i][2]))
        clicked = sorted((i for i in touched if touch[i][3] > 0), key=lambda i: -touch[i][3])
        items = self.world.user(shown[0]).items
        out: list[dict[str, Any]] = []
        for i, event in enumerate(shown):
            user_items = [*self.world.user(event).items, None, None]
            count, last, step, _ = touch[i]
            item = event.keys.get("item_id")

            def away(j: int | None, r: float = place[i]) -> float:
                return NAN if j is None else _signed(r - place[j])

            newer = sum((touch[j][1], touch[j][2]) > (last, step) for j in touched)
            more = sum(touch[j][0] > count for j in touched)
            offset = 99
            following = NAN
            if newest:
                offset = int(min(max(place[i] - place[newest[0]], -12), 12))
            if len(newest) > 1:
                following = _signed(place[i] - (2 * place[newest[0]] - place[newest[1]]))
            out.append(
                {
                    "is_touched": float(count > 0),
                    "is_last": float(item is not None and item == user_items[0]),
                    "is_before_last": float(item is not None and item == user_items[1]),
                    "recency_rank": 1.0 / (newer + 1) if count else 0.0,
                    "count_rank": 1.0 / (more + 1) if count else 0.0,
                    "in_list": math.log1p(len(touched)),
                    "above": math.log1p(sum(j < i for j in touched)),
                    "to_last": away(newest[0] if newest else None),
                    "to_clicked": away(clicked[0] if clicked else None),
                    "to_highest": away(touched[0] if touched else None),
                    "to_lowest": away(touched[-1] if touched else None),
                    "to_next": following,
                    "offset": offset,
                }
            )
        assert items is not None
        return out


class PriceReference(Reference):
    """The price beside what it was and what this user pays."""

    def begin(self) -> None:
        f, world = self.family, self.world
        self.cells = [
            (("item_id",), "impression", f.usual_half_life_s),
            (("user_id",), "any", f.half_life_s),
            (("user_id",), f.clicks, f.half_life_s),
            (("user_id",), f.clicks, f.short_half_life_s),
        ]
        #: Log prices of impressions, as of their lists.
        self.shown: dict[int, float] = {}
        for columns, kind, h in self.cells:
            sums = world.decayed(columns)
            sums.ask(("price", kind, h), world.kinds(kind), self._weigh, h)
            sums.ask(("priced", kind, h), world.kinds(kind), lambda e: self._weigh(e) * 0.0 + 1.0, h)

    def derive(self, shown: list[Event], now: int) -> None:
        for event in shown:
            own = self.shown[id(event)] = self.world.price(event)
            event.keys["price_band"] = -1 if math.isnan(own) else math.floor(own / math.log(2.0) * 2.0)

    def one(self, event: Event, now: int) -> list[float]:
        own = self.shown[id(event)]
        first = self.world.prices.get(event.keys.get("item_id"), (NAN, NAN))[0]
        out = [own / 10.0, own - first]
        for columns, kind, h in self.cells:
            sums = self.world.decayed(columns)
            number = sums.get(event, now, ("priced", kind, h))
            out.append(own - sums.get(event, now, ("price", kind, h)) / number if number >= 1e-3 else NAN)
        return out

    def _weigh(self, event: Event) -> float:
        return self.shown[id(event)] if event.kind == "impression" else self.world.price(event)


class PlaceReference(Reference):
    """Where clicks fall."""

    def begin(self) -> None:
        f, world = self.family, self.world
        if f.take:
            world.by_place(f.clicks)
        for columns in (("everything",), *f.by):
            sums = world.decayed(columns)
            for what, scale in (("sum", 1.0), ("placed", 0.0)):
                name = (what, f.clicks, f.half_life_s)
                sums.ask(name, (f.clicks,), lambda e, s=scale: e.number("position") * s + 1.0, f.half_life_s)

    def one(self, event: Event, now: int) -> list[float]:
        f = self.family
        place = _zero(event.number("position")) + 1.0

        def mean(columns: tuple[str, ...], towards: float, weight: float) -> float:
            sums = self.world.decayed(columns)
            return (sums.get(event, now, ("sum", f.clicks, f.half_life_s)) + weight * towards) / (
                sums.get(event, now, ("placed", f.clicks, f.half_life_s)) + weight
            )

        first = mean(("everything",), 4.0, 20.0)
        out = [
            _signed((first if columns == ("everything",) else mean(columns, first, f.smoothing)) - place)
            for columns in f.by
        ]
        where, sums = _place(event), self.world.places.get(f.clicks)
        for what in f.take:
            assert sums is not None
            if what == "share" and where:
                total = sum(sums.get(event, now, ("clicks", p)) for p in range(1, 33))
                out.append(math.log((sums.get(event, now, ("clicks", where)) + 1.0) / (total / 32 + 1.0)))
            elif where:
                near = [(where, 0.5), (max(where - 1, 1), 0.25), (min(where + 1, 32), 0.25)]
                clicks = sum(w * sums.get(event, now, ("clicks", p)) for p, w in near)
                shown = sum(w * sums.get(event, now, ("shown", p)) for p, w in near)
                out.append(math.log((clicks / 0.02 + 50.0) / (shown + 50.0)))
            else:
                out.append(0.0)
        return out


class ListReference(Reference):
    """A number beside those of its list."""

    after_others = True

    def get(self, shown: list[Event], now: int, columns: dict[str, list[float]]) -> list[list[float]]:
        values = [event.number(self.family.of) for event in shown]
        if self.family.of in columns:
            values = [math.expm1(x) for x in columns[self.family.of]]
        known = [x for x in values if not math.isnan(x)]
        out = []
        for i, x in enumerate(values):
            row = dict.fromkeys(("rank", "log_over_mean", "log_over_least", "gap_above", "gap_below"), NAN)
            row["size"] = math.log(1.0 + len(values)) / 5.0
            if not math.isnan(x):
                row["rank"] = (sum(y < x for y in known) + 0.5 * sum(y == x for y in known)) / len(known)
                row["log_over_mean"] = math.log((1.0 + x) / (1.0 + sum(known) / len(known)))
                row["log_over_least"] = math.log((1.0 + x) / (1.0 + min(known)))
                if i > 0:
                    row["gap_above"] = math.log((1.0 + x) / (1.0 + values[i - 1]))
                if i + 1 < len(values):
                    row["gap_below"] = math.log((1.0 + x) / (1.0 + values[i + 1]))
            out.append([row[what] for what in self.family.take])
        return out


class StockReference(Reference):
    """What is left."""

    def begin(self) -> None:
        f, self.rows = self.family, {}  # type: ignore[var-annotated]
        for columns, kind in (
            (("item_id",), "impression"),
            (("item_id",), f.sales),
            (("category_id",), "impression"),
        ):
            self.world.decayed(columns).ask((kind, f.half_life_s), (kind,), lambda e: 1.0, f.half_life_s)

    def one(self, event: Event, now: int) -> list[float]:
        f, world, own = self.family, self.world, event.number("stock")
        most, left = self.rows.get(event.keys.get("item_id"), (NAN, NAN))
        if not math.isnan(own):
            most, left = own if math.isnan(most) else max(most, own), own
        known = not math.isnan(left)
        h = f.half_life_s
        speed = world.decayed(("item_id",)).get(event, now, (f.sales, h)) * math.log(2.0) / h
        seen = world.decayed(("item_id",)).get(event, now, ("impression", h))
        all_seen = world.decayed(("category_id",)).get(event, now, ("impression", h))
        out = [
            1.0 - left / most if known and most > 0 else NAN,
            math.log1p(1000.0 * speed) / 5.0,
            math.log1p(left / (speed + 1e-6)) / 10.0 if known else NAN,
            float(known and 0 < left <= f.few),
            float(known and left <= 0),
            math.log((seen + 1.0) / (all_seen + 1.0)) if event.keys.get("category_id") else NAN,
        ]
        if world.scope.sale_starts_at is not None:
            seconds = (now - world.scope.sale_starts_at) / 1000.0
            out.append(math.copysign(math.log1p(abs(seconds)) / 10.0, seconds))
        return out

    def update(self, event: Event) -> None:
        item, own = event.keys.get("item_id"), event.number("stock")
        if event.kind == "impression" and item is not None and not math.isnan(own):
            self.rows[item] = (max(self.rows.get(item, (own, own))[0], own), own)


class HabitReference(Reference):
    """New or known, mine or another's."""

    def begin(self) -> None:
        self.events: dict[Any, list[Any]] = {}
        self.last: dict[Any, tuple[float, Any]] = {}

    def one(self, event: Event, now: int) -> list[float]:
        user, item = event.keys["user_id"], event.keys.get("item_id")
        done = self.events.get(user, [])
        likely = (len(set(done)) + 1.0) / (len(done) + 2.0)
        who = self.last[item][1] if item in self.last else None
        return [
            1.0 - likely if item in done else likely,
            math.log1p(len(set(done))) / 5.0,
            float(who is not None and who == user),
            float(who is not None and who != user),
        ]

    def update(self, event: Event) -> None:
        user, item = event.keys["user_id"], event.keys.get("item_id")
        if event.kind in ("impression", "") or item is None:
            return
        self.events.setdefault(user, []).append(item)
        if item not in self.last or event.time >= self.last[item][0]:
            self.last[item] = (float(event.time), user)


class PreviousReference(Reference):
    """Beside the list before."""

    def begin(self) -> None:
        self.lists: dict[Any, tuple[int, list[Any]]] = {}
        self.written: set[Any] = set()

    def get(self, shown: list[Event], now: int, columns: dict[str, list[float]]) -> list[list[float]]:
        self.now_shown = [event.keys.get("item_id") for event in shown][: self.family.keep]
        before = self.lists.get(shown[0].keys["user_id"])
        if before is None:
            return [[NAN] * 3 for _ in shown]
        there = [float(event.keys.get("item_id") in before[1]) for event in shown]
        return [[x, sum(there) / len(there), _log_seconds(now - before[0])] for x in there]

    def update(self, event: Event) -> None:
        if event.kind == "impression" and event.request not in self.written:
            self.written.add(event.request)
            self.lists[event.keys["user_id"]] = (event.time, self.now_shown)


class SequenceReference(Reference):
    """The last events of a key."""

    def begin(self) -> None:
        self.rows: dict[Any, list[Event]] = {}

    def extras(self) -> list[str]:
        what = ("items", "categories", "shops", "kinds", "ages")
        return [f"{self.family.key}.{one}.{k}" for one in what for k in range(self.family.keep)]

    def one(self, event: Event, now: int) -> list[float]:
        last = self.rows.get(event.keys.get(self.family.key), [])[::-1][: self.family.keep]
        out: list[float] = []
        for column in ("item_id", "category_id", "shop_id"):
            out += self._filled([low_bits(hash_texts([_text(e.keys.get(column))]))[0] for e in last])
        out += self._filled([self.world.scope.kinds.index(e.kind) for e in last])
        seconds = [max(now - e.time, 0) / 1000.0 for e in last]
        return out + self._filled([1.0 + math.floor(2.0 * math.log2(1.0 + s)) for s in seconds])

    def update(self, event: Event) -> None:
        key = event.keys.get(self.family.key)
        if event.kind not in ("impression", "") and key is not None:
            self.rows.setdefault(key, []).append(event)

    def _filled(self, values: list[Any]) -> list[float]:
        return [float(x) for x in values] + [0.0] * (self.family.keep - len(values))


class CrossingReference(Reference):
    """One key of several columns."""

    after_others = True

    def extras(self) -> list[str]:
        return [self.family.name]

    def get(self, shown: list[Event], now: int, columns: dict[str, list[float]]) -> list[list[float]]:
        return [[self._cross(event, i, columns)] for i, event in enumerate(shown)]

    def _cross(self, event: Event, i: int, columns: dict[str, list[float]]) -> float:
        f = self.family
        values = event.key(f.keys)
        if values is None:
            return 0.0
        parts = [hash_texts([f.name]), *(hash_texts([_text(value)]) for value in values)]
        for name in f.numbers:
            x = columns[name][i] * f.bins if name in columns else event.number(name)
            if name not in columns and name != "position":
                x = 2.0 * math.log2(1.0 + x)
            found = np.iinfo(np.int64).min if math.isnan(x) else math.floor(x)
            parts.append(hash_numbers(np.array([found])))
        return float(low_bits(cross(parts))[0])


def low_bits(keys: Any) -> Any:
    """As many bits as a float32 holds."""
    return (keys & np.uint64(0xFFFFFF)).astype(np.float32)


#: By the family's name in TOML.
References: dict[str, type[Reference]] = {
    "counts": CountsReference,
    "recency": RecencyReference,
    "session": SessionReference,
    "touched": TouchedReference,
    "price": PriceReference,
    "place": PlaceReference,
    "list": ListReference,
    "stock": StockReference,
    "habit": HabitReference,
    "previous": PreviousReference,
    "sequence": SequenceReference,
    "crossing": CrossingReference,
}


def _zero(x: float) -> float:
    return 0.0 if math.isnan(x) else x


def _signed(x: float) -> float:
    return math.copysign(math.log1p(abs(x)) / 3.0, x)


def _log_seconds(elapsed_ms: float) -> float:
    return math.log1p(max(elapsed_ms, 0.0) / 1000.0) / 10.0


def _bounded(x: float, feature: Any) -> float:
    return float(feature.neutral) if math.isnan(x) else min(max(x, feature.low), feature.high)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _place(event: Event) -> int:
    """From 1 to 32, 0 where it is unknown."""
    place = event.number("position")
    return 0 if math.isnan(place) else min(int(place) + 1, 32)


def _by_place(world: World, clicks: str, event: Event, now: int) -> dict[str, float]:
    """Expected clicks and the share examined of an impression."""
    where, sums = _place(event), world.places.get(clicks)
    if sums is None or not where:
        return {}
    of = [sums.get(event, now, ("clicks", p)) for p in range(1, 33)]
    shown = sums.get(event, now, ("shown", where))
    return {
        "expected": (of[where - 1] + 1.0) / (shown + 50.0),
        "examined": (sum(of[where - 1 :]) + 10.0) / (sum(of) + 10.0),
    }
