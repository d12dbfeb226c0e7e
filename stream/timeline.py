"""Event time: buffers of decoded events a partition, the watermark, and which offsets are done.

The watermark says up to when the input is complete. It is the smallest, over the source partitions, of
the newest event time minus the allowed lateness (or of an explicit ``Watermark``); a partition that is
read to its end and silent does not count, and one that reads open events again after a restart holds it
until it has them. Where all are silent, it moves on with the wall clock, so that the last samples close.
Events behind the watermark are handed out with the next ones and counted as late.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

NEVER = -(2**62)


class Source(NamedTuple):
    """A partition of a source topic; ``kind`` is 0 for impressions, 1 for actions."""

    kind: int
    partition: int


class Position(msgspec.Struct, kw_only=True):
    """How far a source is done: what a checkpoint stores.

    All offsets below ``end`` are done, except those in ``open_ranges`` ([first, last] pairs): read, but
    newer than the last tick.
    """

    end: int
    open_ranges: list[tuple[int, int]]
    newest: int
    promised: int

    @property
    def resume_at(self) -> int:
        """The offset to read from after a restart."""
        return self.open_ranges[0][0] if self.open_ranges else self.end

    def skipped_to(self, offset: int) -> Position:
        """The position where everything below ``offset`` is done as well."""
        return Position(
            end=max(self.end, offset),
            open_ranges=[(max(first, offset), last) for first, last in self.open_ranges if last >= offset],
            newest=self.newest,
            promised=self.promised,
        )


class Taken(NamedTuple):
    """Events of one kind in order of (time, partition, offset)."""

    events: list[Any]
    times: IntArray


class _Piece(NamedTuple):
    """Events of one batch. ``events[start:]`` belong to ``times`` and ``offsets``: a long list is not copied
    each time that its head is taken."""

    events: list[Any]
    times: IntArray
    offsets: IntArray
    ordered: bool
    start: int = 0


class _Lane:
    """The buffer of one source."""

    def __init__(self, position: Position, now: float) -> None:
        self.position = position
        self.pieces: deque[_Piece] = deque()
        self.buffered = 0
        self.heard = now
        self.at_end = False
        # Offsets that a checkpoint knows as done although they lie behind the place to resume at.
        self.skip_below = position.end
        self.reopen = list(position.open_ranges)


class Timeline:
    """Buffers, watermark and positions of a worker's sources. Not thread-safe: one thread uses it."""

    def __init__(self, lateness_ms: int, idle_s: float) -> None:
        self._lateness_ms = lateness_ms
        self._idle_s = idle_s
        self._lanes: dict[Source, _Lane] = {}
        self._reached = NEVER
        self._awake_since = float("-inf")
        self.late = 0

    @property
    def buffered(self) -> int:
        """Events that wait for the watermark."""
        return sum(lane.buffered for lane in self._lanes.values())

    @property
    def waiting_ahead(self) -> int:
        """Events that are ahead of the clock and wait for their time."""
        return 0

    def assign(self, source: Source, position: Position, now: float) -> None:
        """Begin (again) with a source at a position; what was buffered for it is dropped."""
        self._lanes[source] = _Lane(msgspec.structs.replace(position), now)

    def revoke(self, source: Source) -> None:
        """Stop with a source; its buffer is dropped."""
        self._lanes.pop(source, None)

    def sources(self) -> list[Source]:
        """The sources in use."""
        return sorted(self._lanes)

    def fresh(self, source: Source, offsets: IntArray) -> npt.NDArray[np.bool_] | None:
        """Which offsets have not been handled yet; None where all are fresh (the usual case)."""
        lane = self._lanes[source]
        end = lane.position.end
        if not len(offsets) or int(offsets[0]) >= end:
            return None
        fresh: npt.NDArray[np.bool_] = offsets >= end
        below = offsets < lane.skip_below
        for first, last in lane.reopen:
            fresh |= below & (offsets >= first) & (offsets <= last)
        return fresh

    def put(
        self, source: Source, end: int, events: list[Any], times: IntArray, offsets: IntArray, now: float
    ) -> None:
        """Buffer events of a batch that ended before offset ``end`` (also where all were refused)."""
        lane = self._lanes[source]
        # After a silence of all, the first source to speak must not leave the others behind.
        if now - max(other.heard for other in self._lanes.values()) >= self._idle_s:
            self._awake_since = now
        lane.heard = now
        lane.reopen = [(max(first, end), last) for first, last in lane.reopen if last >= end]
        lane.position.end = max(lane.position.end, end)
        if not events:
            return
        ordered = bool(np.all(times[1:] >= times[:-1])) if len(times) > 1 else True
        lane.pieces.append(_Piece(events, times, offsets, ordered))
        lane.buffered += len(events)
        lane.position.newest = max(lane.position.newest, int(times.max()))

    def promise(self, source: Source, watermark: int, now: float) -> None:
        """Nothing older than ``watermark`` follows in this source."""
        lane = self._lanes[source]
        lane.heard = now
        lane.position.promised = max(lane.position.promised, watermark)

    def set_at_end(self, source: Source, at_end: bool, now: float) -> None:
        """Whether everything that the broker has of a source has been put here, as far as it says so now.

        Silence counts from the moment that it is known: a broker that did not answer may have had events.
        """
        lane = self._lanes.get(source)
        if lane is None:
            return
        if at_end and not lane.at_end:
            lane.heard = max(lane.heard, now)
        lane.at_end = at_end

    def watermark(self, now: float) -> int:
        """Event time (ms) up to which the input is complete; never goes back."""
        held = [self._held(s, w) for s, w in self._marks() if not self._idle(self._lanes[s], now)]
        if held:
            mark = min(held)
        else:
            marks = [w for _, w in self._marks() if w > NEVER]
            if not marks:
                return self._reached
            silent = now - max(lane.heard for lane in self._lanes.values()) - self._idle_s
            mark = max(marks) + int(max(silent, 0.0) * 1000.0)
        self._reached = max(self._reached, mark)
        return self._reached

    def ahead(self, limit: int, now: float) -> set[Source]:
        """Sources that should not be fetched now: over ``limit`` events buffered and ahead of the others.

        The source that holds the watermark back is never among them, so this cannot deadlock.
        """
        over = {source for source, lane in self._lanes.items() if lane.buffered > limit}
        if not over:
            return over
        marks = {source: self._held(source, mark) for source, mark in self._marks()}
        slowest = min((w for s, w in marks.items() if not self._idle(self._lanes[s], now)), default=NEVER)
        return {source for source in over if marks[source] > slowest}

    def oldest(self) -> int | None:
        """Event time (ms) of the oldest buffered event."""
        times = [
            int(piece.times[0] if piece.ordered else piece.times.min())
            for lane in self._lanes.values()
            for piece in lane.pieces
        ]
        return min(times, default=None)

    def take(self, kind: int, boundary: int, done: int) -> Taken:
        """Remove and return the buffered events of a kind with time < ``boundary``.

        Those with time < ``done`` are late and counted.
        """
        events: list[Any] = []
        times: list[IntArray] = []
        for source in sorted(self._lanes):
            if source.kind != kind:
                continue
            lane = self._lanes[source]
            lane.buffered = 0
            remaining: deque[_Piece] = deque()
            for piece in lane.pieces:
                before, after = _split(piece, boundary)
                if before is not None:
                    events += before.events
                    times.append(before.times)
                if after is not None:
                    remaining.append(after)
                    lane.buffered += len(after.times)
            lane.pieces = remaining
        if not times:
            return Taken([], np.empty(0, dtype=np.int64))
        merged = np.concatenate(times)
        self.late += int(np.count_nonzero(merged < done))
        if len(merged) > 1 and not np.all(merged[1:] >= merged[:-1]):
            order = np.argsort(merged, kind="stable")
            merged = merged[order]
            events = [events[i] for i in order.tolist()]
        return Taken(events, merged)

    def positions(self) -> dict[Source, Position]:
        """Where each source stands, for a checkpoint."""
        result = {}
        for source, lane in self._lanes.items():
            offsets = [piece.offsets for piece in lane.pieces]
            # Open ranges of an earlier checkpoint that have not been read again yet stay open.
            ranges = sorted([*lane.reopen, *_ranges(offsets)])
            lane.position.open_ranges = ranges
            result[source] = Position(
                end=lane.position.end,
                open_ranges=ranges,
                newest=lane.position.newest,
                promised=lane.position.promised,
            )
        return result

    def _marks(self) -> Iterable[tuple[Source, int]]:
        for source, lane in self._lanes.items():
            newest = lane.position.newest
            behind = newest - self._lateness_ms if newest > NEVER else NEVER
            yield source, max(behind, lane.position.promised)

    def _held(self, source: Source, mark: int) -> int:
        # Open events that a restart has to read again are older than what the source's mark promises.
        return NEVER if self._lanes[source].reopen else mark

    def _idle(self, lane: _Lane, now: float) -> bool:
        return lane.at_end and now - max(lane.heard, self._awake_since) >= self._idle_s


def _split(piece: _Piece, boundary: int) -> tuple[_Piece | None, _Piece | None]:
    events, times, offsets, ordered, start = piece
    if ordered:
        k = int(np.searchsorted(times, boundary, side="left"))
        if k == 0:
            return None, piece
        taken = _Piece(events[start : start + k], times[:k], offsets[:k], True)
        return taken, _Piece(events, times[k:], offsets[k:], True, start + k) if k < len(times) else None
    below = times < boundary
    first, last = np.flatnonzero(below), np.flatnonzero(~below)
    return (
        _Piece([events[i] for i in first.tolist()], times[first], offsets[first], False)
        if len(first)
        else None,
        _Piece([events[i] for i in last.tolist()], times[last], offsets[last], False) if len(last) else None,
    )


def _ranges(offsets: list[IntArray]) -> list[tuple[int, int]]:
    """Consecutive offsets as inclusive [first, last] pairs."""
    if not offsets:
        return []
    merged = np.sort(np.concatenate(offsets))
    breaks = np.flatnonzero(np.diff(merged) != 1)
    firsts = merged[np.concatenate(([0], breaks + 1))]
    lasts = merged[np.concatenate((breaks, [len(merged) - 1]))]
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))
