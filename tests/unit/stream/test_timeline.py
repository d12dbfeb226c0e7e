"""Fails when an offset is handed out twice or never because of where a worker was killed, when an event
becomes late because a restart read it a second time, or when the watermark passes what is still to come.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.lane import NEVER, Position
from stream.timeline import Source, Timeline
from tests.unit.stream.some_columns import LAYOUTS, named, names

A, B = Source(0, 0), Source(0, 1)
ACTIONS = Source(1, 0)
LATENESS, IDLE = 1000, 2.0
HORIZON, TICK = 60_000, 1000
#: A wall clock that is behind no event.
CLOCK = 2**60
#: When everything that is open has closed: far off.
LATER = 10**12


def begin(end: int = 0) -> Position:
    return Position(end=end, open_ranges=[], newest=NEVER, promised=NEVER)


def timeline(*sources: Source) -> Timeline:
    one = Timeline(LATENESS, IDLE, LAYOUTS, HORIZON, TICK)
    for source in sources or (A,):
        one.assign(source, begin(), 0.0)
    return one


def put(
    one: Timeline, source: Source, times: list[int], first: int = 0, now: float = 0.0, end: int | None = None
) -> None:
    """Events named ``<kind>.<partition>.<offset>`` at offsets from ``first``."""
    offsets = np.arange(first, first + len(times))
    events = named([f"{source.kind}.{source.partition}.{offset}" for offset in offsets])
    one.put(source, end or first + len(times), events, np.array(times, dtype=np.int64), offsets, now, CLOCK)


def silent(one: Timeline, now: float, *sources: Source, open_until: int = NEVER) -> int:
    """The watermark once the broker has said at ``now`` that it has no more of these."""
    for source in sources:
        one.set_ended(source, now)
    return one.watermark(now, open_until)


# -- the watermark


def test_no_watermark_before_every_source_was_heard() -> None:
    one = timeline(A, B)
    assert one.watermark(0.0) == NEVER
    put(one, A, [5000])
    assert one.watermark(0.0) == NEVER
    put(one, B, [9000])
    assert one.watermark(0.0) == 5000 - LATENESS


def test_the_watermark_follows_the_slowest_source_less_the_lateness() -> None:
    one = timeline(A, B)
    put(one, A, [3000, 8000, 7000])
    put(one, B, [4000])
    assert one.watermark(0.0) == 3000
    put(one, B, [9000], first=1)
    assert one.watermark(0.0) == 7000


def test_the_watermark_never_goes_back() -> None:
    one = timeline(A)
    put(one, A, [8000])
    assert one.watermark(0.0) == 7000
    one.assign(B, begin(), 0.0)
    put(one, B, [2000])
    assert one.watermark(0.0) == 7000


def test_a_promise_counts_without_lateness_and_never_shrinks() -> None:
    one = timeline(A)
    put(one, A, [8000])
    one.promise(A, 9500, 1, 0.0)
    assert one.watermark(0.0) == 9500
    one.promise(A, 100, 2, 0.0)
    put(one, A, [10_000], first=1)
    assert one.watermark(0.0) == 9500


def test_a_silent_source_holds_back_until_it_is_known_to_be_at_its_end() -> None:
    one = timeline(A, B)
    put(one, A, [2000])
    put(one, B, [8000], now=9.0)
    assert one.watermark(10.0) == 1000
    one.set_ended(A, 0.0)
    assert silent(one, 11.0, A) == 7000


def test_after_a_silence_of_all_the_first_to_speak_does_not_leave_the_others_behind() -> None:
    one = timeline(A, B)
    for source in (A, B):
        put(one, source, [1000], now=0.0)
        one.set_ended(source, 0.0)
    put(one, B, [9000], first=1, now=100.0)
    assert one.watermark(100.1) < 8000, "A was silent as long as B and may have as much to say"
    assert silent(one, 102.0, A) == 8000


def test_at_its_end_a_source_still_holds_back_until_it_has_been_silent_long_enough() -> None:
    one = timeline(A, B)
    put(one, A, [2000], now=10.0)
    put(one, B, [8000], now=10.0)
    one.set_ended(A, 0.0)
    assert silent(one, 11.9, A) == 1000
    assert silent(one, 12.0, A) == 7000


def test_what_the_broker_said_before_is_no_silence_since() -> None:
    """Failure: a machine that is busy for seconds takes up an old answer, and a partition whose events the
    broker has by then holds nothing any more: all of them are late, or taken for an older log.
    """
    one = timeline(A, B)
    for source in (A, B):
        one.set_ended(source, 0.0)
    put(one, B, [500_000], now=10.0)
    one.set_ended(A, 10.5)
    assert one.watermark(60.0, LATER) < 499_000, "A may have got as much since then"
    put(one, A, [2000], now=61.0)
    assert one.watermark(61.0) == 1000
    assert not one.turned(61.0)


def test_where_all_are_silent_the_watermark_moves_on_with_the_wall_clock() -> None:
    one = timeline(A, B)
    put(one, A, [2000], now=1.0)
    put(one, B, [8000], now=2.0)
    for source in (A, B):
        one.set_ended(source, 0.0)
    assert silent(one, 3.9, A, B, open_until=LATER) == 7000
    # From when they were heard last: the clock has gone on while it was not known that they are silent.
    assert silent(one, 4.0, A, B, open_until=LATER) == 9000
    assert silent(one, 9.5, A, B, open_until=LATER) == 14_500
    one.set_ended(A, None)
    assert one.watermark(9.5, LATER) == 14_500


def test_in_a_silence_time_stands_once_everything_has_closed() -> None:
    """Failure: after a pause of an hour, what comes next is an hour late, and waits for as long."""
    one = timeline(A)
    put(one, A, [8000])
    one.set_ended(A, 0.0)
    assert silent(one, IDLE, A, open_until=12_000) == 9000
    assert one.watermark(now=IDLE + 3600.0, open_until=12_000) == 12_000
    assert one.watermark(now=IDLE + 7200.0, open_until=NEVER) == 12_000
    # A sample that opens in the silence closes as well.
    assert one.watermark(now=IDLE + 7200.0, open_until=15_000) == 15_000


def test_an_outage_is_no_silence() -> None:
    """Failure: while the broker does not answer, time runs on, and all that waited behind it comes late."""
    one = timeline(A)
    put(one, A, [10_000])
    one.set_ended(A, 0.0)
    one.set_ended(A, None)
    assert one.watermark(now=100.0) == 10_000 - LATENESS
    one.set_ended(A, 100.0)
    assert one.watermark(now=100.0 + IDLE / 2) == 10_000 - LATENESS
    assert silent(one, 100.0 + IDLE + 2.0, A, open_until=LATER) == 10_000 - LATENESS + 4_000


def test_in_an_outage_no_clock_is_found_slow() -> None:
    """Failure: a partition that had not caught up when the broker fell silent no longer holds the watermark
    when it answers again, and the first partition to speak makes the others' backlog late.
    """
    one = timeline(A, B)
    put(one, B, [10_000], now=0.0)
    put(one, A, [20_000], now=0.0)
    assert one.watermark(0.0) == 9000
    for source in (A, B):
        one.set_ended(source, 0.1)
        one.set_ended(source, None)
    assert one.watermark(IDLE + 1.0) == 9000
    for source in (A, B):
        one.set_ended(source, 20.0)
    put(one, A, [25_000], first=1, now=20.0)
    assert one.watermark(20.0) == 9000
    # What is known again counts again: B is at its end all the time, and does not get on.
    for tenth in range(200, 200 + round(IDLE * 10) + 1):
        one.set_ended(B, tenth / 10)
        put(one, B, [10_000 + tenth], first=tenth, now=tenth / 10)
        assert one.watermark(tenth / 10) < 20_000 or tenth / 10 >= 20.0 + IDLE
    assert one.watermark(20.0 + IDLE) == 24_000


def test_without_any_event_silence_moves_nothing() -> None:
    one = timeline(A)
    one.set_ended(A, 0.0)
    assert one.watermark(1e6) == NEVER


def test_no_sources_no_watermark() -> None:
    assert Timeline(LATENESS, IDLE, LAYOUTS, HORIZON, TICK).watermark(0.0) == NEVER


# -- taking


def test_events_of_a_tick_come_by_partition_then_time_then_offset() -> None:
    one = timeline(B, A)
    put(one, B, [10, 20, 20])
    put(one, A, [20, 10])
    put(one, A, [20], first=2)
    taken = one.take(0, 100, NEVER)
    assert taken.times.tolist() == [10, 20, 20, 10, 20, 20]
    assert names(taken.events) == ["0.0.1", "0.0.0", "0.0.2", "0.1.0", "0.1.1", "0.1.2"]


def test_take_leaves_what_is_at_or_after_the_boundary_and_other_kinds() -> None:
    one = timeline(A, ACTIONS)
    put(one, A, [300, 100, 200])
    put(one, ACTIONS, [50])
    assert names(one.take(0, 200, NEVER).events) == ["0.0.1"]
    assert (one.buffered, one.due()) == (3, (50, 300))
    assert names(one.take(1, 200, NEVER).events) == ["1.0.0"]
    assert one.due() == (200, 300)
    assert names(one.take(0, 301, NEVER).events) == ["0.0.2", "0.0.0"]
    assert (one.buffered, one.due()) == (0, None)
    empty = one.take(0, 10_000, NEVER)
    assert (len(empty.events), empty.times.tolist()) == (0, [])


def test_events_behind_what_is_done_are_handed_out_and_counted() -> None:
    one = timeline(A)
    put(one, A, [100, 900, 1000, 1100])
    assert len(one.take(0, 2000, 1000).events) == 4
    assert one.late == 2


def test_a_revoked_source_drops_its_buffer_and_no_longer_counts() -> None:
    one = timeline(A, B)
    put(one, A, [5000])
    put(one, B, [2000])
    one.revoke(B)
    one.revoke(B)
    assert one.sources() == [A]
    assert one.buffered == 1
    assert one.watermark(0.0) == 4000
    one.set_ended(B, 0.0)


# -- holding back


def test_a_source_with_much_buffered_is_held_back_only_while_it_is_ahead() -> None:
    one = timeline(A, B)
    put(one, A, [1000] * 11)
    put(one, B, [2000] * 11)
    assert one.ahead(10) == {B}
    assert one.ahead(11) == set()
    put(one, A, [3000], first=11)
    assert one.ahead(10) == {A}


SOURCES = st.sampled_from([A, B, ACTIONS])


@settings(max_examples=60, deadline=None)
@given(
    puts=st.lists(st.tuples(SOURCES, st.lists(st.integers(1000, 9000), max_size=8)), max_size=12),
    at_end=st.sets(SOURCES),
    limit=st.integers(0, 10),
    now=st.floats(0, 5),
)
def test_what_holds_the_watermark_is_never_held_back(
    puts: list[tuple[Source, list[int]]], at_end: set[Source], limit: int, now: float
) -> None:
    """Otherwise nobody would move: the watermark waits for a source that is not fetched."""
    one = timeline(A, B, ACTIONS)
    ends = dict.fromkeys((A, B, ACTIONS), 0)
    for source, times in puts:
        put(one, source, times, first=ends[source])
        ends[source] += len(times)
    for source in at_end:
        one.set_ended(source, 0.0)
        one.set_ended(source, now)
    held = one.ahead(limit)
    before = one.watermark(now)
    for source in held:
        # However far a held source goes, the watermark does not follow it.
        one.promise(source, 10**9, 999, now)
    live = [s for s in ends if not (s in at_end and now >= IDLE)]
    if live:
        assert not held >= set(live)
        assert one.watermark(now) == before


# -- positions


def test_a_position_remembers_what_is_read_and_not_done() -> None:
    one = timeline(A)
    put(one, A, [100, 1050, 200, 1050, 1050, 300])
    one.take(0, 1000, NEVER)
    position = one.position(A)
    assert (position.end, position.open_ranges, position.resume_at) == (6, [(1, 1), (3, 4)], 1)


def test_refused_records_are_done() -> None:
    one = timeline(A)
    one.put(A, 7, named([]), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), 0.0, CLOCK)
    assert one.position(A).resume_at == 7


def test_after_a_restart_only_open_and_new_offsets_are_fresh() -> None:
    one = Timeline(LATENESS, IDLE, LAYOUTS, HORIZON, TICK)
    one.assign(A, Position(end=6, open_ranges=[(1, 1), (3, 4)], newest=5000, promised=NEVER), 0.0)
    fresh = one.fresh(A, np.arange(1, 9))
    assert fresh is not None
    assert fresh.tolist() == [True, False, True, True, False, True, True, True]
    assert one.fresh(A, np.arange(6, 9)) is None
    assert one.fresh(A, np.empty(0, dtype=np.int64)) is None


def test_what_was_read_again_is_not_fresh_a_third_time() -> None:
    one = Timeline(LATENESS, IDLE, LAYOUTS, HORIZON, TICK)
    one.assign(A, Position(end=6, open_ranges=[(1, 4)], newest=5000, promised=NEVER), 0.0)
    put(one, A, [5000, 5000], first=1)
    fresh = one.fresh(A, np.arange(1, 6))
    assert fresh is not None
    assert fresh.tolist() == [False, False, True, True, False]
    assert one.position(A).open_ranges == [(1, 2), (3, 4)]


def test_after_a_restart_the_watermark_waits_for_open_events_to_be_read_again() -> None:
    """Fails when a source's newest event, remembered, lets ticks run past those that are not here yet."""
    one = timeline(A, B)
    put(one, A, [1200, 9000])
    put(one, B, [2500])
    saved = {source: one.position(source) for source in (A, B)}
    again = Timeline(LATENESS, IDLE, LAYOUTS, HORIZON, TICK)
    for source in (A, B):
        again.assign(source, saved[source], 0.0)
    put(again, B, [2500, 9000])
    assert again.watermark(0.0) == NEVER
    put(again, A, [1200])
    assert again.watermark(0.0) == NEVER
    put(again, A, [9000], first=1)
    assert again.watermark(0.0) == 8000


