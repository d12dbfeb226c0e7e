"""Failure: an impression in memory is not found, or another one is taken for it. Mechanism: rows leave the
table in the order they came while others stay, and different ids may have the same hash. Required: exactly
the rows that are there, by their texts, compiled or not.

The reference is a list of ids.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.compiled import plain
from state.joins import recent
from state.joins.columns import Column, Shown
from state.joins.recent import Recent, repeats

STEPS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 12)), max_size=30)
NAMES = [f"i{n}" for n in range(300)]


def shown(ids: list[str]) -> Shown:
    n = len(ids)
    numbers = np.array([int(one[1:]) for one in ids], dtype=np.int64)
    return Shown(
        ids,
        numbers,
        numbers.astype(np.uint64).reshape(n, 1),
        numbers.astype(np.int32),
        numbers.astype(np.float64),
        numbers.astype(np.int16),
    )


def few(ids: list[str]) -> Any:
    """Hashes that many ids share, 0 among them."""
    return np.array([int(one[1:]) // 3 << 40 for one in ids], dtype=np.uint64)


@pytest.fixture(params=["compiled", "plain"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "plain":
        for name in ("_insert", "_find", "_repeats"):
            monkeypatch.setattr(recent, name, plain(getattr(recent, name)))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_exactly_the_rows_that_are_there_are_found(
    kernels: None, monkeypatch: pytest.MonkeyPatch, steps: list[tuple[int, int]]
) -> None:
    monkeypatch.setattr("state.joins.recent.SMALLEST_TABLE", 2)
    rows, base, names = Recent(1), 0, iter(NAMES)
    reference: list[str] = []
    for more, less in steps:
        new = [name for name, _ in zip(names, range(more), strict=False)]
        rows.append(shown(new), few(new))
        reference += new
        assert rows.find(NAMES, few(NAMES)).tolist() == [
            base + reference.index(name) if name in reference else -1 for name in NAMES
        ]
        less = min(less, len(reference))
        rows.drop(less)
        base, reference = base + less, reference[less:]
        assert (rows.base, len(rows)) == (base, len(reference))
        left = rows.rows(base, base + len(reference))
        assert left.ids == reference
        assert left.times.tolist() == left.keys[:, 0].tolist() == [int(one[1:]) for one in reference]


def test_equal_hashes_are_seen(kernels: None) -> None:
    assert not repeats(np.arange(100, dtype=np.uint64))
    assert repeats(np.array([5, 0, 7, 0], dtype=np.uint64))
    assert not repeats(np.empty(0, dtype=np.uint64))


def test_a_column_gives_the_room_of_its_peak_back() -> None:
    column = Column(np.int64)
    for begin in range(0, 10_000, 100):
        column.append(np.arange(begin, begin + 100))
    column.drop(9_995)
    assert column.values.tolist() == list(range(9_995, 10_000))
    assert column.values.base is None or column.values.base.nbytes < 1_000
