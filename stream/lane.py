"""One source partition's events on their way to the ticks: in order, ahead of the clock, or back in time.

Everything here follows from the partition's own content, so that it does not depend on how Kafka batched it:

- An event counts at its own time, or at the partition's *mark* (newest event less the lateness, or what a
  producer's ``Watermark`` promised) where it is behind that: then it is late.
- An event further ahead of the wall clock than the lateness is parked until its time; nothing waits for it.
- Events further behind the mark than the *horizon* (``times.join_limit_s``) have gone back in time: an older
  log begins. A few of them between present ones are stray and late; ``SETTLED`` in a row, or a watermark
  among them, begin a new *pass* of time, which the timeline takes up when all partitions have gone back.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from stream.event_columns import Columns

IntArray = npt.NDArray[np.int64]

NEVER = -(2**62)
#: Events in a row that have gone back in time before they are taken for an older log, not for strays.
SETTLED = 32
#: Events that a partition parks; what comes beyond it while they wait counts at the clock's time instead.
PARKED_LIMIT = 50_000


class PassPosition(msgspec.Struct, array_like=True):
    """A pass of time after the first in a lane: where it began, and its marks so far."""

    began: int
    newest: int
    promised: int
    settled: bool


class Position(msgspec.Struct, kw_only=True):
    """How far a source is done: what a checkpoint stores.

    All offsets below ``end`` are done, except those in ``open_ranges`` ([first, last] pairs): read, but
    newer than the last tick. ``passes`` are those after the first that the lane is in. Of what is open in the
    first one, events due before ``done_before`` (ms) are done: another worker's open ranges were too many to
    be told one by one.
    """

    end: int
    open_ranges: list[tuple[int, int]]
    newest: int
    promised: int
    passes: list[PassPosition] = []
    done_before: int = NEVER

    @property
    def resume_at(self) -> int:
        """The offset to read from after a restart."""
        return self.open_ranges[0][0] if self.open_ranges else self.end

    def skipped_to(self, offset: int) -> Position:
        """The position where everything below ``offset`` is done as well."""
        return msgspec.structs.replace(
            self,
            end=max(self.end, offset),
            open_ranges=[(max(first, offset), last) for first, last in self.open_ranges if last >= offset],
        )


class Piece(NamedTuple):
    """Events of one batch. ``due`` (ms) is when each counts: ``times`` itself where no event is late."""

    events: Columns
    times: IntArray
    due: IntArray
    offsets: IntArray
    ordered: bool


class Pass:
    """What a lane has of one pass of time, up to where it goes back.

    ``behind``: the mark that it went back from: the pass before's, or the watermark where that has no events.
    """

    def __init__(
        self,
        began: int,
        newest: int = NEVER,
        promised: int = NEVER,
        settled: bool = False,
        behind: int = NEVER,
    ) -> None:
        self.began = began
        self.behind = behind
        self.newest = newest
        self.promised = promised
        #: As ``promised``, known from outside: it says nothing about what has gone back in time.
        self.complete = NEVER
        self.settled = settled
        self.size = 0
        self.pieces: deque[Piece] = deque()
        self.buffered = 0

    def mark(self, lateness_ms: int) -> int:
        """Up to when the partition's input is complete; ``NEVER`` before its first event."""
        behind = self.newest - lateness_ms if self.newest > NEVER else NEVER
        return max(behind, self.promised)

    def grow(self, count: int) -> None:
        """So many more events are of this pass; with ``SETTLED`` of them they are no strays."""
        self.size += count
        self.settled = self.settled or self.size >= SETTLED

    def add(self, piece: Piece) -> None:
        """Buffer a piece."""
        self.pieces.append(piece)
        self.buffered += len(piece.times)

    def take(self, boundary: int) -> list[Piece]:
        """Remove and return what is due before ``boundary``."""
        taken: list[Piece] = []
        remaining: deque[Piece] = deque()
        for piece in self.pieces:
            before, after = split(piece, boundary)
            if before is not None:
                taken.append(before)
                self.buffered -= len(before.times)
            if after is not None:
                remaining.append(after)
        self.pieces = remaining
        return taken


