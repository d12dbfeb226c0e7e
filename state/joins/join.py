"""The impression-action join: by impression id, any order of arrival, duplicates dropped, a time limit.

Impressions are remembered in *segments*, one a tick. A segment passes four moments: its samples close
``label_window`` after the tick's end; once that is so and it is written, it is *spilled*, and memory keeps a
hash and the action masks of its rows; in between later actions still find their impression (for counts; the
label stands), which is read back from RocksDB; and its impressions are forgotten ``join_limit`` after the
tick's end. Actions whose impression is not known wait as *orphans* for that limit.

Memory is bounded by open rows (those of the label window, and those since the last ``write``) at their full
size, and spilled rows (those of the join limit) at 11 to 13 bytes each: 8 in the index, 2 to 4 in its filter,
1 of masks. Segments have 300 bytes of their own, ``state.joins.spilled.CACHED_ROWS`` rows stay decoded, and
``state.joins.orphans.MAX_ORPHANS`` actions wait at most.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from features.events import IntArray
from state.errors import StateDamagedError
from state.joins.columns import Actions, Closed, Due, FloatArray32, JoinCounts, Joined, Shown
from state.joins.masks import Masks
from state.joins.orphans import MAX_ORPHANS, Orphans
from state.joins.payloads import Payloads, packed_payload
from state.joins.recent import Recent, repeats
from state.joins.segments import Segment, packed, stored
from state.joins.spilled import Spilled
from state.keys import JoinKeys, row_number
from state.row_index import HashArray, hashes_of
from state.store import Batch, Store

#: Bit of ``click`` in an action mask: actions are bits in the order of ``contracts.events.ACTIONS``.
CLICK = 1
_NOTHING: tuple[Sequence[str], HashArray] = ((), np.empty(0, dtype=np.uint64))


class Join:
    """Pending impressions and orphan actions of one source partition. Times in ms, ticks as numbers of
    ``tick_ms``. Rows are numbered from 0 on, without gaps.

    ``columns``: key columns of an impression, those that a plan wants ``remembered``.
    """

    def __init__(
        self,
        store: Store,
        tick_ms: int,
        label_window_ms: int,
        join_limit_ms: int,
        columns: int,
        max_orphans: int = MAX_ORPHANS,
        partition: int = 0,
    ) -> None:
        self.counts = JoinCounts()
        self._store = store
        self._tick_ms = tick_ms
        self._label_window_ms = label_window_ms
        self._join_limit_ms = join_limit_ms
        self._columns = columns
        self._keys = JoinKeys.of(partition)
        self._recent = Recent(columns)
        self._spilled = Spilled(store, self._keys, columns, self._segment_of)
        #: Action masks of all rows that are remembered.
        self._masks = Masks()
        #: What ``new_rows`` hashed last: usually it is what ``add`` gets next.
        self._hashed = _NOTHING
        self._orphans = Orphans(store, self._keys, max_orphans)
        #: Actions that waited for what ``add`` has added.
        self._waited: Actions | None = None
        #: Segments whose payload is not there yet, by their first row.
        self._unseen: dict[int, Segment] = {}
        # All segments, the oldest first: spilled ones, then those in memory, which begin with closed ones.
        self._segments: list[Segment] = []
        self._bases: list[int] = []
        self._next_base = 0
        self._in_memory: deque[Segment] = deque()
        self._to_close: deque[Segment] = deque()
        self._masks_changed: list[Segment] = []
        self._deletes: list[bytes] = []
        #: Segments whose payload is stored and no longer needed.
        self._shut_bases: list[int] = []
        self._payloads = Payloads(store, partition)

    def __len__(self) -> int:
        """Impressions that are remembered."""
        return self._next_base - self._first_base()

    @property
    def waits(self) -> bool:
        """Whether actions waited for what ``add`` has added; the next ``join`` has them."""
        return self._waited is not None

    @property
    def rows_in_memory(self) -> int:
        """Impressions that are in memory in full."""
        return len(self._recent)

    def new_rows(self, ids: Sequence[str]) -> npt.NDArray[np.intp] | None:
        """Indexes of impressions that are not duplicates; None where all are new (the usual case).

        Of equal ids the first stays. Dropped ones are counted.
        """
        hashes = hashes_of(ids)
        self._hashed = ids, hashes
        known = self._recent.find(ids, hashes)
        if len(self._spilled):
            self._spilled.find(ids, hashes, known)
        fresh = known < 0
        if repeats(hashes):
            seen: set[str] = set()
            for i, impression_id in enumerate(ids):
                if impression_id in seen:
                    fresh[i] = False
                seen.add(impression_id)
        if fresh.all():
            return None
        rows = np.flatnonzero(fresh)
        self.counts.duplicate_impressions += len(ids) - len(rows)
        return rows

    def add(self, tick: int, shown: Shown) -> int:
        """Remember new impressions of ``tick``; returns the number of the first one's row, others follow.

        The next ``join`` has the actions that waited for them. ``know`` and ``attach_payload`` follow before
        the next ``write``.
        """
        ids, hashes = self._hashed
        if ids is not shown.ids:
            hashes = hashes_of(shown.ids)
        self._hashed = _NOTHING
        segment = Segment(self._next_base, tick, len(shown))
        self._attach(segment, shown, hashes)
        self._masks.append(np.zeros(len(shown), dtype=np.uint8))
        self._unseen[segment.base] = segment
        self.counts.impressions += len(shown)
        self._waited = self._orphans.take(shown.ids)
        return segment.base

    def know(self, row: int, keys: HashArray) -> None:
        """The key columns (n, c) of the rows from ``row`` on, with what is worked out only now."""
        self._recent.replace_keys(row, keys)

    def attach_payload(self, row: int, inputs: FloatArray32, predictions: FloatArray32) -> None:
        """What the experts saw and said for the rows from ``row`` on; kept until they close."""
        segment = self._unseen.pop(row)
        segment.inputs, segment.predictions = inputs, predictions

    def join(self, actions: Actions, tick: int) -> Joined:
        """Find the impressions of actions; the rest become orphans. Call it after ``add`` in every tick.

        A second action of the same kind on an impression is dropped and counted. An action's time is
        never before its impression's: a skewed clock must not put a label into its own features.
        """
        counts, given, waited = self.counts, len(actions), self._waited
        self._waited = None
        if waited is not None:
            counts.orphans_waiting -= len(waited)
            counts.orphans_joined += len(waited)
            actions = actions.followed_by(waited)
        n = len(actions)
        found = Shown(
            actions.ids,
            np.zeros(n, dtype=np.int64),
            np.zeros((n, self._columns), dtype=np.uint64),
            np.zeros(n, dtype=np.int32),
            np.zeros(n, dtype=np.float64),
            np.zeros(n, dtype=np.int16),
        )
        rows = self._find(actions.ids, found)
        # By the tick that it came in, not by its own time: a very late action still gets its wait.
        expiry = (tick + 1) * self._tick_ms + self._join_limit_ms
        for i in np.flatnonzero(rows < 0).tolist():
            waits = self._orphans.wait(
                actions.ids[i],
                int(actions.bits[i]),
                int(actions.times[i]),
                expiry,
                int(actions.partitions[i]),
            )
            counts.orphans_waiting += waits
            counts.duplicate_actions += not waits
        known = np.flatnonzero(rows >= 0)
        counted = self._masks.mark(rows[known], actions.bits[known])
        counts.duplicate_actions += len(known) - int(np.count_nonzero(counted))
        known = known[counted]
        counts.actions += len(known)
        counts.actions_after_label += int(np.count_nonzero(rows[known] < self._open_from()))
        self._note_masks(rows[known])
        shed = self._orphans.shed()
        counts.orphans_waiting -= shed
        counts.orphans_expired += shed
        counts.orphans_shed += shed
        return Joined(
            index=np.where(known < given, known, -1).astype(np.int64),
            bits=actions.bits[known],
            times=np.maximum(actions.times[known], found.times[known]),
            keys=found.keys[known],
            places=found.places[known],
            prices=found.prices[known],
            partitions=found.partitions[known],
            rows=rows[known],
        )

    def next_close(self) -> int | None:
        """Event time (ms) at which the next samples close; None where none are open."""
        return self._close_time(self._to_close[0]) if self._to_close else None

    def last_close(self) -> int | None:
        """Event time (ms) at which the newest open samples close; None where none are open."""
        return self._close_time(self._to_close[-1]) if self._to_close else None

    def close(self, boundary_ms: int) -> Due | None:
        """Samples that close at or before ``boundary_ms``, which is a tick's start; None where none do.

        What has closed is as it was then, whatever comes later. ``closed`` makes samples of it, once its
        experts have spoken.
        """
        self._hashed = _NOTHING
        due: list[Segment] = []
        while self._to_close and self._close_time(self._to_close[0]) <= boundary_ms:
            due.append(self._to_close.popleft())
        closing = self._due(due) if due else None
        self._expire(boundary_ms)
        self._spill()
        return closing

    def closed(self, due: Due) -> Closed:
        """The samples of ``due``, whose payload is there by now."""
        inputs = [segment.inputs for segment in due.segments if segment.inputs is not None]
        predictions = [segment.predictions for segment in due.segments if segment.predictions is not None]
        for segment in due.segments:
            segment.inputs = segment.predictions = None
        labels = (due.masks & CLICK).astype(np.float64)
        return Closed(
            np.concatenate(inputs), np.concatenate(predictions), labels, due.masks, due.shown, due.ticks
        )

    def _due(self, due: list[Segment]) -> Due:
        begin, end = due[0].base, due[-1].end
        masks = self._masks.rows(begin, end)
        for segment in due:
            self._shut(segment)
        self.counts.samples += len(masks)
        self.counts.positives += int(np.count_nonzero(masks & CLICK))
        ticks = np.repeat([segment.tick for segment in due], [segment.size for segment in due])
        return Due(due, masks, self._recent.rows(begin, end), ticks)

    def forget_all(self) -> None:
        """Forget every impression and every waiting action, which counts as expired; the totals stay.

        For an input that goes back in time: what is remembered of later ticks must not meet it. Close the
        open samples before, at ``last_close``. Raises ``ValueError`` where some are open.
        """
        if self._to_close:
            raise ValueError(f"samples are open until {self.last_close()}; close them before forgetting")
        for segment in self._segments:
            self._delete(segment)
        self._segments, self._bases = [], []
        self._begin_at(self._next_base)
        self._in_memory.clear()
        self._masks_changed.clear()
        self._spilled.clear()
        self.counts.orphans_expired += self._orphans.clear()
        self.counts.orphans_waiting = 0

    def drop_open(self) -> int:
        """Close everything that is open without making samples of it; returns how many impressions.

        For a new trunk: what the experts saw and said came from another one. Impressions stay remembered.
        """
        dropped = 0
        while self._to_close:
            segment = self._to_close.popleft()
            self._shut(segment)
            segment.inputs = segment.predictions = None
            dropped += segment.size
        return dropped

    def write(self, batch: Batch) -> None:
        """Add everything that changed since the last ``write`` to ``batch``, which is to be committed.

        Closed segments that are in it leave memory with the next ``close``.
        """
        self._payloads.committed()
        for key in self._deletes:
            batch.delete(key)
        for base in self._shut_bases:
            self._payloads.delete(batch, base)
        self._deletes, self._shut_bases = [], []
        for segment in self._in_memory:
            if not segment.written:
                segment.put(batch, self._keys, self._recent.rows(segment.base, segment.end))
                if segment.open:
                    assert segment.inputs is not None and segment.predictions is not None
                    self._payloads.put(batch, segment.base, segment.inputs, segment.predictions)
                segment.written = True
                self._note_change(segment)
        first = self._first_base()
        for segment in self._masks_changed:
            segment.masks_changed = False
            if segment.base >= first:
                batch.put(
                    self._keys.masks + row_number(segment.base),
                    self._masks.rows(segment.base, segment.end).tobytes(),
                )
        self._masks_changed = []
        self._orphans.write(batch)

    def restore(self, counts: JoinCounts) -> None:
        """Load what the last checkpoint wrote. Raises ``StateDamagedError`` where it does not fit."""
        self.counts = counts
        for segment, shown, masks in stored(self._store, self._keys, self._columns, self._payloads):
            if not self._segments:
                self._begin_at(segment.base)
            self._attach(segment, shown, hashes_of(shown.ids))
            self._masks.append(masks)
            self._spill()
        if self._segments and self._next_base != counts.impressions:
            raise StateDamagedError(self._store.path, f"the join ends before impression {counts.impressions}")
        self._payloads.clean({segment.base for segment in self._to_close})
        # Not from the last segment: all may be forgotten, and numbers go on as without a restart.
        if not self._segments:
            self._begin_at(counts.impressions)
        self._orphans.restore()

    def remembered(self) -> Iterator[tuple[Segment, Shown]]:
        """All segments with their impressions, the oldest first; what is on disk only is read back."""
        for segment in self._segments:
            if segment.base >= self._recent.base:
                yield segment, self._recent.rows(segment.base, segment.end)
            else:
                yield segment, segment.read(self._store, self._keys, self._columns)

    def state(self) -> Iterator[bytes]:
        """The content of the join in a fixed order, for digests; segments are read back one by one."""
        for segment, shown in self.remembered():
            yield msgspec.msgpack.encode(packed(segment.base, segment.tick, shown))
            yield self._masks.rows(segment.base, segment.end).tobytes()
            if segment.inputs is not None and segment.predictions is not None:
                yield packed_payload(segment.inputs, segment.predictions)
        yield from self._orphans.state()
        yield msgspec.msgpack.encode(self.counts)

    def _find(self, ids: list[str], found: Shown) -> IntArray:
        """Numbers of the impressions, -1 where unknown; ``found`` gets what is known of them."""
        hashes = hashes_of(ids)
        rows = self._recent.find(ids, hashes)
        here = np.flatnonzero(rows >= 0)
        self._recent.take(rows[here], found, here)
        if len(self._spilled) and len(here) < len(ids):
            self._spilled.find(ids, hashes, rows, found)
        return rows

    def _begin_at(self, base: int) -> None:
        """The first row that comes has this number."""
        self._next_base = base
        self._recent.clear(base)
        self._masks.drop_below(base)

    def _attach(self, segment: Segment, shown: Shown, hashes: HashArray) -> None:
        self._segments.append(segment)
        self._bases.append(segment.base)
        self._next_base = segment.end
        self._recent.append(shown, hashes)
        self._in_memory.append(segment)
        if segment.open:
            self._to_close.append(segment)

    def _segment_of(self, row: int) -> Segment:
        return self._segments[bisect_right(self._bases, row) - 1]

    def _first_base(self) -> int:
        """Number of the first row that is remembered; rows are numbered without gaps."""
        return self._bases[0] if self._bases else self._next_base

    def _open_from(self) -> int:
        """Number of the first row whose label is open: segments close in their order."""
        return self._to_close[0].base if self._to_close else self._next_base

    def _shut(self, segment: Segment) -> None:
        segment.open = False
        if segment.written:
            self._shut_bases.append(segment.base)

    def _note_masks(self, rows: IntArray) -> None:
        """The masks of these rows have changed."""
        if len(rows):
            at = np.searchsorted(np.array(self._bases, dtype=np.int64), rows, side="right") - 1
            for i in np.unique(at).tolist():
                self._note_change(self._segments[i])

    def _note_change(self, segment: Segment) -> None:
        if not segment.masks_changed:
            segment.masks_changed = True
            self._masks_changed.append(segment)

    def _close_time(self, segment: Segment) -> int:
        return (segment.tick + 1) * self._tick_ms + self._label_window_ms

    def _spill(self) -> None:
        """Segments that are closed and written leave memory but for hashes and masks."""
        while self._in_memory and self._in_memory[0].written and not self._in_memory[0].open:
            segment = self._in_memory.popleft()
            self._spilled.add(segment.base, self._recent.hashes(segment.base, segment.end))
            self._recent.drop(segment.size)

    def _delete(self, segment: Segment) -> None:
        if segment.written:
            self._deletes += segment.stored_at(self._keys)

    def _expire(self, boundary_ms: int) -> None:
        gone = 0
        for segment in self._segments:
            if segment.open or (segment.tick + 1) * self._tick_ms + self._join_limit_ms > boundary_ms:
                break
            gone += 1
            self._delete(segment)
            if segment.base >= self._recent.base:
                self._in_memory.popleft()
                self._recent.drop(segment.size)
        if gone:
            del self._segments[:gone], self._bases[:gone]
            self._masks.drop_below(self._first_base())
            self._spilled.forget(self._first_base())
        expired = self._orphans.expire(boundary_ms)
        self.counts.orphans_waiting -= expired
        self.counts.orphans_expired += expired
