"""Streams of events for the families' tests: drawn, told to the reference, cut into batches for a plan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from features.events import Events
from features.hashing import hash_texts
from features.passes import Pass
from features.plan import Plan
from features.rows import Rows, Slots
from tests.unit.features.reference import NAN, Event, low_bits

ACTIONS = ("click", "cart", "purchase")
BEHAVIOURS = ("view", "search")
START = 1_700_000_000_000
#: Most steps stay within a second or repeat the time; some end a session, or go back.
STEPS_MS = (0, 0, 1, 400, 400, 1000, 7000, 61_000, 1_900_000, 90_000_000, -3000, -100_000)
PRICES = (0.0, 2.5, 10.0, 40.0, NAN)
STOCKS = (100.0, 50.0, 7.0, 0.0, NAN)
NUMBERS = ("price", "position", "stock", "value")

_users = st.sampled_from("ab")
_items = st.sampled_from("wxyz")
_step = st.sampled_from(STEPS_MS)
_shown = st.tuples(*map(st.sampled_from, ("wxyz", PRICES, STOCKS, (0, 1, 2, 5, NAN))))
_list = st.tuples(st.just("list"), _step, _users, st.lists(_shown, min_size=1, max_size=4), st.booleans())
_action = st.tuples(st.just("action"), _step, st.integers(0, 50), st.sampled_from(ACTIONS), st.booleans())
_behaviour = st.tuples(
    st.just("behaviour"), _step, _users, st.none() | _items, st.sampled_from((*BEHAVIOURS, "other", ""))
)

#: What a stream is drawn from; ``events_of`` makes it. Actions follow what was shown before them.
drawn = st.lists(_list | _action | _behaviour, min_size=1, max_size=14)
#: The same without events that go back in time.
in_order = drawn.map(lambda parts: [(part[0], max(part[1], 0), *part[2:]) for part in parts])


def events_of(parts: Sequence[tuple[Any, ...]]) -> list[Event]:
    """Events of drawn parts; a list may be written piece by piece among those that follow it."""
    events: list[Event] = []
    waiting: list[Event] = []
    now = START
    for number, (what, step, *rest) in enumerate(parts):
        now += step
        if what == "list":
            user, items, spread = rest
            members = [_impression(number, now, user, *one) for one in items]
            events.append(members[0])
            if spread:
                waiting += members[1:]
            else:
                events += members[1:]
        elif what == "action":
            which, kind, known = rest
            shown = [event for event in events if event.kind == "impression"]
            impression = shown[which % len(shown)] if shown and known else None
            events.append(_action_of(impression, now, kind))
        else:
            user, item, kind = rest
            keys = {"user_id": user, "item_id": item, "query": "q" if kind == "search" else None}
            events.append(Event(kind, now, keys, {}))
        if waiting:
            events.append(waiting.pop(0))
            events[-1].time = now
    for event in waiting:
        event.time = now
    return events + waiting


def _impression(
    request: int, now: int, user: str, item: str, price: float, stock: float, position: float
) -> Event:
    keys = {
        "user_id": user,
        "item_id": item,
        "category_id": {"w": "c", "x": "c", "y": "d"}.get(item),
        "shop_id": "s",
        "position": None if math.isnan(position) else position,
        "context.device": "app" if user == "a" else None,
    }
    return Event("impression", now, keys, {"price": price, "stock": stock, "position": position}, request)


def _action_of(shown: Event | None, now: int, kind: str) -> Event:
    if shown is None:
        return Event(kind, now, {"user_id": "a"}, {})
    value = {"purchase": 12.5, "cart": 3.0}.get(kind, NAN)
    return Event(kind, now, dict(shown.keys), {"value": value}, shown=shown)


class MemoryTable:
    """A plan's table in memory."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """See ``features.plan.Table``, as for the following."""
        return self.rows.values

    def locate(self, keys: npt.NDArray[np.uint64], begin: npt.NDArray[np.bool_]) -> Slots:
        """Row numbers."""
        return self.rows.locate(keys, begin)

    def touch(self, slots: Slots) -> None:
        """Rows that change; none of them may be missing."""
        assert (slots >= 0).all()