class Lane:
    """The buffer of one source. Wall-clock times are seconds of a monotonic clock."""

    def __init__(self, position: Position, now: float, lateness_ms: int, horizon_ms: int) -> None:
        self._lateness_ms = lateness_ms
        self._horizon_ms = horizon_ms
        self.end = position.end
        self.passes: deque[Pass] = deque([Pass(-1, position.newest, position.promised, True)])
        for one in position.passes:
            mark = self.passes[-1].mark(lateness_ms)
            self.passes.append(Pass(one.began, one.newest, one.promised, one.settled, mark))
        self.parked: list[Piece] = []
        #: When it was heard last, or known to be silent from; and when events came last.
        self.heard = now
        self.spoke = float("-inf")
        self.at_end = False
        #: When the lane was last known to be read to its end.
        self.ended_at = float("-inf")
        #: When it went back in time; only of use while it has more than one pass.
        self.back_since = now
        #: Until then what goes back is late at once: the other partitions have stayed in the present.
        self.mixed_until = float("-inf")
        #: For the timeline: the mark that the lane was to reach, since when, and whether it failed to.
        self.target, self.target_since, self.slow = NEVER, now, False
        # Offsets that a checkpoint knows as done although they lie behind the place to resume at.
        self._skip_below = position.end
        self.reopen = list(position.open_ranges)
        # Newest times of what is read again, by pass: an event gets the same due time as it had before.
        self._again = [NEVER] * len(self.passes)
        self._done_before = position.done_before

    @property
    def back(self) -> bool:
        """Whether the lane has gone back in time and waits for the others."""
        return len(self.passes) > 1

    @property
    def buffered(self) -> int:
        """Events that wait for the watermark, parked ones aside."""
        return sum(one.buffered for one in self.passes)

    def mark(self) -> int:
        """Up to when the lane's input of the present pass is complete."""
        return max(self.passes[0].mark(self._lateness_ms), self.passes[0].complete)

    def fresh(self, offsets: IntArray) -> npt.NDArray[np.bool_] | None:
        """Which offsets have not been handled yet; None where all are fresh (the usual case)."""
        if not len(offsets) or int(offsets[0]) >= self.end:
            return None
        fresh: npt.NDArray[np.bool_] = offsets >= self.end
        below = offsets < self._skip_below
        for first, last in self.reopen:
            fresh |= below & (offsets >= first) & (offsets <= last)
        return fresh

    def put(
        self,
        end: int,
        events: Columns,
        times: IntArray,
        offsets: IntArray,
        now: float,
        now_ms: int,
        reached: int,
    ) -> int:
        """Buffer a batch that ended before offset ``end``. Returns how many were parked for the first time.

        ``reached`` is the timeline's watermark: a lane without a past of its own is measured by it.
        """
        self.reopen = [(max(first, end), last) for first, last in self.reopen if last >= end]
        self.end = max(self.end, end)
        if not len(events):
            return 0
        self.spoke = now
        parked = 0
        limit = now_ms + self._lateness_ms
        if int(times.max()) > limit:
            ahead = times > limit
            waiting = sum(len(piece.times) for piece in self.parked)
            if waiting + int(ahead.sum()) > PARKED_LIMIT:
                # Counted as parked, but due now: memory is bounded, and learning is worth more than the time.
                parked = int(np.count_nonzero(ahead & (offsets >= self._skip_below)))
                times = np.minimum(times, limit)
            else:
                some = np.flatnonzero(ahead)
                self.parked.append(_pick(events, times, offsets, some))
                parked = int(np.count_nonzero(offsets[some] >= self._skip_below))
                rest = np.flatnonzero(~ahead)
                events, times, offsets = events[rest], times[rest], offsets[rest]
        if len(offsets) and int(offsets[0]) < self._skip_below:
            cut = int(np.searchsorted(offsets, self._skip_below))
            self._put_again(events[:cut], times[:cut], offsets[:cut])
            events, times, offsets = events[cut:], times[cut:], offsets[cut:]
        self._put(events, times, offsets, now, reached)
        return parked

    def release(self, now: float, now_ms: int, reached: int) -> None:
        """Buffer the parked events whose time has come."""
        still = []
        for piece in self.parked:
            due = piece.times <= now_ms + self._lateness_ms
            if due.any():
                ready = _pick(piece.events, piece.times, piece.offsets, np.flatnonzero(due))
                order = np.argsort(ready.times, kind="stable")
                ready = _pick(ready.events, ready.times, ready.offsets, order)
                self._put(ready.events, ready.times, ready.offsets, now, reached)
                piece = _pick(piece.events, piece.times, piece.offsets, np.flatnonzero(~due))
            if len(piece.times):
                still.append(piece)
        self.parked = still

    def promise(self, watermark: int, offset: int, now: float) -> None:
        """Nothing older than ``watermark`` follows, says the record at ``offset``."""
        self.heard = now
        newest = self.passes[-1]
        if self.back and not newest.settled:
            if watermark >= newest.behind - self._horizon_ms:
                self.join_passes()
                newest = self.passes[-1]
            else:
                newest.settled = True
        if watermark < newest.mark(self._lateness_ms) - self._horizon_ms and now >= self.mixed_until:
            newest = self._go_back(offset, newest.mark(self._lateness_ms), now)
            newest.settled = True
        newest.promised = max(newest.promised, watermark)

    def join_passes(self) -> None:
        """What went back is late after all: put it behind the last event of the pass before."""
        strays = self.passes.pop()
        into = self.passes[-1]
        mark = into.mark(self._lateness_ms)
        for piece in strays.pieces:
            due = np.maximum(piece.due, mark)
            into.add(piece._replace(due=due, ordered=_is_ordered(due)))
        into.newest = max(into.newest, strays.newest)
        into.grow(strays.size)

    def next_pass(self) -> None:
        """Leave the present pass; its events have been taken."""
        self.passes.popleft()
        if not self.passes:
            self.passes.append(Pass(-1, settled=True))
        self.passes[0].settled = True
        self.slow, self.target = False, NEVER

    def position(self) -> Position:
        """Where the lane stands, for a checkpoint."""
        offsets = [piece.offsets for one in self.passes for piece in one.pieces]
        offsets += [piece.offsets for piece in self.parked]
        first, *later = self.passes
        return Position(
            end=self.end,
            # Open ranges of an earlier checkpoint that have not been read again yet stay open.
            open_ranges=sorted([*self.reopen, *_ranges(offsets)]),
            newest=first.newest,
            promised=first.promised,
            passes=[PassPosition(one.began, one.newest, one.promised, one.settled) for one in later],
            done_before=self._done_before if self.reopen else NEVER,
        )

    def _put(self, events: Columns, times: IntArray, offsets: IntArray, now: float, reached: int) -> None:
        at = 0
        while at < len(times):
            at = self._put_stretch(events, times, offsets, at, now, reached)

    def _put_stretch(
        self, events: Columns, times: IntArray, offsets: IntArray, at: int, now: float, reached: int
    ) -> int:
        """Buffer from ``at`` on what belongs to the newest pass. Returns where that ended."""
        one = self.passes[-1]
        rest = times[at:]
        count = len(rest)
        if self.back and not one.settled:
            count = min(count, SETTLED - one.size)
            returned = np.flatnonzero(rest[:count] >= one.behind - self._horizon_ms)
            if len(returned) and returned[0] == 0:
                self.join_passes()
                return at
            count = int(returned[0]) if len(returned) else count
        rest = rest[:count]
        running = np.maximum.accumulate(np.concatenate(([one.newest], rest)))
        marks = np.maximum(running[:-1] - self._lateness_ms, one.promised)
        unknown = one.newest == NEVER and one.promised == NEVER and not self.back
        bounds = np.maximum(marks, reached) if unknown else marks
        if now >= self.mixed_until and (gone := np.flatnonzero(rest < bounds - self._horizon_ms)).size:
            if gone[0] == 0:
                self._go_back(int(offsets[at]), int(bounds[0]), now)
                return at
            count = int(gone[0])
            rest, marks = rest[:count], marks[:count]
        due = rest if bool(np.all(rest >= marks)) else np.maximum(rest, marks)
        part = slice(at, at + count)
        whole = events if count == len(times) else events[part]
        one.add(Piece(whole, rest, due, offsets[part], _is_ordered(due)))
        one.newest = int(running[count])
        one.grow(count)
        return at + count

    def _put_again(self, events: Columns, times: IntArray, offsets: IntArray) -> None:
        """Open events of before a restart, into the pass and with the due time that they had.

        An open event is late only because of another open one before it, which is read again as well.
        """
        began = [one.began for one in self.passes][1:]
        places = np.searchsorted(np.array(began, dtype=np.int64), offsets, side="right")
        for place in np.unique(places).tolist():
            piece = _pick(events, times, offsets, np.flatnonzero(places == place))
            running = np.maximum.accumulate(np.concatenate(([self._again[place]], piece.times)))
            due = np.maximum(piece.times, running[:-1] - self._lateness_ms)
            self._again[place] = int(running[-1])
            # What was parked then may have its time by now, and was not among the newest.
            one = self.passes[place]
            one.newest = max(one.newest, int(running[-1]))
            # A pass that goes on after a restart is as near to an older log as it was before it.
            one.grow(len(piece.times))
            piece = piece._replace(due=due, ordered=_is_ordered(due))
            still = np.flatnonzero(due >= self._done_before)
            if place == 0 and len(still) < len(due):
                if (part := _part(piece, still)) is None:
                    continue
                piece = part
            self.passes[place].add(piece)

    def _go_back(self, offset: int, mark: int, now: float) -> Pass:
        if not self.back:
            self.back_since = now
        self.passes.append(Pass(offset, behind=mark))
        return self.passes[-1]


