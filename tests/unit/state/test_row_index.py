"""Failure: an impression that is remembered is not found, so that its duplicate counts and its action waits
for ever; or the index keeps the room of a peak. Mechanism: a run that is merged, cut or dropped loses a row
or takes another row's place; a filter that was built for few rows lacks one. Required: every row that was
added and is not forgotten is among the candidates of its hash, and no row twice.

The reference is a dictionary from hash to rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from state.row_index import HashArray, RowIndex, hashes_of

FEW_BITS = 4
#: A segment of so many rows, then so many rows that are forgotten.
STEPS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 16)), max_size=30)


def found(index: RowIndex, hashes: HashArray) -> dict[int, list[int]]:
    """Candidates by the index of what was looked up."""
    result: dict[int, list[int]] = {}
    for i, row in index.find(hashes):
        result.setdefault(i, []).append(row)
    return {i: sorted(rows) for i, rows in result.items()}


@pytest.fixture
def smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("state.row_index.FAN", 2)
    monkeypatch.setattr("state.row_index.MAX_RUN_ROWS", 10)
    monkeypatch.setattr("state.row_index.SMALLEST_FILTER", 7)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, seed=st.integers(0, 1000))
def test_any_history_finds_every_row_and_no_other(smallest: None, steps: list[Any], seed: int) -> None:
    random = np.random.default_rng(seed)
    # Few hashes, so that most belong to several rows.
    hashes = random.integers(0, 1 << FEW_BITS, 12 * len(steps)).astype(np.uint64) << np.uint64(64 - FEW_BITS)
    every = np.arange(1 << FEW_BITS, dtype=np.uint64) << np.uint64(64 - FEW_BITS)
    index, base, first = RowIndex(), 0, 0
    for rows, forgotten in steps:
        index.add(base, hashes[base : base + rows])
        base += rows
        first = min(first + forgotten, base)
        index.forget(first)
        expected: dict[int, list[int]] = {}
        for row in range(first, base):
            expected.setdefault(int(hashes[row] >> np.uint64(64 - FEW_BITS)), []).append(row)
        assert found(index, every) == expected
        assert len(index) <= 2 * (base - first) + 10


def test_hashes_that_differ_in_their_lower_bits_alone_are_told_apart_or_offered_together() -> None:
    """Bits that an entry has no room for: a candidate too many is allowed, one too few is not."""
    index = RowIndex()
    hashes = np.arange(1000, dtype=np.uint64)
    index.add(0, hashes)
    assert found(index, hashes[:1])[0] == list(range(1000))


@pytest.mark.ordinary_sizes
def test_ids_are_found_among_a_million_and_strangers_hardly_ever() -> None:
    index = RowIndex()
    for base in range(0, 1_000_000, 50_000):
        index.add(base, hashes_of([f"impression-{n}" for n in range(base, base + 50_000)]))
    numbers = list(range(0, 1_000_000, 997))
    rows = found(index, hashes_of([f"impression-{n}" for n in numbers]))
    assert all(number in rows[i] for i, number in enumerate(numbers))
    # 43 bits of a million hashes: a stranger is a candidate once in nine million times.
    assert len(index.find(hashes_of([f"stranger-{n}" for n in range(100_000)]))) <= 3


@pytest.mark.ordinary_sizes
@pytest.mark.parametrize("rows", [1_000, 30_000])
def test_a_row_takes_at_most_sixteen_bytes_and_gives_them_back(rows: int) -> None:
    index = RowIndex()
    empty = index.nbytes
    for base in range(0, 20 * rows, rows):
        index.add(base, hashes_of([f"i{n}" for n in range(base, base + rows)]))
        assert index.nbytes <= 16 * (base + rows) + empty
    for first in range(0, 20 * rows + 1, rows):
        index.forget(first)
        assert index.nbytes <= 40 * (20 * rows - first) + empty
    assert index.nbytes == empty


@pytest.mark.ordinary_sizes
def test_the_same_window_over_and_over_takes_no_more_room() -> None:
    index = RowIndex()
    most = 0
    for base in range(0, 2_000_000, 20_000):
        index.add(base, hashes_of([f"i{n}" for n in range(base, base + 20_000)]))
        index.forget(max(base - 80_000, 0))
        if base > 400_000:
            most = max(most, index.nbytes)
    # Half of the oldest run may be rows that are forgotten.
    assert most <= 2 * 13 * 100_000
