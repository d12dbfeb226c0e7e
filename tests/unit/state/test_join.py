"""Fails when an action and its impression miss each other because of their order, when a duplicate counts,
when a label closes at another time than its window's end, or when a restart changes anything of this.

The reference keeps one record an impression and looks at all of them every tick.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from state.join import CLICK, Closed, Join, JoinCounts, Joined
from state.segments import BLOCK_ROWS, Segment

from contracts.events import ACTIONS
from state.errors import StateFormatError
from state.row_index import HashArray, hashes_of
from state.store import Batch, Store

TICK, WINDOW, LIMIT = 1000, 3000, 6000
CART, FAVOURITE = (1 << ACTIONS.index(name) for name in ("cart", "favourite"))

Shown = tuple[str, int]
Done = tuple[str, int, int]


def new_join(store: Store, window: int = WINDOW, limit: int = LIMIT) -> Join:
    return Join(store, TICK, window, limit)


def checkpoint(join: Join, store: Store) -> None:
    batch = Batch()
    join.write(batch)
    store.commit(batch)


def restarted(join: Join, store: Store) -> Join:
    """What a new process has after the last checkpoint, which is now."""
    checkpoint(join, store)
    again = new_join(store)
    again.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(join.counts), type=JoinCounts))
    return again


def payload(ids: list[str]) -> tuple[Any, Any]:
    """One input and one prediction a row, by which a closed sample can be recognised."""
    numbers = np.array([[number_of(i)] for i in ids], dtype=np.float32)
    return numbers, numbers / 1000


def number_of(impression_id: str) -> float:
    return float(impression_id[1:])


def run(
    join: Join, tick: int, shown: Sequence[Shown] = (), done: Sequence[Done] = ()
) -> tuple[Closed | None, Joined]:
    """One tick as the engine runs it: close, add what is new, join."""
    closed = join.close(tick * TICK)
    fresh = join.new_rows([i for i, _ in shown])
    if fresh is not None:
        shown = [shown[i] for i in fresh]
    wanted = list(done)
    if shown:
        ids = [i for i, _ in shown]
        times = np.array([time for _, time in shown], dtype=np.int64)
        wanted += join.add(
            tick,
            ids,
            times,
            [f"u{i}" for i in ids],
            [f"x{i}" for i in ids],
            ["c"] * len(ids),
            ["0"] * len(ids),
        )
        join.attach_payload(*payload(ids))
    return closed, join.join(wanted, tick)


def labels(closed: Closed | None) -> dict[int, float]:
    """Closed samples as number -> label."""
    if closed is None:
        return {}
    assert len(closed.inputs) == len(closed.predictions) == len(closed.masks)
    return dict(zip(closed.inputs[:, 0].astype(int).tolist(), closed.labels.tolist(), strict=True))


# -- orders of arrival


def test_an_action_finds_its_impression_in_the_same_tick(store: Store) -> None:
    join = new_join(store)
    _, joined = run(join, 0, [("i1", 100), ("i2", 200)], [("i2", CLICK, 700)])
    assert joined == Joined([CLICK], [700], ["ui2"], ["xi2"], ["c"], ["0"])


def test_an_action_that_comes_first_waits_and_then_joins(store: Store) -> None:
    join = new_join(store)
    _, joined = run(join, 0, (), [("i1", CLICK, 700)])
    assert joined.bits == []
    assert join.counts.orphans_waiting == 1
    _, joined = run(join, 2, [("i1", 2100)])
    assert (joined.bits, joined.items) == ([CLICK], ["xi1"])
    assert (join.counts.orphans_waiting, join.counts.orphans_joined) == (0, 1)
    closed, _ = run(join, 6)
    assert labels(closed) == {1: 1.0}


def test_an_actions_time_is_never_before_its_impressions(store: Store) -> None:
    """Whether it waited for it or came with it: a skewed clock must not put a label into its own features."""
    join = new_join(store)
    run(join, 0, (), [("i1", CLICK, 900)])
    _, joined = run(join, 1, [("i1", 1500)], [("i1", CART, 1200)])
    assert joined.times == [1500, 1500]


def test_a_second_impression_of_the_same_id_is_dropped_within_a_tick_and_later(store: Store) -> None:
    join = new_join(store)
    assert join.new_rows(["i1", "i2"]) is None
    assert join.new_rows(["i1", "i2", "i1"]) == [0, 1]
    run(join, 0, [("i1", 100)])
    assert join.new_rows(["i3", "i1"]) == [0]
    assert join.counts.duplicate_impressions == 2
    assert len(join) == 1


def test_a_second_action_of_the_same_kind_is_dropped_and_another_kind_is_not(store: Store) -> None:
    join = new_join(store)
    _, joined = run(join, 0, [("i1", 0)], [("i1", CLICK, 1), ("i1", CLICK, 2), ("i1", CART, 3)])
    assert (joined.bits, joined.times) == ([CLICK, CART], [1, 3])
    _, joined = run(join, 1, (), [("i1", CART, 1003)])
    assert joined.bits == []
    assert (join.counts.actions, join.counts.duplicate_actions) == (2, 2)


def test_a_second_action_is_also_dropped_while_the_first_still_waits(store: Store) -> None:
    join = new_join(store)
    run(join, 0, (), [("i1", CLICK, 1), ("i1", CLICK, 2), ("i1", CART, 3)])
    assert (join.counts.orphans_waiting, join.counts.duplicate_actions) == (2, 1)
    _, joined = run(join, 1, [("i1", 0)])
    assert (joined.bits, joined.times) == ([CLICK, CART], [1, 3])


# -- windows


def test_samples_close_one_label_window_after_their_ticks_end(store: Store) -> None:
    join = new_join(store)
    run(join, 0, [("i1", 999)])
    run(join, 1, [("i2", 1000)], [("i1", CLICK, 1500)])
    assert join.next_close() == 1000 + WINDOW
    assert join.close(1000 + WINDOW - 1) is None
    assert labels(join.close(1000 + WINDOW)) == {1: 1.0}
    assert labels(join.close(2000 + WINDOW)) == {2: 0.0}
    assert join.next_close() is None
    assert (join.counts.samples, join.counts.positives) == (2, 1)


def test_what_closes_together_comes_in_the_order_it_was_shown(store: Store) -> None:
    join = new_join(store)
    run(join, 0, [("i3", 0), ("i1", 5)], [("i1", CART, 6)])
    run(join, 1, [("i2", 1000)], [("i2", CLICK, 1001)])
    closed = join.close(5000)
    assert closed is not None
    assert closed.inputs[:, 0].tolist() == [3, 1, 2]
    assert closed.labels.tolist() == [0.0, 0.0, 1.0]
    assert closed.masks.tolist() == [0, CART, CLICK]


def test_only_a_click_makes_a_positive(store: Store) -> None:
    join = new_join(store)
    run(join, 0, [("i1", 0)], [("i1", CART, 1), ("i1", FAVOURITE, 2)])
    assert labels(join.close(4000)) == {1: 0.0}


def test_after_its_label_an_impression_still_takes_actions_for_the_counts(store: Store) -> None:
    join = new_join(store)
    run(join, 0, [("i1", 0)])
    _, joined = run(join, 4, (), [("i1", CLICK, 4100)])
    assert joined.bits == [CLICK]
    assert (join.counts.actions_after_label, join.counts.positives) == (1, 0)
    _, joined = run(join, 5, (), [("i1", CLICK, 5100)])
    assert (joined.bits, join.counts.duplicate_actions) == ([], 1)


def test_an_impression_is_forgotten_one_join_limit_after_its_ticks_end(store: Store) -> None:
    join = new_join(store)
    run(join, 0, [("i1", 0)])
    join.close(1000 + LIMIT - 1)
    assert len(join) == 1
    join.close(1000 + LIMIT)
    assert len(join) == 0
    assert join.new_rows(["i1"]) is None
    _, joined = run(join, 7, (), [("i1", CLICK, 7000)])
    assert (joined.bits, join.counts.orphans_waiting) == ([], 1)


def test_an_orphan_waits_one_join_limit_from_the_tick_that_it_came_in(store: Store) -> None:
    """Not from its own time: a very late action still gets its wait."""
    join = new_join(store)
    run(join, 2, (), [("i1", CLICK, -50_000), ("i2", CLICK, 2500)])
    join.close(3000 + LIMIT - 1)
    assert join.counts.orphans_waiting == 2
    join.close(3000 + LIMIT)
    assert (join.counts.orphans_waiting, join.counts.orphans_expired) == (0, 2)
    _, joined = run(join, 9, [("i1", 9000)])
    assert joined.bits == []


def test_an_expired_orphan_takes_no_younger_one_of_the_same_impression_with_it(store: Store) -> None:
    join = new_join(store)
    run(join, 0, (), [("i1", CLICK, 0)])
    run(join, 3, (), [("i1", CART, 3000)])
    join.close(1000 + LIMIT)
    assert (join.counts.orphans_waiting, join.counts.orphans_expired) == (1, 1)
    _, joined = run(join, 7, [("i1", 7000)])
    assert joined.bits == [CART]


# -- an input that goes back in time


def test_the_last_close_is_that_of_the_newest_open_sample(store: Store) -> None:
    join = new_join(store)
    assert join.last_close() is None
    run(join, 0, [("i1", 0)])
    run(join, 2, [("i2", 2000)])
    assert (join.next_close(), join.last_close()) == (1000 + WINDOW, 3000 + WINDOW)
    join.close(1000 + WINDOW)
    assert join.last_close() == restarted(join, store).last_close() == 3000 + WINDOW
    join.close(3000 + WINDOW)
    assert join.last_close() is None


def test_after_forgetting_all_an_older_log_meets_nothing_of_the_newer_one(store: Store) -> None:
    """Failure: an old night that is replayed loses its impressions as duplicates of the live ones, or its
    clicks go to impressions that were shown hours after them. Mechanism: ids repeat between two plays of a
    log. Required: nothing is known any more, what waited counts as expired, and the totals go on."""
    join = new_join(store)
    run(join, 50, [("i1", 50_000), ("i2", 50_001)], [("i1", CLICK, 50_002), ("i8", CART, 50_003)])
    run(join, 51, (), [("i9", CLICK, 51_000), ("i9", CART, 51_000)])
    closing = join.last_close()
    assert closing is not None
    assert labels(join.close(closing)) == {1: 1.0, 2: 0.0}
    join.forget_all()
    assert (len(join), join.last_close(), join.next_close()) == (0, None, None)
    assert (join.counts.orphans_waiting, join.counts.orphans_expired) == (0, 3)
    closed, joined = run(join, 0, [("i1", 5), ("i9", 6)], [("i1", CLICK, 7), ("i2", CLICK, 8)])
    assert (closed, joined.bits, joined.times) == (None, [CLICK], [7])
    assert (join.counts.impressions, join.counts.duplicate_impressions) == (4, 0)
    assert labels(join.close(1000 + WINDOW)) == {1: 1.0, 9: 0.0}
    join.close(1000 + LIMIT)
    assert (len(join), join.counts.orphans_waiting, join.counts.orphans_expired) == (0, 0, 4)


@pytest.mark.parametrize("written", [True, False], ids=["written", "not written"])
def test_what_is_forgotten_is_gone_from_the_disk_with_the_next_checkpoint(
    store: Store, written: bool
) -> None:
    join = new_join(store)
    run(join, 50, [("i1", 50_000)], [("i1", CLICK, 50_002), ("i8", CART, 50_003)])
    if written:
        checkpoint(join, store)
    join.close(51_000 + WINDOW)
    join.forget_all()
    again = restarted(join, store)
    assert list(store.scan(b"")) == []
    for one in (join, again):
        run(one, 0, [("i1", 5)], [("i2", CLICK, 7)])
    assert list(again.state()) == list(join.state())


def test_open_samples_are_not_forgotten(store: Store) -> None:
    join = new_join(store)
    run(join, 0, [("i1", 0)])
    with pytest.raises(ValueError, match=f"open until {1000 + WINDOW}"):
        join.forget_all()
    assert labels(join.close(1000 + WINDOW)) == {1: 0.0}


# -- checkpoints


def test_a_restart_after_everything_is_forgotten_numbers_on(store: Store) -> None:
    """Fails when the next number is taken from the last segment that is left: there may be none."""
    join = new_join(store)
    run(join, 0, [("i1", 0), ("i2", 1)])
    join.close(1000 + LIMIT)
    again = restarted(join, store)
    for one in (join, again):
        run(one, 9, [("i3", 9000)])
    assert list(again.state()) == list(join.state())


def test_nothing_stays_on_disk_once_everything_is_forgotten(store: Store) -> None:
    join = new_join(store)
    run(join, 0, [("i1", 0)], [("i1", CLICK, 1), ("i9", CLICK, 1)])
    checkpoint(join, store)
    assert list(store.scan(b""))
    join.close(4000)
    checkpoint(join, store)
    join.close(1000 + LIMIT)
    checkpoint(join, store)
    assert list(store.scan(b"")) == []


def test_a_segment_that_closed_between_two_checkpoints_is_closed_after_a_restart(store: Store) -> None:
    join = new_join(store)
    run(join, 0, [("i1", 0)], [("i1", CLICK, 1)])
    join.close(4000)
    again = restarted(join, store)
    assert again.next_close() is None
    assert len(again) == 1
    assert again.counts.samples == 1


def test_what_a_checkpoint_does_not_hold_is_gone_after_a_restart(store: Store) -> None:
    join = new_join(store)
    run(join, 0, [("i1", 0)])
    checkpoint(join, store)
    before = list(join.state())
    counts = msgspec.msgpack.encode(join.counts)
    run(join, 1, [("i2", 1000)], [("i1", CLICK, 1), ("i9", CLICK, 1)])
    again = new_join(store)
    again.restore(msgspec.msgpack.decode(counts, type=JoinCounts))
    assert list(again.state()) == before


def test_segments_without_masks_are_refused(store: Store) -> None:
    join = new_join(store)
    run(join, 0, [("i1", 0)])
    checkpoint(join, store)
    batch = Batch()
    for key, _ in store.scan(b"seg/masks/"):
        batch.delete(key)
    store.commit(batch)
    with pytest.raises(StateFormatError, match=str(Path(store.path).name)):
        new_join(store).restore(JoinCounts())


# -- spilled to disk


def spilled(store: Store, rows: int, limit: int = LIMIT) -> Join:
    """A join whose ``rows`` impressions of tick 0 are closed and on disk."""
    join = new_join(store, limit=limit)
    run(join, 0, [(f"i{n}", n) for n in range(rows)])
    checkpoint(join, store)
    join.close(1000 + WINDOW)
    checkpoint(join, store)
    assert join.rows_in_memory == 0
    return join


def test_an_impression_leaves_memory_when_its_label_is_closed_and_it_is_on_disk(store: Store) -> None:
    """Failure: a worker's memory grows with the join limit, 500 bytes an impression. Required: only open
    impressions, and those that no checkpoint holds yet, are in memory; the others are found all the same."""
    join = new_join(store)
    run(join, 0, [("i1", 1), ("i2", 2)])
    join.close(1000 + WINDOW)
    assert (join.rows_in_memory, len(join)) == (2, 2)
    run(join, 4, [("i3", 4000)])
    checkpoint(join, store)
    join.close(5000)
    assert (join.rows_in_memory, len(join)) == (1, 3)
    _, joined = run(join, 5, [("i2", 5000)], [("i1", CART, 0), ("i1", CART, 9), ("i7", CLICK, 5001)])
    assert joined == Joined([CART], [1], ["ui1"], ["xi1"], ["c"], ["0"])
    counts = join.counts
    assert (counts.duplicate_impressions, counts.duplicate_actions, counts.actions_after_label) == (1, 1, 1)
    again = restarted(join, store)
    assert (again.rows_in_memory, len(again)) == (1, 3)
    _, joined = run(again, 6, (), [("i1", CART, 6000), ("i2", CLICK, 6000)])
    assert joined.items == ["xi2"]


@pytest.mark.ordinary_sizes
@pytest.mark.parametrize("rows", [BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1, 5 * BLOCK_ROWS])
def test_every_row_of_every_block_is_found_again(store: Store, rows: int) -> None:
    join = spilled(store, rows)
    before = list(join.state())
    for one in (join, restarted(join, store)):
        assert list(one.state()) == before
        assert one.new_rows([f"i{n}" for n in range(rows + 1)]) == [rows]
        _, joined = run(one, 4, (), [(f"i{n}", CLICK, 0) for n in range(rows)])
        assert joined.items == [f"xi{n}" for n in range(rows)]
        assert joined.times == list(range(rows))


@pytest.mark.ordinary_sizes
def test_a_block_that_is_gone_is_said_and_not_taken_for_an_unknown_impression(store: Store) -> None:
    join = spilled(store, 2)
    clear(store)
    with pytest.raises(StateFormatError, match="impression 0 of the join is gone"):
        join.join([("i1", CLICK, 0)], 4)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_a_segment_that_is_short_of_a_block_is_refused(store: Store, blocks: int) -> None:
    counts = spilled(store, blocks * BLOCK_ROWS).counts
    for gone in [key for key, _ in store.scan(b"seg/columns/")]:
        kept = dict(store.scan(b"seg/columns/"))
        batch = Batch()
        batch.delete(gone)
        store.commit(batch)
        with pytest.raises(StateFormatError, match="of the join"):
            new_join(store).restore(counts)
        batch = Batch()
        batch.put(gone, kept[gone])
        store.commit(batch)
    new_join(store).restore(counts)


def test_a_state_whose_segments_are_not_in_blocks_is_read(store: Store) -> None:
    """What the first version wrote: one row a segment, however long."""
    rows = 3 * BLOCK_ROWS
    join = spilled(store, rows)
    before = list(join.state())
    batch = Batch()
    for key, _ in store.scan(b"seg/columns/"):
        batch.delete(key)
    batch.put(b"seg/columns/" + bytes(8), before[0])
    assert len(msgspec.msgpack.decode(before[0], type=Segment)) == rows
    store.commit(batch)
    again = new_join(store)
    again.restore(join.counts)
    assert list(again.state()) == before
    assert again.new_rows([f"i{rows - 1}", f"i{rows}"]) == [1]
    again.close(1000 + LIMIT)
    checkpoint(again, store)
    assert list(store.scan(b"")) == []


# -- any history


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

    def tick(self, tick: int, shown: list[Shown], done: list[Done]) -> list[tuple[str, int, int]]:
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
            got = zip(joined.items, joined.bits, joined.times, strict=True)
            assert list(got) == [(f"x{i}", bit, time) for i, bit, time in expected]
            assert one.counts == reference.counts
            assert len(one) == len(reference.shown)
        if after == "checkpoint":
            checkpoint(join, store)
        elif after == "restart":
            join = restarted(join, store)
        assert list(join.state()) == list(steady.state())
    end = (tick + 1) * TICK + LIMIT
    expected_closed = reference.close(end)
    assert labels(steady.close(end)) == labels(join.close(end)) == expected_closed
    assert len(join) == 0
    checkpoint(join, store)
    assert list(store.scan(b"")) == []


def smallest(monkeypatch: pytest.MonkeyPatch, hash_bits: int) -> None:
    """Blocks, runs, filter and cache at their smallest, and hashes of so many bits."""

    def hashes(ids: Sequence[str]) -> HashArray:
        return hashes_of(ids) >> np.uint64(64 - hash_bits) << np.uint64(64 - hash_bits)

    for module in ("join", "segments"):
        monkeypatch.setattr(f"state.{module}.hashes_of", hashes)
    monkeypatch.setattr("state.segments.BLOCK_ROWS", 2)
    monkeypatch.setattr("state.row_index.FAN", 2)
    monkeypatch.setattr("state.row_index.SMALLEST_FILTER", 7)
    monkeypatch.setattr("state.spilled.CACHED_ROWS", 1)
    monkeypatch.setattr("state.spilled.BLOCKS_A_READ", 1)


def clear(store: Store) -> None:
    batch = Batch()
    for key, _ in store.scan(b""):
        batch.delete(key)
    store.commit(batch)


def test_many_segments_find_the_right_row(store: Store) -> None:
    """Rows are numbered across segments; a search that is off by one finds a neighbour's item."""
    join = new_join(store, window=1000, limit=1_000_000)
    numbers = count()
    ids = [[f"i{next(numbers)}" for _ in range(size)] for size in (1, 3, 1, 5, 2)]
    for tick, names in enumerate(ids):
        run(join, tick, [(name, tick * TICK) for name in names])
    flat = [name for names in ids for name in names]
    _, joined = run(join, 9, (), [(name, CLICK, 9000) for name in reversed(flat)])
    assert joined.items == [f"x{name}" for name in reversed(flat)]