def split(piece: Piece, boundary: int) -> tuple[Piece | None, Piece | None]:
    """What is due before ``boundary``, and the rest."""
    events, times, due, offsets, ordered = piece
    if ordered:
        k = int(np.searchsorted(due, boundary, side="left"))
        if k == 0:
            return None, piece
        taken = Piece(events[:k], times[:k], due[:k], offsets[:k], True)
        if k == len(due):
            return taken, None
        return taken, Piece(events[k:], times[k:], due[k:], offsets[k:], True)
    below = due < boundary
    first, last = np.flatnonzero(below), np.flatnonzero(~below)
    return _part(piece, first), _part(piece, last)


def _part(piece: Piece, index: npt.NDArray[np.intp]) -> Piece | None:
    if not len(index):
        return None
    due = piece.due[index]
    return Piece(piece.events[index], piece.times[index], due, piece.offsets[index], _is_ordered(due))


def _pick(events: Columns, times: IntArray, offsets: IntArray, index: npt.NDArray[np.intp]) -> Piece:
    times = times[index]
    return Piece(events[index], times, times, offsets[index], _is_ordered(times))


def _is_ordered(times: IntArray) -> bool:
    return bool(np.all(times[1:] >= times[:-1]))


def _ranges(offsets: list[IntArray]) -> list[tuple[int, int]]:
    """Consecutive offsets as inclusive [first, last] pairs."""
    if not offsets:
        return []
    merged = np.sort(np.concatenate(offsets))
    breaks = np.flatnonzero(np.diff(merged) != 1)
    firsts = merged[np.concatenate(([0], breaks + 1))]
    lasts = merged[np.concatenate((breaks, [len(merged) - 1]))]
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))
