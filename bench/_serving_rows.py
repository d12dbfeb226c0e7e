"""What both sides of the serving figure know: the rows of some hours of lists and clicks, and requests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from contracts.events import ACTIONS
from features.columns import key_matrix
from features.declared import plan_from
from features.events import Events
from features.hashing import Keys, cross, hash_numbers, hash_texts
from features.plan import Plan
from features.rows import Rows, Slots, Values

NOW = 1_700_000_000_000
#: Seconds between lists, items in a list, clicks after it.
LIST_S, SHOWN, CLICKS = 10, 200, 2
CANDIDATES = 1000
COLUMNS = ("user_id", "item_id", "category_id", "shop_id")


class Size(NamedTuple):
    """How much there is of everything."""

    items: int
    users: int
    lists: int


class Table:
    """Rows as ``Plan.observe`` wants them."""

    def __init__(self, width: int) -> None:
        self.rows = Rows(width)

    @property
    def values(self) -> Values:
        return self.rows.values

    def locate(self, keys: Keys, begin: npt.NDArray[np.bool_]) -> Slots:
        return self.rows.locate(keys, begin)

    def touch(self, slots: Slots) -> None:
        """Nothing is published here."""


class Night(NamedTuple):
    """``texts``: ids of every event, by column; ``tables``: what the plan's rows are after them."""

    plan: Plan
    texts: dict[str, list[str]]
    places: list[int]
    tables: dict[str, Table]

    def keys(self, columns: Sequence[str]) -> dict[tuple[str | int, ...], int]:
        """Every combination of these columns that occurred, with its key in the table."""
        if tuple(columns) == ("everything",):
            return {(): 1}
        values: list[Sequence[Any]] = [self.places if c == "position" else self.texts[c] for c in columns]
        found = list(dict.fromkeys(zip(*values, strict=True)))
        parts = [
            hash_numbers(np.array(part, dtype=np.int64)) if column == "position" else hash_texts(part)
            for column, part in zip(columns, zip(*found, strict=True), strict=True)
        ]
        return dict(zip(found, cross(parts).tolist(), strict=True))


def night(size: Size, features: dict[str, Any] | None = None) -> Night:
    """Lists of random items with clicks, counted by the plan of ``features`` (default: the engine's own)."""
    plan, random = plan_from(features or {}, ACTIONS), np.random.default_rng(7)
    each = SHOWN + CLICKS
    # Some items are shown far more often than others.
    items = (size.items * random.random((size.lists, SHOWN)) ** 2).astype(np.int64)
    clicked = random.integers(SHOWN, size=(size.lists, CLICKS))
    place = np.concatenate([np.tile(np.arange(SHOWN), (size.lists, 1)), clicked], axis=1).ravel()
    item = np.concatenate([items, np.take_along_axis(items, clicked, axis=1)], axis=1).ravel()
    user = np.repeat(np.arange(size.lists) % size.users, each)
    texts = {
        "user_id": [f"user-{u}" for u in user],
        "item_id": [f"item-{i}" for i in item],
        "category_id": [f"category-{i % 50}" for i in item],
        "shop_id": [f"shop-{i % 200}" for i in item],
    }
    offset = np.concatenate([np.zeros(SHOWN), 500 + 500 * np.arange(CLICKS)]).astype(np.int64)
    times = NOW - 1000 * LIST_S * np.arange(size.lists, 0, -1)[:, None] + offset
    shown = np.tile(offset == 0, size.lists)
    n, unknown = len(item), np.full(len(item), np.nan)
    columns = {name: partial(texts.__getitem__, name) for name in COLUMNS}
    matrix = key_matrix(plan.remembered, n, columns, [None] * n, place.tolist())
    lists = np.repeat(np.arange(size.lists, dtype=np.int32), each)
    tables = {name: Table(layout.width) for name, layout in plan.tables.items()}
    events = Events(
        kinds=np.where(shown, 0, plan.scope.number("click")).astype(np.int16),
        times=times.ravel(),
        keys={name: np.ascontiguousarray(matrix[:, k]) for k, name in enumerate(plan.remembered)},
        numbers={
            "price": 1.0 + item % 997,
            "position": place.astype(np.float64),
            "stock": unknown,
            "value": unknown,
        },
        lists=np.where(shown, lists, np.int32(-1)),
        origins=np.full(n, -1, dtype=np.int32),
    )
    plan.observe(events, tables)
    return Night(plan, texts, place.tolist(), tables)


def requests(size: Size, count: int) -> list[dict[str, Any]]:
    """Score requests of ``CANDIDATES`` items, as their JSON says."""
    random = np.random.default_rng(11)
    found = []
    for number in range(count):
        items = random.choice(size.items, CANDIDATES, replace=size.items < CANDIDATES).tolist()
        found.append(
            {
                "user_id": f"user-{number % size.users}",
                "event_time": NOW,
                "items": [
                    {
                        "item_id": f"item-{i}",
                        "category_id": f"category-{i % 50}",
                        "shop_id": f"shop-{i % 200}",
                        "position": place,
                        "price": 1.0 + i % 997,
                    }
                    for place, i in enumerate(items)
                ],
            }
        )
    return found
