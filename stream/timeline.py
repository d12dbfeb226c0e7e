"""Event time of a worker: the watermark over its partitions, and what is due by it.

The watermark says up to when the input is complete. It is the smallest of the partitions' marks
(``stream.lane``), and it never stops for good while events come in:

- A partition that is read to its end and silent does not hold it; nor does one that has been read to its end
  and yet does not get to where the others were ``idle_s`` ago (its clock is slow), or one that is further
  behind than the horizon. Their events are late: due at once.
- Where all are silent it moves on with the wall clock, until what is open has closed, and stands then.
- Where all partitions have gone back in time, an older log is read: the present pass is over, and time
  starts over in the next one. Where some stay in the present, what went back in the others is late.

A partition that reads open events again after a restart holds the watermark until it has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stream.event_columns import Columns, Layout, joined
from stream.lane import NEVER, IntArray, Lane, Piece, Position

#: Silence, as a share of ``idle_s``, after which a few events that went back in time are late, and no older
#: log: a longer ``idle_s`` asks for more patience with what may still come.
STRAYS_SHARE = 0.2
#: A partition that is read to its end and gets present events so long after others went back has stayed in
#: the present: a share of ``idle_s``, and more than the age of what is known about its end
#: (``stream.transport.ANSWER_S``).
MIXED_SHARE, MIXED_LEAST_S = 0.8, 4.0
#: Where a partition was not seen at its end for this share of ``idle_s`` (a backlog, or a broker that did not
#: answer), and for longer than what is known about its end can be old, nobody knows whether its producer's
#: clock is slow.
UNSEEN_SHARE, UNSEEN_LEAST_S = 0.5, 3.0
#: For so long what goes back in time is late at once, where others have stayed in the present.
MIXED_FOR_S = 60.0


class Source(NamedTuple):
    """A partition of a source topic; ``kind`` is an index in ``contracts.events.KINDS``."""

    kind: int
    partition: int


class Taken(NamedTuple):
    """Events of one kind in order of (tick, partition, time, offset); ``ticks`` is where each counts."""

    events: Columns
    times: IntArray
    ticks: IntArray
    partitions: npt.NDArray[np.int16]

    def part(self, first: int, last: int) -> Taken:
        """Events ``first`` to before ``last``."""
        some = slice(first, last)
        return Taken(self.events[some], self.times[some], self.ticks[some], self.partitions[some])


def by_tick(*kinds: Taken) -> Iterator[tuple[int, list[Taken]]]:
    """The ticks that have events of any kind, in order, each with its part of every kind."""
    for tick in np.unique(np.concatenate([taken.ticks for taken in kinds])).tolist():
        bounds = [np.searchsorted(taken.ticks, (tick, tick + 1)).tolist() for taken in kinds]
        yield tick, [taken.part(*bound) for taken, bound in zip(kinds, bounds, strict=True)]


class Timeline:
    """Lanes, watermark and positions of a worker's sources. Not thread-safe: one thread uses it.

    ``layouts``: what events of each kind look like. ``horizon_ms``: events further behind than this have gone
    back in time. ``now`` is always seconds of a monotonic clock, ``now_ms`` the wall clock in ms UTC.
    """

    def __init__(
        self,
        lateness_ms: int,
        idle_s: float,
        layouts: Sequence[Layout],
        horizon_ms: int = 300_000,
        tick_ms: int = 1000,
    ) -> None:
        self._layouts = layouts
        self._lateness_ms = lateness_ms
        self._idle_s = idle_s
        self._horizon_ms = horizon_ms
        self._tick_ms = tick_ms
        self._lanes: dict[Source, Lane] = {}
        self._reached = NEVER
        self._awake_since = float("-inf")
        #: From where the watermark moves with the wall clock, and since when; None while somebody holds it.
        self._calm: tuple[int, float] | None = None
        #: Events taken that were behind what was done, in this pass of time or in an earlier one.
        self.late = 0
        self._behind = (0, 0)
        self._newly_parked = 0
        #: How far time had come in an earlier pass: what is older is late.
        self.high = NEVER

    @property
    def buffered(self) -> int:
        """Events that wait for the watermark; those ahead of the clock aside."""
        return sum(lane.buffered for lane in self._lanes.values())

    @property
    def waiting_ahead(self) -> int:
        """Events that are ahead of the clock and wait for their time."""
        return sum(len(piece.times) for lane in self._lanes.values() for piece in lane.parked)

    def take_parked(self) -> int:
        """How many events were parked for the first time since the last call."""
        parked, self._newly_parked = self._newly_parked, 0
        return parked

    def take_behind(self) -> tuple[int, int]:
        """Events taken since the last call that were behind in their pass, and by how much at most (ms)."""
        behind, self._behind = self._behind, (0, 0)
        return behind

    def restore(self, done_until: int, high: int) -> None:
        """Go on where a checkpoint was."""
        self._reached = max(self._reached, done_until)
        self.high = high

    def assign(self, source: Source, position: Position, now: float) -> None:
        """Begin (again) with a source at a position; what was buffered for it is dropped."""
        self._lanes[source] = Lane(position, now, self._lateness_ms, self._horizon_ms)

    def revoke(self, source: Source) -> None:
        """Stop with a source; its buffer is dropped."""
        self._lanes.pop(source, None)

    def sources(self) -> list[Source]:
        """The sources in use."""
        return sorted(self._lanes)

    def fresh(self, source: Source, offsets: IntArray) -> npt.NDArray[np.bool_] | None:
        """Which offsets have not been handled yet; None where all are fresh (the usual case)."""
        return self._lanes[source].fresh(offsets)

    def put(
        self,
        source: Source,
        end: int,
        events: Columns,
        times: IntArray,
        offsets: IntArray,
        now: float,
        now_ms: int,
    ) -> None:
        """Buffer events of a batch that ended before offset ``end`` (also where all were refused)."""
        lane = self._lanes[source]
        self._hear(now)
        lane.heard = now
        self._newly_parked += lane.put(end, events, times, offsets, now, now_ms, self._reached)

    def promise(self, source: Source, watermark: int, offset: int, now: float) -> None:
        """Nothing older than ``watermark`` follows in this source, says its record at ``offset``."""
        self._hear(now)
        self._lanes[source].promise(watermark, offset, now)

    def complete(self, source: Source, until: int) -> None:
        """Nothing older than ``until`` follows, as a rehearsal knows of a log in order of time.

        Other than a promise it says nothing about where the log that comes next stands in time.
        """
        present = self._lanes[source].passes[0]
        present.complete = max(present.complete, until)

    def release(self, now: float, now_ms: int) -> None:
        """Let in the parked events whose time has come."""
        for lane in self._lanes.values():
            if lane.parked:
                lane.release(now, now_ms, self._reached)

    def set_ended(self, source: Source, at: float | None) -> None:
        """Everything that the broker had of a source ``at`` that time has been put here; None: not so.

        What it got since then is not known. Silence counts from the moment that it is known, and up to the
        last one: a broker that did not answer may have had events.
        """
        lane = self._lanes.get(source)
        if lane is None:
            return
        if at is not None:
            if not lane.at_end:
                lane.heard = max(lane.heard, at)
            if at - lane.ended_at >= max(UNSEEN_SHARE * self._idle_s, UNSEEN_LEAST_S):
                lane.target_since = at
            lane.ended_at = max(lane.ended_at, at)
        lane.at_end = at is not None

    def watermark(self, now: float, open_until: int = NEVER) -> int:
        """Event time (ms) up to which the input is complete; goes back only from one pass to the next.

        ``open_until``: when the last open sample closes; a silence of all moves on as far as that.
        """
        lanes = [lane for lane in self._lanes.values() if lane.reopen or not lane.back]
        speaking = [lane for lane in lanes if not self._idle(lane)]
        held = self._holding(speaking, now)
        if held:
            self._calm = None
            self._reached = max(self._reached, min(held))
        elif lanes and len(lanes) == len(self._lanes):
            self._reached = max(self._reached, self._with_the_clock(bool(speaking), now, open_until))
        return self._reached

    def turned(self, now: float) -> bool:
        """Whether the present pass of time is over: every partition has gone back or is silent.

        Settles what is not: strays become late, and so does what went back while others stay.
        """
        lanes = list(self._lanes.values())
        back = [lane for lane in lanes if lane.back]
        if not back:
            return False
        here = [lane for lane in lanes if (lane.reopen or not lane.back) and not self._idle(lane)]
        settled = any(one.settled for lane in back for one in list(lane.passes)[1:])
        heard = max(lane.heard for lane in back)
        if not settled:
            if now - heard >= STRAYS_SHARE * self._idle_s and all(
                lane.ended_at >= lane.heard for lane in back
            ):
                self._join_passes(back)
            return False
        if not here:
            return True
        since = min(lane.back_since for lane in back)
        stayed = since + max(MIXED_SHARE * self._idle_s, MIXED_LEAST_S)
        if any(lane.ended_at > since and lane.spoke > stayed for lane in here):
            self._join_passes(back)
            for lane in lanes:
                lane.mixed_until = now + MIXED_FOR_S
        return False

    def next_pass(self, done_until: int, now: float) -> None:
        """Time starts over; ``done_until`` is how far it had come."""
        self.high = max(self.high, done_until)
        self._reached = NEVER
        self._calm = None
        self._awake_since = now
        for lane in self._lanes.values():
            lane.next_pass()

    def ahead(self, limit: int) -> set[Source]:
        """Sources that should not be fetched now: over ``limit`` events buffered and ahead of the others.

        The source that holds the watermark back is never among them, so this cannot deadlock.
        """
        over = {source for source, lane in self._lanes.items() if lane.buffered > limit}
        if not over:
            return over
        held = {
            source: NEVER if lane.reopen else lane.mark()
            for source, lane in self._lanes.items()
            if lane.reopen or not lane.back
        }
        slowest = min(
            (mark for source, mark in held.items() if not self._idle(self._lanes[source])), default=None
        )
        if slowest is None:
            return set()
        return {source for source in over if source not in held or held[source] > slowest}

    def due(self) -> tuple[int, int] | None:
        """When the first and the last buffered event of the present pass are due (ms); None without any."""
        first, last = None, None
        for lane in self._lanes.values():
            for piece in lane.passes[0].pieces:
                due = piece.due
                low, high = (due[0], due[-1]) if piece.ordered else (due.min(), due.max())
                first = int(low) if first is None else min(first, int(low))
                last = int(high) if last is None else max(last, int(high))
        return None if first is None or last is None else (first, last)

    def due_before(self, boundary: int) -> int:
        """How many buffered events of the present pass are due before ``boundary`` (ms)."""
        return sum(
            int(np.searchsorted(piece.due, boundary) if piece.ordered else (piece.due < boundary).sum())
            for lane in self._lanes.values()
            for piece in lane.passes[0].pieces
        )

    def take(self, kind: int, boundary: int, done: int) -> Taken:
        """Remove and return the buffered events of a kind that are due before ``boundary``.

        What is due before ``done`` counts in the first tick that has not run. Late events are counted.
        """
        pieces: list[Piece] = []
        where: list[int] = []
        for source in sorted(self._lanes):
            if source.kind == kind:
                pieces += self._lanes[source].passes[0].take(boundary)
                where += [source.partition] * (len(pieces) - len(where))
        if not pieces:
            empty = np.empty(0, dtype=np.int64)
            return Taken(self._layouts[kind].empty(), empty, empty, np.empty(0, dtype=np.int16))
        partitions = np.repeat(np.array(where, dtype=np.int16), [len(piece.times) for piece in pieces])
        events = joined([piece.events for piece in pieces])
        times = np.concatenate([piece.times for piece in pieces])
        due = np.maximum(np.concatenate([piece.due for piece in pieces]), done)
        self._count_late(times, due)
        ticks = due // self._tick_ms
        if not _in_order(ticks, partitions, times):
            order = np.lexsort((times, partitions, ticks))
            times, ticks = times[order], ticks[order]
            events, partitions = events[order], partitions[order]
        return Taken(events, times, ticks, partitions)

    def position(self, source: Source) -> Position:
        """Where a source stands, for a checkpoint."""
        return self._lanes[source].position()

    def _count_late(self, times: IntArray, due: IntArray) -> None:
        self.late += int(np.count_nonzero(times < np.maximum(due, self.high)))
        behind = due - times
        count = int(np.count_nonzero(behind))
        if count:
            self._behind = self._behind[0] + count, max(self._behind[1], int(behind.max()))

    def _hear(self, now: float) -> None:
        # After a silence of all, the first source to speak must not leave the others behind.
        if now - max(other.heard for other in self._lanes.values()) >= self._idle_s:
            self._awake_since = now

    def _idle(self, lane: Lane) -> bool:
        """Whether the broker had nothing of it for ``idle_s``, the last time that it said so."""
        return lane.at_end and lane.ended_at - max(lane.heard, self._awake_since) >= self._idle_s

    def _holding(self, speaking: list[Lane], now: float) -> list[int]:
        """Marks of the lanes that hold the watermark."""
        furthest = max((lane.mark() for lane in speaking), default=NEVER)
        held = []
        for lane in speaking:
            mark = NEVER if lane.reopen else lane.mark()
            self._follow_target(lane, mark, furthest, now)
            if mark == NEVER or not (lane.slow or mark < self._reached - self._horizon_ms):
                held.append(mark)
        return held

    def _follow_target(self, lane: Lane, mark: int, furthest: int, now: float) -> None:
        """A lane is slow that does not get in time to where the others were: its clock is behind."""
        if mark == NEVER or mark >= lane.target:
            lane.target, lane.target_since, lane.slow = furthest, now, False
        elif lane.ended_at - lane.target_since >= self._idle_s:
            lane.slow = True

    def _with_the_clock(self, speaking: bool, now: float, open_until: int) -> int:
        """Where nobody holds it, the watermark moves on until ``open_until``, as fast as the wall clock."""
        marks = [mark for lane in self._lanes.values() if (mark := lane.mark()) > NEVER]
        if not marks:
            return self._reached
        if self._calm is None:
            heard = max(lane.heard for lane in self._lanes.values())
            self._calm = max(*marks, self._reached), now if speaking else heard
        begin, since = self._calm
        moved = begin + int(max(now - since, 0.0) * 1000.0)
        if max(marks) > moved:
            # The time of a parked event has come: it is further than this silence had moved.
            begin = moved = max(marks)
            self._calm = begin, now
        return max(min(moved, open_until), begin)

    def _join_passes(self, lanes: list[Lane]) -> None:
        for lane in lanes:
            while lane.back:
                lane.join_passes()


def _in_order(ticks: IntArray, partitions: npt.NDArray[np.int16], times: IntArray) -> bool:
    """Whether events stand by tick, in a tick by partition, in a partition by time."""
    later, same = ticks[1:] > ticks[:-1], ticks[1:] == ticks[:-1]
    later |= same & (partitions[1:] > partitions[:-1])
    same &= partitions[1:] == partitions[:-1]
    return bool(np.all(later | (same & (times[1:] >= times[:-1]))))
