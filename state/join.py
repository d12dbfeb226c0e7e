"""The impression-action join: by impression id, any order of arrival, duplicates dropped, a time limit.

Impressions are remembered in *segments*, one a tick, column by column. A segment passes three moments:
its samples close ``label_window`` after the tick's end, its impressions are forgotten ``join_limit`` after
it, and in between later actions still find their impression (for counts; the label stands). Actions whose
impression is not known wait as *orphans* for the same limit.

In RocksDB a segment is one immutable row of columns, one row with what the experts saw (deleted when the
samples close), and one small row of action masks that is rewritten when actions come.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from state.errors import StateDamagedError, decoding
from state.store import Batch, Store

IntArray = npt.NDArray[np.int64]
FloatArray32 = npt.NDArray[np.float32]

#: Bit of ``click`` in an action mask: actions are bits in the order of ``COUNTS[1:]``.
CLICK = 1

_COLUMNS, _PAYLOAD, _MASKS, _ORPHANS = b"seg/columns/", b"seg/payload/", b"seg/masks/", b"orphan/"


class Segment(msgspec.Struct, kw_only=True):
    """The impressions of one tick. ``base`` is the global number of its first row."""

    base: int
    tick: int
    ids: list[str]
    times: bytes
    users: list[str]
    items: list[str]
    categories: list[str]
    positions: list[str]

    def __len__(self) -> int:
        return len(self.ids)


class _Live:
    """A segment in memory with what changes about it."""

    __slots__ = ("features", "masks", "masks_changed", "open", "predictions", "segment", "times", "written")

    def __init__(self, segment: Segment, masks: npt.NDArray[np.uint8]) -> None:
        self.segment = segment
        self.times: IntArray = np.frombuffer(segment.times, dtype="<i8")
        self.masks = masks
        self.features: FloatArray32 | None = None
        self.predictions: FloatArray32 | None = None
        self.open = True
        self.written = False
        self.masks_changed = False


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
    """Totals since the state began; part of every checkpoint."""

    impressions: int = 0
    duplicate_impressions: int = 0
    actions: int = 0
    duplicate_actions: int = 0
    orphans_waiting: int = 0
    orphans_joined: int = 0
    orphans_expired: int = 0
    actions_after_label: int = 0
    samples: int = 0
    positives: int = 0


class Join:
    """Pending impressions and orphan actions of one worker. Times in ms, ticks as numbers of ``tick_ms``."""

    def __init__(self, store: Store, tick_ms: int, label_window_ms: int, join_limit_ms: int) -> None:
        self.counts = JoinCounts()
        self._store = store
        self._tick_ms = tick_ms
        self._label_window_ms = label_window_ms
        self._join_limit_ms = join_limit_ms
        self._rows: dict[str, int] = {}
        self._segments: deque[_Live] = deque()
        self._bases: deque[int] = deque()
        self._next_base = 0
        self._to_close: deque[_Live] = deque()
        # impression id -> (bit, time, expiry) of each waiting action
        self._orphans: dict[str, list[tuple[int, int, int]]] = {}
        self._orphan_expiry: deque[tuple[int, str]] = deque()
        self._orphans_changed: set[str] = set()
        self._deletes: list[bytes] = []

    def __len__(self) -> int:
        """Impressions that are remembered."""
        return len(self._rows)

    def new_rows(self, ids: Sequence[str]) -> list[int] | None:
        """Indexes of impressions that are not duplicates; None where all are new (the usual case).

        Of equal ids the first stays. Dropped ones are counted.
        """
        rows = self._rows
        if rows.keys().isdisjoint(ids) and len(set(ids)) == len(ids):
            return None
        seen: set[str] = set()
        fresh = []
        for i, impression_id in enumerate(ids):
            if impression_id not in rows and impression_id not in seen:
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
        self._attach(_Live(segment, np.zeros(len(ids), dtype=np.uint8)))
        self.counts.impressions += len(ids)
        if not self._orphans:
            return []
        waited = []
        for impression_id in ids:
            actions = self._orphans.pop(impression_id, None)
            if actions:
                self._orphans_changed.add(impression_id)
                self.counts.orphans_waiting -= len(actions)
                self.counts.orphans_joined += len(actions)
                waited += [(impression_id, bit, time) for bit, time, _ in actions]
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
        joined = Joined([], [], [], [], [], [])
        for impression_id, bit, time in actions:
            row = rows.get(impression_id)
            if row is None:
                self._wait(impression_id, bit, time, tick)
                continue
            live = self._find(row)
            i = row - live.segment.base
            if live.masks[i] & bit:
                counts.duplicate_actions += 1
                continue
            live.masks[i] |= bit
            live.masks_changed = True
            counts.actions += 1
            if not live.open:
                counts.actions_after_label += 1
            segment = live.segment
            joined.bits.append(bit)
            joined.times.append(max(time, int(live.times[i])))
            joined.users.append(segment.users[i])
            joined.items.append(segment.items[i])
            joined.categories.append(segment.categories[i])
            joined.positions.append(segment.positions[i])
        return joined

    def next_close(self) -> int | None:
        """Event time (ms) at which the next samples close; None where none are open."""
        return self._close_time(self._to_close[0]) if self._to_close else None

    def last_close(self) -> int | None:
        """Event time (ms) at which the newest open samples close; None where none are open."""
        return self._close_time(self._to_close[-1]) if self._to_close else None

    def close(self, boundary_ms: int) -> Closed | None:
        """Samples that close at or before ``boundary_ms``, which is a tick's start; None where none do."""
        due = []
        while self._to_close and self._close_time(self._to_close[0]) <= boundary_ms:
            due.append(self._to_close.popleft())
        for live in due:
            live.open = False
        self._expire(boundary_ms)
        if not due:
            return None
        inputs = [live.features for live in due if live.features is not None]
        predictions = [live.predictions for live in due if live.predictions is not None]
        masks = np.concatenate([live.masks for live in due])
        for live in due:
            self._forget_payload(live)
        labels = (masks & CLICK).astype(np.float64)
        self.counts.samples += len(labels)
        self.counts.positives += int(labels.sum())
        segments = [live.segment for live in due]
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
        self._segments.clear()
        self._bases.clear()
        self._rows = {}
        self._orphans_changed.update(self._orphans)
        self._orphans = {}
        self._orphan_expiry.clear()
        self.counts.orphans_expired += self.counts.orphans_waiting
        self.counts.orphans_waiting = 0

    def drop_open(self) -> int:
        """Close everything that is open without making samples of it; returns how many impressions.

        For a new trunk: what the experts saw and said came from another one. Impressions stay remembered.
        """
        dropped = 0
        while self._to_close:
            live = self._to_close.popleft()
            live.open = False
            self._forget_payload(live)
            dropped += len(live.segment)
        return dropped

    def write(self, batch: Batch) -> None:
        """Add everything that changed since the last ``write`` to ``batch``."""
        for key in self._deletes:
            batch.delete(key)
        self._deletes.clear()
        for live in self._segments:
            number = _number(live.segment.base)
            if not live.written:
                batch.put(_COLUMNS + number, msgspec.msgpack.encode(live.segment))
                if live.open:
                    batch.put(_PAYLOAD + number, _pack_payload(live))
                live.written = True
                live.masks_changed = True
            if live.masks_changed:
                batch.put(_MASKS + number, live.masks.tobytes())
                live.masks_changed = False
        for impression_id in sorted(self._orphans_changed):
            key = _ORPHANS + impression_id.encode()
            waiting = self._orphans.get(impression_id)
            if waiting:
                batch.put(key, msgspec.msgpack.encode(waiting))
            else:
                batch.delete(key)
        self._orphans_changed.clear()

    def restore(self, counts: JoinCounts) -> None:
        """Load what the last checkpoint wrote. Raises ``StateDamagedError`` where it does not fit."""
        self.counts = counts
        folder = self._store.path
        for key, value in self._store.scan(_COLUMNS):
            number = key[len(_COLUMNS) :]
            with decoding(folder, f"segment {number.hex()} of the join"):
                live = self._stored(number, value)
                if self._segments and live.segment.base != self._next_base:
                    raise ValueError(f"it does not follow impression {self._next_base}")
            self._attach(live)
        if self._segments and self._next_base != counts.impressions:
            raise StateDamagedError(folder, f"the join ends before impression {counts.impressions}")
        # Not from the last segment: all may be forgotten, and numbers go on as without a restart.
        self._next_base = counts.impressions
        for key, value in self._store.scan(_ORPHANS):
            with decoding(folder, f"waiting action {key!r}"):
                impression_id = key[len(_ORPHANS) :].decode()
                waiting = msgspec.msgpack.decode(value, type=list[tuple[int, int, int]])
            self._orphans[impression_id] = waiting
            self._orphan_expiry += [(expiry, impression_id) for _, _, expiry in waiting]
        self._orphan_expiry = deque(sorted(self._orphan_expiry))

    def state(self) -> Iterator[bytes]:
        """The content of the join in a fixed order, for digests."""
        for live in self._segments:
            yield msgspec.msgpack.encode(live.segment)
            yield live.masks.tobytes()
            if live.features is not None:
                yield _pack_payload(live)
        for impression_id in sorted(self._orphans):
            yield msgspec.msgpack.encode((impression_id, sorted(self._orphans[impression_id])))
        yield msgspec.msgpack.encode(self.counts)

    def _stored(self, number: bytes, value: bytes) -> _Live:
        """A segment from its rows. Raises whatever its decoders do, see ``state.errors.decoding``."""
        segment = msgspec.msgpack.decode(value, type=Segment)
        columns = (segment.users, segment.items, segment.categories, segment.positions)
        lengths = {len(segment.times) / 8, *map(len, columns)}
        if lengths != {len(segment)} or _number(segment.base) != number:
            raise ValueError("its columns do not fit together")
        masks = self._store.get(_MASKS + number)
        if masks is None or len(masks) != len(segment):
            raise ValueError("it has no action masks")
        live = _Live(segment, np.frombuffer(masks, dtype=np.uint8).copy())
        live.written = True
        payload = self._store.get(_PAYLOAD + number)
        if payload is None:
            live.open = False
        else:
            live.features, live.predictions = _unpack_payload(payload, len(segment))
        return live

    def _attach(self, live: _Live) -> None:
        base = live.segment.base
        self._segments.append(live)
        self._bases.append(base)
        self._next_base = base + len(live.segment)
        self._rows.update(zip(live.segment.ids, range(base, self._next_base), strict=True))
        if live.open:
            self._to_close.append(live)

    def _find(self, row: int) -> _Live:
        return self._segments[bisect_right(self._bases, row) - 1]

    def _wait(self, impression_id: str, bit: int, time: int, tick: int) -> None:
        waiting = self._orphans.setdefault(impression_id, [])
        if any(bit == other for other, _, _ in waiting):
            self.counts.duplicate_actions += 1
            return
        # By the tick that it came in, not by its own time: a very late action still gets its wait.
        expiry = (tick + 1) * self._tick_ms + self._join_limit_ms
        waiting.append((bit, time, expiry))
        self._orphans_changed.add(impression_id)
        self.counts.orphans_waiting += 1
        self._orphan_expiry.append((expiry, impression_id))

    def _forget_payload(self, live: _Live) -> None:
        live.features = live.predictions = None
        if live.written:
            self._deletes.append(_PAYLOAD + _number(live.segment.base))

    def _close_time(self, live: _Live) -> int:
        return (live.segment.tick + 1) * self._tick_ms + self._label_window_ms

    def _delete(self, live: _Live) -> None:
        if live.written:
            number = _number(live.segment.base)
            self._deletes += [_COLUMNS + number, _MASKS + number]

    def _expire(self, boundary_ms: int) -> None:
        segments = self._segments
        while segments:
            oldest = segments[0]
            if oldest.open or (oldest.segment.tick + 1) * self._tick_ms + self._join_limit_ms > boundary_ms:
                break
            segments.popleft()
            self._bases.popleft()
            for impression_id in oldest.segment.ids:
                del self._rows[impression_id]
            self._delete(oldest)
        while self._orphan_expiry and self._orphan_expiry[0][0] <= boundary_ms:
            _, impression_id = self._orphan_expiry.popleft()
            waiting = self._orphans.pop(impression_id, [])
            still = [entry for entry in waiting if entry[2] > boundary_ms]
            if still:
                self._orphans[impression_id] = still
            if len(still) < len(waiting):
                self._orphans_changed.add(impression_id)
                self.counts.orphans_waiting -= len(waiting) - len(still)
                self.counts.orphans_expired += len(waiting) - len(still)


def _number(base: int) -> bytes:
    # Big-endian: key order is the order of the segments.
    return base.to_bytes(8, "big")


def _pack_payload(live: _Live) -> bytes:
    assert live.features is not None and live.predictions is not None
    return msgspec.msgpack.encode((live.features.tobytes(), live.predictions.tobytes()))


def _unpack_payload(data: bytes, rows: int) -> tuple[FloatArray32, FloatArray32]:
    features, predictions = msgspec.msgpack.decode(data, type=tuple[bytes, bytes])
    return (
        np.frombuffer(features, dtype=np.float32).reshape(rows, -1),
        np.frombuffer(predictions, dtype=np.float32).reshape(rows, -1),
    )
