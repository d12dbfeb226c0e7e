"""Fails when any history of ticks, checkpoints and restarts gives another join than the rules, slowly.

The reference keeps one record an impression and looks at all of them every tick.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from state.joins.columns import JoinCounts
from state.joins.join import CLICK
from state.row_index import HashArray, hashes_of
from state.store import Store
from tests.unit.state.joins.ticks import (
    CART,
    LIMIT,
    TICK,
    WINDOW,
    Done,
    One,
    checkpoint,
    clear,
    closing,
    labels,
    listed,
    new_join,
    number_of,
    restarted,
    run,
)


class Reference:
    """The same rules, slowly."""

    def __init__(self) -> None:
        self.shown: dict[str, dict[str, Any]] = {}
        self.orphans: list[tuple[str, int, int, int]] = []
        self.counts = JoinCounts()

    def close(self, now: int) -> dict[int, float]:
        closed = {}
        for impression_id, one in self.shown.items():
            if one["open"] and one["end"] + WINDOW <= now:
                one["open"] = False
                closed[int(number_of(impression_id))] = float(CLICK in one["done"])
        self.counts.samples += len(closed)
        self.counts.positives += int(sum(closed.values()))
        self.shown = {i: one for i, one in self.shown.items() if one["end"] + LIMIT > now}
        kept = [orphan for orphan in self.orphans if orphan[3] > now]
        self.counts.orphans_expired += len(self.orphans) - len(kept)
        self.orphans = kept
        return closed

    def tick(self, tick: int, shown: list[One], done: list[Done]) -> list[tuple[str, int, int]]:
        """Actions that count: (impression id, bit, time)."""
        end = (tick + 1) * TICK
        wanted = list(done)
        for impression_id, time in shown:
            if impression_id in self.shown:
                self.counts.duplicate_impressions += 1
                continue
            self.shown[impression_id] = {"end": end, "time": time, "done": set(), "open": True}
            self.counts.impressions += 1
            waited = [(i, bit, at) for i, bit, at, _ in self.orphans if i == impression_id]
            self.orphans = [orphan for orphan in self.orphans if orphan[0] != impression_id]
            self.counts.orphans_joined += len(waited)
            wanted += waited
        counted = []
        for impression_id, bit, time in wanted:
            one = self.shown.get(impression_id)
            if one is None:
                if any(o[:2] == (impression_id, bit) for o in self.orphans):
                    self.counts.duplicate_actions += 1
                else:
                    self.orphans.append((impression_id, bit, time, end + LIMIT))
            elif bit in one["done"]:
                self.counts.duplicate_actions += 1
            else:
                one["done"].add(bit)
                self.counts.actions += 1
                self.counts.actions_after_label += not one["open"]
                counted.append((impression_id, bit, max(time, one["time"])))
        self.counts.orphans_waiting = len(self.orphans)
        return counted


IDS = st.sampled_from([f"i{n}" for n in range(6)])
BITS = st.sampled_from([CLICK, CART])
#: (ticks since the one before, shown, done, what comes then); times are offsets into the tick.
STEPS = st.lists(
    st.tuples(
        st.integers(1, 4),
        st.lists(st.tuples(IDS, st.integers(-500, 999)), max_size=4),
        st.lists(st.tuples(IDS, BITS, st.integers(-4000, 999)), max_size=4),
        st.sampled_from(["", "checkpoint", "restart"]),
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
@pytest.mark.parametrize("hash_bits", [64, 1])
def test_any_history_with_restarts_anywhere_equals_the_reference(
    store: Store, monkeypatch: pytest.MonkeyPatch, hash_bits: int, steps: list[Any]
) -> None:
    """Where every second id has the hash of another one, too: what was spilled is verified by its id."""
    smallest(monkeypatch, hash_bits)
    clear(store)
    reference, steady, join = Reference(), new_join(store), new_join(store)
    tick = 0
    for gap, shown_at, done_at, after in steps:
        tick += gap
        shown = [(i, tick * TICK + at) for i, at in shown_at]
        done = [(i, bit, tick * TICK + at) for i, bit, at in done_at]
        expected_closed = reference.close(tick * TICK)
        expected = reference.tick(tick, shown, done)
        for one in (steady, join):
            closed, joined = run(one, tick, shown, done)
            assert labels(closed) == expected_closed
            assert listed(joined) == expected
            assert one.counts == reference.counts
            assert len(one) == len(reference.shown)
        if after == "checkpoint":
            checkpoint(join, store)
        elif after == "restart":
            join = restarted(join, store)
        assert list(join.state()) == list(steady.state())
    end = (tick + 1) * TICK + LIMIT
    expected_closed = reference.close(end)
    assert labels(closing(steady, end)) == labels(closing(join, end)) == expected_closed
    assert len(join) == 0
    checkpoint(join, store)
    assert list(store.scan(b"")) == []


def smallest(monkeypatch: pytest.MonkeyPatch, hash_bits: int) -> None:
    """Blocks, runs, filter and cache at their smallest, and hashes of so many bits."""

    def hashes(ids: Sequence[str]) -> HashArray:
        return hashes_of(ids) >> np.uint64(64 - hash_bits) << np.uint64(64 - hash_bits)

    monkeypatch.setattr("state.joins.join.hashes_of", hashes)
    monkeypatch.setattr("state.joins.recent.SMALLEST_TABLE", 2)
    monkeypatch.setattr("state.joins.segments.BLOCK_ROWS", 2)
    monkeypatch.setattr("state.row_index.FAN", 2)
    monkeypatch.setattr("state.row_index.SMALLEST_FILTER", 7)
    monkeypatch.setattr("state.joins.spilled.CACHED_ROWS", 1)
    monkeypatch.setattr("state.joins.spilled.BLOCKS_A_READ", 1)