def test_open_events_that_the_topic_no_longer_has_do_not_stop_time() -> None:
    again = Timeline(LATENESS, IDLE, LAYOUTS, HORIZON, TICK)
    again.assign(A, Position(end=9, open_ranges=[(3, 4)], newest=5000, promised=NEVER), 0.0)
    again.set_ended(A, 0.0)
    assert silent(again, IDLE, A) == 4000
    put(again, A, [9000], first=20)
    again.set_ended(A, None)
    assert again.position(A).open_ranges == [(20, 20)]
    assert again.watermark(IDLE) == 8000


class Logged(NamedTuple):
    """A record of the log: its event time and whether it is refused."""

    time: int
    refused: bool


def logs() -> st.SearchStrategy[dict[Source, list[Logged]]]:
    """Logs whose disorder stays below the lateness."""
    record = st.tuples(st.integers(0, 1200), st.integers(0, LATENESS - 1), st.booleans())

    def build(gaps: list[tuple[int, int, bool]]) -> list[Logged]:
        times = np.cumsum([gap for gap, _, _ in gaps]).tolist()
        return [Logged(10_000 + t - back, bad) for t, (_, back, bad) in zip(times, gaps, strict=True)]

    log = st.lists(record, min_size=5, max_size=25).map(build)
    return st.fixed_dictionaries({A: log, B: log, ACTIONS: log})


