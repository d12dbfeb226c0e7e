"""What a worker does to a plan's rows, in memory: it counts events and publishes rows that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from features.columns import key_matrix
from features.events import Events
from features.hashing import Keys
from features.plan import Plan, partitioned
from features.row_bytes import pack
from features.rows import Rows, Slots, Values
from features.topic import OF_PARTITION, OF_WORKER, row_names, row_prefix
from serving.messages import Item, ScoreRequest

Record = tuple[bytes | None, bytes | None]
IMPRESSION, CLICK, PURCHASE = "impression", "click", "purchase"
SEARCH = "search"


class Event(NamedTuple):
    """One event; ``shown`` is what was shown, or what an action is about."""

    kind: str
    time: int
    user: str
    shown: Item
    context: Mapping[str, str] | None = None


def shown_list(request: ScoreRequest, at: int) -> list[Event]:
    """The impressions of a request's candidates."""
    return [Event(IMPRESSION, at, request.user_id, item, request.context) for item in request.items]


def columns_of(plan: Plan, events: Sequence[Event]) -> Events:
    """Events of one moment as columns; all impressions are one list."""
    n = len(events)
    items = [event.shown for event in events]
    texts: dict[str, Any] = {
        "user_id": lambda: [event.user for event in events],
        "item_id": lambda: [item.item_id for item in items],
        "category_id": lambda: [item.category_id for item in items],
        "shop_id": lambda: [item.shop_id for item in items],
    }
    contexts, places = [event.context for event in events], [item.position for item in items]
    matrix = key_matrix(plan.remembered, n, texts, contexts, places)
    kinds = np.array([plan.scope.number(event.kind) for event in events], dtype=np.int16)
    return Events(
        kinds=kinds,
        times=np.array([event.time for event in events], dtype=np.int64),
        keys={name: np.ascontiguousarray(matrix[:, k]) for k, name in enumerate(plan.remembered)},
        numbers={
            "price": np.array([item.price or np.nan for item in items]),
            "position": np.array(places, dtype=np.float64),
            "stock": np.array([np.nan if item.stock is None else item.stock for item in items]),
            "value": np.full(n, np.nan),
        },
        lists=np.where(kinds == 0, 0, -1).astype(np.int32),
        origins=np.full(n, -1, dtype=np.int32),
    )


class Worker:
    """A plan's tables of one worker; ``name`` stands in the keys of rows that every worker counts."""

    def __init__(self, plan: Plan, name: str = "0") -> None:
        self.plan = plan
        self.name = name
        self.tables = {table: _Table(layout.width) for table, layout in plan.tables.items()}

    def count(self, events: Sequence[Event]) -> npt.NDArray[np.float32]:
        """Features as of each impression; everything is counted."""
        return self.plan.observe(columns_of(self.plan, events), self.tables)[0]

    def look(self, request: ScoreRequest, at: int) -> npt.NDArray[np.float32]:
        """Features of a request's candidates; nothing is counted."""
        events = columns_of(self.plan, shown_list(request, at))
        return self.plan.observe(events, self.tables, update=False)[0]

    def records(self) -> list[Record]:
        """Rows that changed since the last call, as they stand in the topic."""
        found: list[Record] = []
        for table, own in self.tables.items():
            slots = np.array(sorted(own.changed), dtype=np.intp)
            own.changed.clear()
            found += self.packed(table, own.rows.keys[slots], own.rows.values[slots])
        return found

    def all_of(self, table: str) -> list[Record]:
        """Every row of a table as a record."""
        rows = self.tables[table].rows
        return self.packed(table, rows.keys[: len(rows)], rows.values[: len(rows)])

    def packed(self, table: str, keys: Keys, rows: Values) -> list[Record]:
        """Rows of a table as records."""
        values = pack(keys, rows, 0)
        if not partitioned(self.plan.tables[table]):
            return list(zip(row_names(row_prefix(OF_WORKER, self.name, table), keys), values, strict=True))
        return [
            (row_names(row_prefix(OF_PARTITION, int(key) % 4, table), keys[i : i + 1])[0], values[i])
            for i, key in enumerate(keys)
        ]


class _Table:
    """Rows that remember which of them changed."""

    def __init__(self, width: int) -> None:
        self.rows = Rows(width)
        self.changed: set[int] = set()

    @property
    def values(self) -> Values:
        return self.rows.values

    def locate(self, keys: Keys, begin: npt.NDArray[np.bool_]) -> Slots:
        return self.rows.locate(keys, begin)

    def touch(self, slots: Slots) -> None:
        self.changed.update(slots.tolist())