class Worker:
    """A plan with its tables, and what a join remembers of impressions."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.tables = {name: MemoryTable(Rows(layout.width)) for name, layout in plan.tables.items()}
        self.shown: dict[int, dict[str, int]] = {}

    def restart(self) -> Worker:
        """Another worker with the same rows, in another order, as a disk gives them."""
        other = Worker(self.plan)
        other.shown = self.shown
        for name, table in self.tables.items():
            rows, copy = table.rows, other.tables[name].rows
            order = np.arange(rows.used)[::-1]
            slots = copy.locate(rows.keys[order], np.ones(rows.used, dtype=np.bool_))
            copy.values[slots] = rows.values[order]
        return other

    def observe(self, events: Sequence[Event], update: bool = True) -> npt.NDArray[np.float32]:
        """Features of one batch, (impressions, q)."""
        number = {id(event): k for k, event in enumerate(events)}
        lists: dict[Any, int] = {}
        for event in events:
            if event.request is not None:
                lists.setdefault(event.request, len(lists))
        columns = {
            column: hash_texts([_text(event.keys.get(column)) for event in events])
            for column in self.plan.columns
        }
        for column in self.plan.remembered:
            if column in self.plan.scope.derived:
                columns[column] = np.array(
                    [self.shown.get(id(event.shown), {}).get(column, 0) for event in events], dtype=np.uint64
                )
        batch = Events(
            kinds=np.array([self._kind(event.kind) for event in events], dtype=np.int16),
            times=np.array([event.time for event in events], dtype=np.int64),
            keys=columns,
            numbers={name: np.array([event.number(name) for event in events]) for name in NUMBERS},
            lists=np.array([lists.get(event.request, -1) for event in events], dtype=np.int32),
            origins=np.array([number.get(id(event.shown), -1) for event in events], dtype=np.int32),
        )
        features, seen = self.plan.observe(batch, self.tables, update)
        for event in events:
            if event.kind == "impression" and update:
                self.shown[id(event)] = {
                    c: int(seen.keys[c][number[id(event)]]) for c in self.plan.remembered
                }
        return np.column_stack([features, *extras(seen)])

    def run(self, batches: Sequence[Sequence[Event]]) -> npt.NDArray[np.float32]:
        """Features of several batches."""
        return np.concatenate([self.observe(batch) for batch in batches])

    def _kind(self, kind: str) -> int:
        if not kind:
            return -1
        kinds = self.plan.scope.kinds
        return kinds.index(kind) if kind in kinds else len(kinds) - 1


def extras(seen: Pass) -> list[npt.NDArray[np.float32]]:
    """Sequences and crossings as columns."""
    found = []
    for one in seen.sequences.values():
        found += [low_bits(one.items), low_bits(one.categories), low_bits(one.shops)]
        found += [one.kinds.astype(np.float32), one.ages.astype(np.float32)]
    return found + [low_bits(keys)[:, None] for keys in seen.crossings.values()]


def told(events: Sequence[Event], plan: Plan) -> list[Event]:
    """The same events for a reference: kinds that nothing names are ``other``."""
    kinds = plan.scope.kinds
    copies: dict[int, Event] = {}
    out = []
    for event in events:
        kind = event.kind if event.kind in (*kinds, "") else "other"
        shown = None if event.shown is None else copies[id(event.shown)]
        copy = Event(kind, event.time, dict(event.keys), dict(event.numbers), event.request, shown)
        copies[id(event)] = copy
        out.append(copy)
    return out


def pieces(events: Sequence[Event], most: int) -> list[list[Event]]:
    """Batches of ``most`` events, longer where a list is still open."""
    last = {event.request: k for k, event in enumerate(events) if event.request is not None}
    out: list[list[Event]] = [[]]
    open_until = -1
    for k, event in enumerate(events):
        if len(out[-1]) >= most and k > open_until:
            out.append([])
        out[-1].append(event)
        if event.request is not None:
            open_until = max(open_until, last[event.request])
    return out


def _text(value: Any) -> str:
    return "" if value is None else str(value)