READ = st.tuples(SOURCES, st.integers(1, 8))


class Worker:
    """What a worker does with the timeline, and what a crash leaves of it."""

    def __init__(self, log: dict[Source, list[Logged]]) -> None:
        self.log = log
        self.handed: list[tuple[Source, int]] = []
        self.done = NEVER
        self.known: dict[Source, Position] = {}
        self.late = 0
        self._saved = (b"", NEVER, 0, 0)
        self.start()

    def start(self) -> None:
        self.timeline = Timeline(LATENESS, IDLE, LAYOUTS, HORIZON, TICK)
        self.next = {}
        for source in self.log:
            position = self.known.get(source, begin())
            self.timeline.assign(source, position, 0.0)
            self.next[source] = position.resume_at

    def read(self, source: Source, size: int) -> None:
        first = self.next[source]
        offsets = np.arange(first, min(first + size, len(self.log[source])))
        if not len(offsets):
            return
        self.next[source] = end = int(offsets[-1]) + 1
        fresh = self.timeline.fresh(source, offsets)
        if fresh is not None:
            offsets = offsets[fresh]
        kept = [int(o) for o in offsets if not self.log[source][o].refused]
        # What is refused goes to the dead-letter topic: handed out as well.
        self.handed += [(source, int(o)) for o in offsets if self.log[source][o].refused]
        times = np.array([self.log[source][o].time for o in kept], dtype=np.int64)
        events = named([(source, offset) for offset in kept])
        self.timeline.put(source, end, events, times, np.array(kept, dtype=np.int64), 0.0, CLOCK)

    def advance(self) -> None:
        boundary = self.timeline.watermark(0.0) // 500 * 500
        if boundary > self.done:
            self.take(boundary)

    def take(self, boundary: int) -> None:
        for kind in (0, 1):
            taken = self.timeline.take(kind, boundary, self.done)
            order = np.lexsort((taken.times, taken.partitions, taken.ticks))
            assert (np.diff(order) == 1).all(), "by tick, partition and time"
            self.handed += names(taken.events)
        self.done = boundary

    def checkpoint(self) -> None:
        positions = [(*source, self.timeline.position(source)) for source in self.timeline.sources()]
        late = self.late + self.timeline.late
        self._saved = (msgspec.msgpack.encode(positions), self.done, len(self.handed), late)

    def crash(self) -> None:
        data, self.done, handed, self.late = self._saved
        if data:
            rows = msgspec.msgpack.decode(data, type=list[tuple[int, int, Position]])
            self.known = {Source(kind, partition): p for kind, partition, p in rows}
        # What was done after the checkpoint is undone with it: they are one batch.
        del self.handed[handed:]
        self.start()


