"""Items and places, event by event: counts, prices, clicked places, lists, stock, crossings."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from features.hashing import cross, hash_numbers, hash_texts
from tests.unit.features.reference import (
    NAN,
    Event,
    Reference,
    World,
    low_bits,
    place_of,
    signed,
    text,
    zero,
)


class CountsReference(Reference):
    """Smoothed rates, volumes, velocities."""

    def begin(self) -> None:
        f = self.family
        chain = [f.keys, *([f.parent] if f.parent else []), ("everything",)]
        self.chain = list(dict.fromkeys(chain))
        names = [side for rate in f.rates for side in rate.split("/")] + [*f.volumes, *f.velocities]
        if any(name.endswith((".expected", ".examined")) for name in names):
            self.world.by_place("click")
        if f.begin:
            begun_by = tuple(kind for name in f.begin for kind in self.world.kinds(name))
            self.world.decayed(f.keys).begun_by = begun_by
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
            event.numbers |= by_place(self.world, "click", event, now)

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
        place = zero(event.number("position")) + 1.0

        def mean(columns: tuple[str, ...], towards: float, weight: float) -> float:
            sums = self.world.decayed(columns)
            return (sums.get(event, now, ("sum", f.clicks, f.half_life_s)) + weight * towards) / (
                sums.get(event, now, ("placed", f.clicks, f.half_life_s)) + weight
            )

        first = mean(("everything",), 4.0, 20.0)
        out = [
            signed((first if columns == ("everything",) else mean(columns, first, f.smoothing)) - place)
            for columns in f.by
        ]
        where, sums = place_of(event), self.world.places.get(f.clicks)
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
        parts = [hash_texts([f.name]), *(hash_texts([text(value)]) for value in values)]
        for name in f.numbers:
            x = columns[name][i] * f.bins if name in columns else event.number(name)
            if name not in columns and name != "position":
                x = 2.0 * math.log2(1.0 + x)
            found = np.iinfo(np.int64).min if math.isnan(x) else math.floor(x)
            parts.append(hash_numbers(np.array([found])))
        return float(low_bits(cross(parts))[0])


def by_place(world: World, clicks: str, event: Event, now: int) -> dict[str, float]:
    """Expected clicks and the share examined of an impression."""
    where, sums = place_of(event), world.places.get(clicks)
    if sums is None or not where:
        return {}
    of = [sums.get(event, now, ("clicks", p)) for p in range(1, 33)]
    shown = sums.get(event, now, ("shown", where))
    return {
        "expected": (of[where - 1] + 1.0) / (shown + 50.0),
        "examined": (sum(of[where - 1 :]) + 10.0) / (sum(of) + 10.0),
    }
