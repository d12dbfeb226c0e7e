"""The impression-action join: by impression id, any order of arrival, duplicates dropped, a time limit.

Impressions are remembered in *segments*, one a tick, column by column. A segment passes four moments: its
samples close ``label_window`` after the tick's end; once that is so and it is written, it is *spilled*, and
memory keeps a hash and the action masks of its rows; in between later actions still find their impression
(for counts; the label stands), which is read back from RocksDB; and its impressions are forgotten
``join_limit`` after the tick's end. Actions whose impression is not known wait as *orphans* for that limit.

Memory is bounded by open rows (those of the label window, and those since the last ``write``) at their full
size, and spilled rows (those of the join limit) at 11 to 13 bytes each: 8 in the index, 2 to 4 in its filter,
1 of masks. Segments have 500 bytes of their own, ``state.spilled.CACHED_ROWS`` rows stay decoded, and
``state.orphans.MAX_ORPHANS`` actions wait at most.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from state.errors import StateDamagedError
from state.keys import SEGMENT_MASKS, SEGMENT_PAYLOAD
from state.orphans import MAX_ORPHANS, Orphans
from state.row_index import HashArray, hashes_of
from state.segments import FloatArray32, IntArray, Remembered, Segment, number, stored
from state.spilled import Found, Spilled
from state.store import Batch, Store

#: Bit of ``click`` in an action mask: actions are bits in the order of ``COUNTS[1:]``.
CLICK = 1
_NOTHING: tuple[Sequence[str], HashArray] = ((), np.empty(0, dtype=np.uint64))


class Joined(msgspec.Struct):
    """Actions that found their impression, aligned lists, in the order given."""

    bits: list[int]
    times: list[int]
    users: list[str]
    items: list[str]
    categories: list[str]
    positions: list[str]


class Closed(msgspec.Struct):
    """Samples whose label stands: the heads' inputs (n, p), their predictions (n, K), labels (n,).

    ``segments`` are the impressions that they come from, in the same order.
    """

    inputs: FloatArray32
    predictions: FloatArray32
    labels: npt.NDArray[np.float64]
    masks: npt.NDArray[np.uint8]
    segments: list[Segment]


class JoinCounts(msgspec.Struct):
    """Totals since the state began; part of every checkpoint.

    ``orphans_shed`` are those of ``orphans_expired`` that expired early, for room.
    """

    impressions: int = 0
    duplicate_impressions: int = 0
    actions: int = 0
    duplicate_actions: int = 0
    orphans_waiting: int = 0
    orphans_joined: int = 0
    orphans_expired: int = 0
    orphans_shed: int = 0
    actions_after_label: int = 0
    samples: int = 0
    positives: int = 0


class Join:
    """Pending impressions and orphan actions of one worker. Times in ms, ticks as numbers of ``tick_ms``."""

    def __init__(
        self,
        store: Store,
        tick_ms: int,
        label_window_ms: int,
        join_limit_ms: int,
        max_orphans: int = MAX_ORPHANS,
    ) -> None:
        self.counts = JoinCounts()
        self._store = store
        self._tick_ms = tick_ms
        self._label_window_ms = label_window_ms
        self._join_limit_ms = join_limit_ms
        #: Row numbers of the segments that are in memory, and how many they were at most.
        self._rows: dict[str, int] = {}
        self._most_rows = 0
        self._spilled = Spilled(store, self._find)
        #: What ``new_rows`` hashed last: usually it is what ``add`` gets next.
        self._hashed = _NOTHING
        self._orphans = Orphans(store, max_orphans)
        # All segments, the oldest first: spilled ones, then those in memory, which begin with closed ones.
        self._segments: list[Remembered] = []
        self._bases: list[int] = []
        self._next_base = 0
        self._in_memory: deque[Remembered] = deque()
        self._to_close: deque[Remembered] = deque()
        self._masks_changed: list[Remembered] = []
        self._deletes: list[bytes] = []

    def __len__(self) -> int:
        """Impressions that are remembered."""
        return self._next_base - self._first_base()

    @property
    def rows_in_memory(self) -> int:
        """Impressions that are in memory in full."""
        return len(self._rows)

    def new_rows(self, ids: Sequence[str]) -> list[int] | None:
        """Indexes of impressions that are not duplicates; None where all are new (the usual case).

        Of equal ids the first stays. Dropped ones are counted.
        """
        self._hashed = ids, hashes_of(ids)
        rows, spilled = self._rows, self._spilled.find(*self._hashed)
        if not spilled and rows.keys().isdisjoint(ids) and len(set(ids)) == len(ids):
            return None
        seen: set[str] = set()
        fresh = []
        for i, impression_id in enumerate(ids):
            if impression_id not in rows and impression_id not in spilled and impression_id not in seen:
                seen.add(impression_id)
                fresh.append(i)
        self.counts.duplicate_impressions += len(ids) - len(fresh)
        return fresh

    def add(
        self,
        tick: int,
        ids: list[str],
        times: IntArray,
        users: list[str],
        items: list[str],
        categories: list[str],
        positions: list[str],
    ) -> list[tuple[str, int, int]]:
        """Remember new impressions of ``tick``. Returns orphans that waited: (impression id, bit, time)."""
        segment = Segment(
            base=self._next_base,
            tick=tick,
            ids=ids,
            times=times.astype("<i8").tobytes(),
            users=users,
            items=items,
            categories=categories,
            positions=positions,
        )
        known, hashes = self._hashed
        if known is not ids:
            hashes = hashes_of(ids)
        self._hashed = _NOTHING
        live = Remembered(segment, np.zeros(len(ids), dtype=np.uint8), hashes)
        self._attach(live)
        self._keep_in_memory(live)
        self.counts.impressions += len(ids)
        waited = self._orphans.take(ids)
        self.counts.orphans_waiting -= len(waited)
        self.counts.orphans_joined += len(waited)
        return waited

    def attach_payload(self, inputs: FloatArray32, predictions: FloatArray32) -> None:
        """What the experts saw and said for the segment that ``add`` made last; kept until it closes."""
        live = self._segments[-1]
        live.features, live.predictions = inputs, predictions

    def join(self, actions: Sequence[tuple[str, int, int]], tick: int) -> Joined:
        """Find the impressions of (impression id, bit, time) actions; the rest become orphans.

        A second action of the same kind on an impression is dropped and counted. An action's time is
        never before its impression's: a skewed clock must not put a label into its own features.
        """
        counts, rows = self.counts, self._rows
        spilled: dict[str, Found] = {}
        if len(self._spilled):
            missing = [impression_id for impression_id, _, _ in actions if impression_id not in rows]
            spilled = self._spilled.find(missing, hashes_of(missing)) if missing else {}
        # By the tick that it came in, not by its own time: a very late action still gets its wait.
        expiry = (tick + 1) * self._tick_ms + self._join_limit_ms
        joined = Joined([], [], [], [], [], [])
        for impression_id, bit, time in actions:
            row = rows.get(impression_id)
            if row is not None:
                live = self._find(row)
                i = row - live.base
                found = None
            elif (found := spilled.get(impression_id)) is not None:
                live, i = found.segment, found.at
            else:
                if self._orphans.wait(impression_id, bit, time, expiry):
                    counts.orphans_waiting += 1
                else:
                    counts.duplicate_actions += 1
                continue
            if live.masks[i] & bit:
                counts.duplicate_actions += 1
                continue
            live.masks[i] |= bit
            self._note_masks(live)
            counts.actions += 1
            if not live.open:
                counts.actions_after_label += 1
            joined.bits.append(bit)
            if found is not None:
                joined.times.append(max(time, found.time))
                joined.users.append(found.user)
                joined.items.append(found.item)
                joined.categories.append(found.category)
                joined.positions.append(found.position)
            else:
                columns, times = live.columns, live.times
                assert columns is not None and times is not None
                joined.times.append(max(time, int(times[i])))
                joined.users.append(columns.users[i])
                joined.items.append(columns.items[i])
                joined.categories.append(columns.categories[i])
                joined.positions.append(columns.positions[i])
        shed = self._orphans.shed()
        counts.orphans_waiting -= shed
        counts.orphans_expired += shed
        counts.orphans_shed += shed
        return joined

    def next_close(self) -> int | None:
        """Event time (ms) at which the next samples close; None where none are open."""
        return self._close_time(self._to_close[0]) if self._to_close else None

    def last_close(self) -> int | None:
        """Event time (ms) at which the newest open samples close; None where none are open."""
        return self._close_time(self._to_close[-1]) if self._to_close else None

    def close(self, boundary_ms: int) -> Closed | None:
        """Samples that close at or before ``boundary_ms``, which is a tick's start; None where none do."""
        self._hashed = _NOTHING
        due = []
        while self._to_close and self._close_time(self._to_close[0]) <= boundary_ms:
            due.append(self._to_close.popleft())
        closed = self._closed(due)
        self._expire(boundary_ms)
        self._spill()
        return closed

    def _closed(self, due: list[Remembered]) -> Closed | None:
        if not due:
            return None
        inputs = [live.features for live in due if live.features is not None]
        predictions = [live.predictions for live in due if live.predictions is not None]
        segments = [live.columns for live in due if live.columns is not None]
        masks = np.concatenate([live.masks for live in due])
        for live in due:
            self._shut(live)
        labels = (masks & CLICK).astype(np.float64)
        self.counts.samples += len(labels)
        self.counts.positives += int(labels.sum())
        return Closed(np.concatenate(inputs), np.concatenate(predictions), labels, masks, segments)

    def forget_all(self) -> None:
        """Forget every impression and every waiting action, which counts as expired; the totals stay.

        For an input that goes back in time: what is remembered of later ticks must not meet it. Close the
        open samples before, at ``last_close``. Raises ``ValueError`` where some are open.
        """
        if self._to_close:
            raise ValueError(f"samples are open until {self.last_close()}; close them before forgetting")
        for live in self._segments:
            self._delete(live)
        self._segments, self._bases, self._rows = [], [], {}
        self._most_rows = 0
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
            live = self._to_close.popleft()
            self._shut(live)
            dropped += len(live.masks)
        return dropped

    def write(self, batch: Batch) -> None:
        """Add everything that changed since the last ``write`` to ``batch``, which is to be committed.

        Closed segments that are in it leave memory with the next ``close``.
        """
        for key in self._deletes:
            batch.delete(key)
        self._deletes = []
        for live in self._in_memory:
            if not live.written:
                live.put_columns(batch)
                if live.open:
                    batch.put(SEGMENT_PAYLOAD + number(live.base), live.packed_payload())
                live.written = True
                self._note_masks(live)
        for live in self._masks_changed:
            live.masks_changed = False
            if live.base >= self._first_base():
                batch.put(SEGMENT_MASKS + number(live.base), live.masks.tobytes())
        self._masks_changed = []
        self._orphans.write(batch)

    def restore(self, counts: JoinCounts) -> None:
        """Load what the last checkpoint wrote. Raises ``StateDamagedError`` where it does not fit."""
        self.counts = counts
        for live in stored(self._store):
            self._attach(live)
            self._keep_in_memory(live)
            self._spill()
        if self._segments and self._next_base != counts.impressions:
            raise StateDamagedError(self._store.path, f"the join ends before impression {counts.impressions}")
        # Not from the last segment: all may be forgotten, and numbers go on as without a restart.
        self._next_base = counts.impressions
        self._orphans.restore()

    def state(self) -> Iterator[bytes]:
        """The content of the join in a fixed order, for digests; segments are read back one by one."""
        for live in self._segments:
            yield msgspec.msgpack.encode(live.read_columns(self._store))
            yield live.masks.tobytes()
            if live.features is not None:
                yield live.packed_payload()
        yield from self._orphans.state()
        yield msgspec.msgpack.encode(self.counts)

    def _attach(self, live: Remembered) -> None:
        self._segments.append(live)
        self._bases.append(live.base)
        self._next_base = live.base + len(live)

    def _keep_in_memory(self, live: Remembered) -> None:
        columns = live.columns
        assert columns is not None
        self._rows.update(zip(columns.ids, range(live.base, live.base + len(live)), strict=True))
        self._most_rows = max(self._most_rows, len(self._rows))
        self._in_memory.append(live)
        if live.open:
            self._to_close.append(live)

    def _find(self, row: int) -> Remembered:
        return self._segments[bisect_right(self._bases, row) - 1]

    def _first_base(self) -> int:
        """Number of the first row that is remembered; rows are numbered without gaps."""
        return self._bases[0] if self._bases else self._next_base

    def _shut(self, live: Remembered) -> None:
        live.open = False
        live.features = live.predictions = None
        if live.written:
            self._deletes.append(SEGMENT_PAYLOAD + number(live.base))

    def _note_masks(self, live: Remembered) -> None:
        if not live.masks_changed:
            live.masks_changed = True
            self._masks_changed.append(live)

    def _close_time(self, live: Remembered) -> int:
        return (live.tick + 1) * self._tick_ms + self._label_window_ms

    def _spill(self) -> None:
        """Segments that are closed and written leave memory but for hashes and masks."""
        while self._in_memory and self._in_memory[0].written and not self._in_memory[0].open:
            live = self._in_memory.popleft()
            columns, hashes = live.columns, live.hashes
            assert columns is not None and hashes is not None
            self._drop_rows(columns.ids)
            self._spilled.add(live.base, hashes)
            live.columns = live.times = live.hashes = None

    def _drop_rows(self, ids: Sequence[str]) -> None:
        rows = self._rows
        for impression_id in ids:
            del rows[impression_id]
        if len(rows) * 8 < self._most_rows:
            # A dictionary keeps the room of its best days.
            self._rows, self._most_rows = dict(rows), len(rows)

    def _delete(self, live: Remembered) -> None:
        if live.written:
            self._deletes += live.keys()

    def _expire(self, boundary_ms: int) -> None:
        gone = 0
        for live in self._segments:
            if live.open or (live.tick + 1) * self._tick_ms + self._join_limit_ms > boundary_ms:
                break
            gone += 1
            self._delete(live)
            if live.columns is not None:
                self._in_memory.popleft()
                self._drop_rows(live.columns.ids)
        if gone:
            del self._segments[:gone], self._bases[:gone]
            self._spilled.forget(self._first_base())
        expired = self._orphans.expire(boundary_ms)
        self.counts.orphans_waiting -= expired
        self.counts.orphans_expired += expired
