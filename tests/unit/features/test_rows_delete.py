"""Fails when a row cannot be found, or shows another key's numbers, after others were deleted.

Mechanism: keys that meet in the index (they share their lower bits) are begun and deleted in any order.
Required: what a dictionary says, whatever the order, also after the arrays were made anew.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.rows import NO_ROW, Rows

#: Keys of few places in an index of any size, so that they stand behind each other; some at its end.
keys = st.builds(
    lambda low, high: (high << 40) + low, st.sampled_from([1, 2, 3, 2**40 - 1]), st.integers(0, 12)
)
steps = st.lists(st.tuples(st.booleans(), st.lists(keys, max_size=8)), max_size=40)


@given(steps)
@settings(max_examples=200)
def test_what_is_left_is_what_a_dictionary_has(script: list[tuple[bool, list[int]]]) -> None:
    rows, expected, number = Rows(2), {}, 0.0
    for begin, some in script:
        wanted = np.array(some, dtype=np.uint64)
        if begin:
            slots = rows.locate(wanted, np.ones(len(wanted), dtype=np.bool_))
            for key, slot in zip(some, slots, strict=True):
                assert (rows.values[slot] == expected.get(key, 0.0)).all(), "a row begins with zeros"
                number += 1.0
                expected[key] = rows.values[slot] = number
        else:
            there = {key for key in some if expected.pop(key, None) is not None}
            assert rows.delete(wanted) == len(there)
        assert len(rows) == len(expected)
        assert set(rows.keys[: len(rows)].tolist()) == set(expected)
        assert not rows.keys[len(rows) :].any() and not rows.values[len(rows) :].any()
    found = rows.find(np.array(list(expected), dtype=np.uint64))
    assert (rows.values[found, 0] == list(expected.values())).all()
    assert rows.find(np.array([5, 0], dtype=np.uint64)).tolist() == [NO_ROW, NO_ROW]


@pytest.mark.ordinary_sizes
def test_a_table_that_others_pass_through_does_not_grow() -> None:
    """As many rows as there were at once, and no search gets longer: a place that was left is free again."""
    rows = Rows(1)
    for start in range(1, 50_000, 500):
        passing = np.arange(start, start + 500, dtype=np.uint64)
        rows.locate(passing, np.ones(500, dtype=np.bool_))
        assert rows.delete(passing) == 500
    assert len(rows) == 0 and len(rows.keys) == 1024
    assert (rows._index == NO_ROW).all()
