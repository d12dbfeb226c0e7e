"""Fails when an action is lost, given out twice, or given out before it is due."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from replay.simulate.pending import ACTION_DTYPE, Pending, in_order


@given(
    batches=st.lists(st.lists(st.integers(0, 5_000), max_size=20), max_size=12),
    horizon=st.integers(1, 2_000),
)
def test_everything_comes_out_once_and_when_it_is_due(batches: list[list[int]], horizon: int) -> None:
    pending, got, serial, now = Pending(horizon), [], 0, 0
    for batch in batches:
        made = np.zeros(len(batch), dtype=ACTION_DTYPE)
        made["due"] = now + np.array(batch, dtype=np.int64)
        made["serial"] = np.arange(serial, serial + len(batch))
        serial += len(batch)
        pending.push(made)
        now += 700
        out = pending.pop(now)
        assert (out["due"] < now).all()
        got.append(out)
    got.append(pending.pop(10**9))
    serials = np.concatenate(got)["serial"]
    assert sorted(serials.tolist()) == list(range(serial))
    assert len(pending) == 0 and pending.largest <= serial


def test_ties_are_ordered_by_kind_and_then_by_impression() -> None:
    made = np.zeros(4, dtype=ACTION_DTYPE)
    made["due"], made["kind"], made["serial"] = [5, 5, 5, 4], [2, 1, 1, 5], [0, 9, 3, 7]
    assert in_order(made)["serial"].tolist() == [7, 3, 9, 0]


def test_what_is_due_at_the_end_of_a_block_belongs_to_the_next() -> None:
    pending, made = Pending(10), np.zeros(1, dtype=ACTION_DTYPE)
    made["due"] = 5
    pending.push(made)
    assert pending.pop(5).size == 0
    assert pending.pop(6).size == 1