@settings(max_examples=100, deadline=None)
@given(
    log=logs(),
    steps=st.lists(
        st.one_of(
            READ, READ, READ, st.sampled_from(["advance", "checkpoint", "checkpoint then crash", "crash"])
        ),
        min_size=15,
        max_size=50,
    ),
)
def test_every_offset_is_handed_out_exactly_once_across_kills_at_any_point(
    log: dict[Source, list[Logged]], steps: list[tuple[Source, int] | str]
) -> None:
    worker = Worker(log)
    for step in steps:
        if isinstance(step, str):
            for word in step.split(" then "):
                getattr(worker, word)()
        else:
            worker.read(*step)
    for source in log:
        worker.read(source, 1000)
    worker.advance()
    worker.take(2**60)
    assert sorted(worker.handed) == [(s, o) for s in sorted(log) for o in range(len(log[s]))]
    # No event is late that would not be late without the kills: disorder stays below the lateness.
    assert worker.late + worker.timeline.late == 0
    worker.checkpoint()
    worker.crash()
    assert {s: (p.resume_at, p.open_ranges) for s in log if (p := worker.timeline.position(s))} == {
        source: (len(records), []) for source, records in log.items()
    }


def test_positions_are_a_copy() -> None:
    one = timeline(A)
    put(one, A, [1000])
    saved = one.position(A)
    put(one, A, [2000], first=1)
    assert (saved.end, saved.newest) == (1, 1000)


@pytest.mark.parametrize("times", [[1000, 1500, 2000], [2000, 1000, 1500]])
def test_ordered_and_disordered_batches_split_alike(times: list[int]) -> None:
    one = timeline(A)
    put(one, A, times)
    assert one.take(0, 1500, NEVER).times.tolist() == [1000]
    assert one.take(0, 2000, NEVER).times.tolist() == [1500]
    assert one.take(0, 2500, NEVER).times.tolist() == [2000]
