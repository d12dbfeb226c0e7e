"""Failure: a worker computes other features than a pass that holds everything in memory, because rows left
memory, were read back, or the worker restarted. Required: bit for bit the same, batch by batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from features.events import Events
from features.families.counts import Counts
from features.families.recency import Recency
from features.families.session import Session
from features.hashing import hash_numbers
from features.plan import Plan
from features.rows import Rows
from features.scope import Scope, kinds_of
from state.feature_rows import FeatureRows
from state.store import Batch, Store

START, DAY = 1_700_000_000_000, 86_400_000


class InMemory(Rows):
    """A table that keeps everything."""

    def touch(self, slots: Any) -> None:
        """Nothing is written."""


def plan() -> Plan:
    scope = Scope(
        kinds=kinds_of(("click", "cart"), ()),
        actions=("click", "cart"),
        gap_s=600.0,
        smoothing=20.0,
        sale_starts_at=None,
    )
    families: list[tuple[str, Any]] = [
        ("a", Counts(keys=("item_id",), parent=("category_id",))),
        ("b", Counts(keys=("user_id",), volumes=("click",))),
        ("c", Recency()),
        ("d", Session()),
    ]
    return Plan(families, scope)


def events(random: np.random.Generator, at: int, size: int) -> Events:
    """A batch of about one second."""
    kinds = random.choice(np.array([0, 0, 0, 1, 2, 3], dtype=np.int16), size)
    lists = np.full(size, -1, dtype=np.int32)
    lists[kinds == 0] = np.arange(np.count_nonzero(kinds == 0))
    users, items = random.integers(0, 40, size), random.integers(0, 60, size)
    return Events(
        kinds=kinds,
        times=np.sort(at + random.integers(0, 1000, size)),
        keys={
            "user_id": hash_numbers(users),
            "item_id": hash_numbers(items),
            "category_id": hash_numbers(items % 7),
        },
        numbers={"position": np.zeros(size), "price": np.ones(size), "stock": np.ones(size)},
        lists=lists,
        origins=np.full(size, -1, dtype=np.int32),
    )


def test_features_are_the_same_whatever_leaves_memory_and_however_often_it_restarts(store: Store) -> None:
    ours, random = plan(), np.random.default_rng(3)
    whole = {name: InMemory(layout.width) for name, layout in ours.tables.items()}
    rows = FeatureRows(store, ours, 20, 100 * DAY)
    loaded = 0
    for second in range(30):
        at = START + second * 1000
        batch = events(random, at, 50)
        expected, _ = ours.observe(batch, whole)
        partitions = (batch.keys["user_id"] % np.uint64(4)).astype(np.int16)
        rows.begin(partitions, at)
        found, _ = ours.observe(batch, rows.tables)
        np.testing.assert_array_equal(found, expected)
        written = Batch()
        rows.write(written)
        store.commit(written)
        rows.drop_changed()
        loaded += rows.evict()
        if second % 7 == 6:
            rows = FeatureRows(store, ours, 20, 100 * DAY)
    assert loaded > 500
