"""Fails when rows that several workers keep of a key do not merge to what one worker would have.

Mechanism: events of a key are split over workers, each with rows of its own; a worker that has no row of the
key has zeros. Required: the reads of the merged row are those of a row that saw all the events.
"""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.events import ACTIONS
from features.declared import plan_from
from features.events import Events
from features.hashing import hash_texts
from features.plan import SEEN, Plan
from features.rows import Rows, Slots, Values

NOW = 1_700_000_000_000
PLAN = plan_from(
    {
        "counts": [{"keys": ["item_id"], "half_lives_s": [1, 600, 1e9], "volumes": ["click"]}],
        "recency": [
            {"keys": ["item_id"], "of": ["click", "purchase"], "as": ["seconds", "first_seconds", "count"]}
        ],
    },
    ACTIONS,
)
TABLE = "item_id"
seen = st.tuples(
    st.sampled_from(["impression", "click", "purchase"]),
    st.integers(0, 3),
    st.integers(0, 10**7),
    st.sampled_from(["a", "b"]),
)


class Table:
    def __init__(self, width: int) -> None:
        self.rows = Rows(width)

    @property
    def values(self) -> Values:
        return self.rows.values

    def locate(self, keys: np.ndarray, begin: np.ndarray) -> Slots:
        return self.rows.locate(keys, begin)

    def touch(self, slots: Slots) -> None:
        """Nothing is published here."""


def observe(tables: dict[str, Table], events: list[tuple[str, int, int, str]], update: bool) -> np.ndarray:
    n = len(events)
    kinds = np.array([PLAN.scope.number(kind) for kind, *_ in events], dtype=np.int16)
    shown = kinds == 0
    batch = Events(
        kinds=kinds,
        times=np.array([NOW + at for _, _, at, _ in events]),
        keys={
            "item_id": hash_texts([item for *_, item in events]),
            "user_id": hash_texts([f"u{worker}" for _, worker, *_ in events]),
        },
        numbers={name: np.full(n, np.nan) for name in ("price", "position", "stock", "value")},
        lists=np.where(shown, np.cumsum(shown) - 1, -1).astype(np.int32),
        origins=np.full(n, -1, dtype=np.int32),
    )
    return PLAN.observe(batch, tables, update)[0]


def tables(plan: Plan) -> dict[str, Table]:
    return {name: Table(layout.width) for name, layout in plan.tables.items()}


@given(st.lists(seen, min_size=1, max_size=30))
@settings(max_examples=100)
def test_merged_rows_read_as_one_that_saw_everything(events: list[tuple[str, int, int, str]]) -> None:
    events = sorted(events, key=lambda event: event[2])
    whole, workers = tables(PLAN), [tables(PLAN) for _ in range(4)]
    for event in events:
        observe(whole, [event], update=True)
        observe(workers[event[1]], [event], update=True)
    merged = tables(PLAN)
    for table, all_rows in whole.items():
        own = all_rows.rows
        keys = own.keys[: len(own)]
        several = np.zeros((len(keys), 4, own.width))
        for k, worker in enumerate(workers):
            slots = worker[table].rows.find(keys)
            several[slots >= 0, k] = worker[table].values[slots[slots >= 0]]
        at = merged[table].rows.locate(keys, np.ones(len(keys), dtype=np.bool_))
        merged[table].values[at] = PLAN.merge(table, several)
        assert (merged[table].values[at, SEEN] == own.values[: len(own), SEEN]).all()
    later = [("impression", 0, events[-1][2] + 5_000, item) for item in ("a", "b")]
    np.testing.assert_allclose(
        observe(merged, later, update=False), observe(whole, later, update=False), rtol=1e-5, atol=1e-6
    )


@given(st.lists(seen, min_size=1, max_size=20))
@settings(max_examples=50)
def test_one_row_and_zeros_merge_to_that_row(events: list[tuple[str, int, int, str]]) -> None:
    one = tables(PLAN)
    for event in sorted(events, key=lambda event: event[2]):
        observe(one, [event], update=True)
    rows = one[TABLE].values[: len(one[TABLE].rows)]
    several = np.zeros((len(rows), 3, rows.shape[1]))
    several[:, 1] = rows
    assert (PLAN.merge(TABLE, several) == rows).all()
