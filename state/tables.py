"""Decayed counts: one table of rows of exponentially decayed counts, exact as of every impression.

Rows live in RocksDB; a bounded set of hot rows is kept in numpy arrays. A row holds its counts decayed to
the event time ``last``. Within a tick all contributions are expressed at the tick's end (forward decay,
Cormode et al., "Forward decay", ICDE 2009), so that adding is a scatter-add and the counts *before* each
event are exclusive prefix sums of its group: nothing later than an impression can leak into its features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from state.errors import decoding
from state.formulas import COUNTS, FloatArray, decay, unpack_row
from state.keys import rows_of
from state.republish import Republish
from state.store import Batch, Store

IntArray = npt.NDArray[np.int64]

INITIAL_ROWS = 1024
_COLUMNS = ("_counts", "_last", "_touched", "_dirty", "_unpublished")


class DecayedCounts:
    """The rows of one table (``item``, ``user``, ...), keyed by entity id."""

    def __init__(self, name: str, half_lives_s: Sequence[float], store: Store, cached_rows: int) -> None:
        self.name = name
        self.half_lives_s = tuple(half_lives_s)
        self.evicted = 0
        self._half_lives_ms: FloatArray = np.asarray(self.half_lives_s, dtype=np.float64) * 1000.0
        self._store = store
        self._prefix = rows_of(name)
        self._cached_rows = cached_rows
        self._slots: dict[str, int] = {}
        self._entities: list[str] = []
        self._counts: FloatArray = np.zeros((INITIAL_ROWS, len(COUNTS), len(half_lives_s)))
        self._last: IntArray = np.zeros(INITIAL_ROWS, dtype=np.int64)
        self._touched: IntArray = np.zeros(INITIAL_ROWS, dtype=np.int64)
        self._dirty = np.zeros(INITIAL_ROWS, dtype=bool)
        self._unpublished = np.zeros(INITIAL_ROWS, dtype=bool)
        self._scratch = np.zeros(INITIAL_ROWS, dtype=np.intp)
        self._clock = 0
        self._again: Republish | None = None

    def __len__(self) -> int:
        """Rows in memory."""
        return len(self._slots)

    def slots(self, entities: Sequence[str]) -> npt.NDArray[np.intp]:
        """Row numbers of ``entities``; rows that are not in memory are read from the store or begun."""
        found = list(map(self._slots.get, entities))
        if None in found:
            self._load({e for e, slot in zip(entities, found, strict=True) if slot is None})
            found = list(map(self._slots.__getitem__, entities))
        return np.array(found, dtype=np.intp)

    def observe(
        self,
        entities: Sequence[str],
        columns: IntArray,
        times: IntArray,
        tick: tuple[int, int],
        wanted: npt.NDArray[np.bool_],
    ) -> FloatArray:
        """Count a tick's events and return what was counted before each wanted one.

        ``entities``, ``columns`` (index into ``COUNTS``) and ``times`` (ms) are aligned and ordered by
        time; ``tick`` is [start, end) in ms. Returns (wanted.sum(), len(COUNTS), half-lives), decayed to
        the event's own time (clipped into the tick: an event that comes late sees the present counts).

        Sums run in the order of the events and of each group's first event, never in the order of row
        numbers, so the same events give the same bits after a restart.
        """
        return self._observe(self.slots(entities), columns, times, tick, wanted)

    def observe_one(
        self,
        entity: str,
        columns: IntArray,
        times: IntArray,
        tick: tuple[int, int],
        wanted: npt.NDArray[np.bool_],
    ) -> FloatArray:
        """``observe`` where every event belongs to the same entity."""
        slots = np.full(len(times), self.slots([entity])[0], dtype=np.intp)
        return self._observe(slots, columns, times, tick, wanted)

    def _observe(
        self,
        slots: npt.NDArray[np.intp],
        columns: IntArray,
        times: IntArray,
        tick: tuple[int, int],
        wanted: npt.NDArray[np.bool_],
    ) -> FloatArray:
        start, end = tick
        size = len(slots)
        if size == 1:
            return self._observe_single(int(slots[0]), int(columns[0]), int(times[0]), tick, bool(wanted[0]))
        rows, group = self._groups(slots)
        base = (
            self._counts[rows]
            * decay((end - self._last[rows]).astype(np.float64), self.half_lives_s)[:, None]
        )
        weights = decay((end - times).astype(np.float64), self.half_lives_s)

        # Stable sorts of 16-bit integers are radix sorts: a tick rarely has more groups than that.
        small = group.astype(np.uint16) if len(rows) <= 1 << 16 else group
        order = np.argsort(small, kind="stable")
        ends = np.cumsum(np.bincount(group, minlength=len(rows)))
        starts = np.concatenate(([0], ends[:-1]))
        used, column = np.unique(columns, return_inverse=True)
        added = np.zeros((size, len(used), weights.shape[1]))
        added[np.arange(size), column[order]] = weights[order]
        running = np.cumsum(added, axis=0)
        before_group = running[starts] - added[starts]

        position = np.empty(size, dtype=np.intp)
        position[order] = np.arange(size)
        at, of = position[wanted], group[wanted]
        before = base[of]
        # Differences of running sums can fall a rounding error below zero.
        before[:, used] += np.maximum(running[at] - added[at] - before_group[of], 0.0)

        base[:, used] += np.maximum(running[ends - 1] - before_group, 0.0)
        self._counts[rows] = base
        # Time may have started over with an older log; a row's own clock never goes back.
        self._last[rows] = np.maximum(self._last[rows], end)
        self._clock += 1
        self._touched[rows] = self._clock
        self._dirty[rows] = True
        self._unpublished[rows] = True

        seen = np.minimum(np.maximum(times[wanted], start), end)
        before /= decay((end - seen).astype(np.float64), self.half_lives_s)[:, None]
        return before

    def _observe_single(
        self, row: int, column: int, time: int, tick: tuple[int, int], wanted: bool
    ) -> FloatArray:
        # The same arithmetic for the one event of a quiet tick, without the machinery of groups.
        start, end = tick
        base = self._counts[row] * np.exp2(-max(end - int(self._last[row]), 0) / self._half_lives_ms)
        seen = min(max(time, start), end)
        before: FloatArray = (base / np.exp2((seen - end) / self._half_lives_ms))[None][: int(wanted)]
        base[column] += np.exp2(-max(end - time, 0) / self._half_lives_ms)
        self._counts[row] = base
        self._last[row] = max(int(self._last[row]), end)
        self._clock += 1
        self._touched[row] = self._clock
        self._dirty[row] = self._unpublished[row] = True
        return before

    def _groups(self, slots: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Distinct rows in order of first appearance, and each event's index into them; no sorting."""
        numbers = np.arange(len(slots))
        # Written backwards, the first appearance of a row is what stays.
        self._scratch[slots[::-1]] = numbers[::-1]
        first = self._scratch[slots]
        is_first = first == numbers
        rank = np.cumsum(is_first) - 1
        return slots[is_first], rank[first]

    def write(self, batch: Batch) -> int:
        """Add all rows that changed since the last ``write`` to ``batch``; returns how many."""
        slots = np.flatnonzero(self._dirty[: len(self._entities)])
        put, prefix = batch.put, self._prefix
        for entity, row in self._packed(slots):
            put(prefix + entity.encode(), row)
        self._dirty[slots] = False
        return len(slots)

    def take_changed(self) -> list[tuple[str, bytes]]:
        """(entity, packed row) of all rows that changed since the last call, for publishing.

        While ``republish_since`` goes on, a part of its rows follows.
        """
        slots = np.flatnonzero(self._unpublished[: len(self._entities)])
        self._unpublished[slots] = False
        return self._packed(slots) + self._republished()

    def drop_changed(self) -> None:
        """What changed is published by nobody (a rehearsal): ``evict`` need not keep it."""
        self._unpublished[:] = False

    def republish_since(self, at: int) -> None:
        """Publish every stored row again that counts something after ``at`` (ms), part by part."""
        self._again = Republish(self._store, self._prefix, len(self.half_lives_s), at)

    @property
    def republishing(self) -> bool:
        """Whether rows of ``republish_since`` are still to be taken."""
        return self._again is not None

    def _republished(self) -> list[tuple[str, bytes]]:
        if self._again is None:
            return []
        rows = self._again.take()
        if self._again.done:
            self._again = None
        # A row in memory may be newer than the stored one, and then it has been taken already.
        return [(entity, row) for entity, row in rows if entity not in self._slots] + self._packed(
            np.array([self._slots[entity] for entity, _ in rows if entity in self._slots], dtype=np.intp)
        )

    def evict(self) -> int:
        """Drop the least recently touched rows above the bound from memory; they stay in the store.

        Only rows that are written and published are dropped. Returns how many.
        """
        used = len(self._entities)
        surplus = used - self._cached_rows
        if surplus <= 0:
            return 0
        # A tenth more than needed, so that the arrays are not rebuilt every second.
        surplus = min(used, surplus + self._cached_rows // 10)
        clean = np.flatnonzero(~(self._dirty[:used] | self._unpublished[:used]))
        oldest = clean[np.argsort(self._touched[clean], kind="stable")[:surplus]]
        keep = np.ones(used, dtype=bool)
        keep[oldest] = False
        kept = np.flatnonzero(keep)
        self._entities = [self._entities[i] for i in kept.tolist()]
        self._slots = {entity: i for i, entity in enumerate(self._entities)}
        for name in _COLUMNS:
            setattr(self, name, getattr(self, name)[kept])
        self._scratch = np.zeros(len(kept), dtype=np.intp)
        self._grow(INITIAL_ROWS)
        self.evicted += len(oldest)
        return len(oldest)

    def top(self, column: int, n: int, at: int) -> list[tuple[str, FloatArray]]:
        """The ``n`` rows in memory with the highest count in ``column`` at the shortest half-life.

        Counts are decayed to ``at`` (ms). Rows that were evicted are cold and not looked at.
        """
        used = len(self._entities)
        shortest = int(np.argmin(self.half_lives_s))
        half_life_ms = self.half_lives_s[shortest] * 1000.0
        age = np.maximum(at - self._last[:used], 0)
        values = self._counts[:used, column, shortest] * np.exp2(-age / half_life_ms)
        best = np.argsort(-values, kind="stable")[:n] if used <= n else np.argpartition(-values, n)[:n]
        best = best[np.argsort(-values[best], kind="stable")]
        faded = decay(age[best].astype(np.float64), self.half_lives_s)[:, None]
        counts = self._counts[best] * faded
        return [
            (self._entities[i], row) for i, row in zip(best.tolist(), counts, strict=True) if values[i] > 0
        ]

    def rows(self) -> Iterator[tuple[str, int, FloatArray]]:
        """(entity, last, counts) of every row in the store; call after a checkpoint."""
        for key, value in self._store.scan(self._prefix):
            with decoding(self._store.path, f"row {key!r}"):
                entity = key[len(self._prefix) :].decode()
                last, counts = unpack_row(value, len(self.half_lives_s))
            yield entity, last, counts

    def _packed(self, slots: npt.NDArray[np.intp]) -> list[tuple[str, bytes]]:
        # pack_row for many rows at once: one copy, then slices of it. A list, not a generator: rows may
        # move before a generator is asked for the next one.
        block = np.empty((len(slots), 1 + self._counts[0].size), dtype="<f8")
        block[:, 0] = self._last[slots].astype("<i8").view("<f8")
        block[:, 1:] = self._counts[slots].reshape(len(slots), block.shape[1] - 1)
        data, width, entities = block.tobytes(), block.itemsize * block.shape[1], self._entities
        return [(entities[slot], data[i * width : (i + 1) * width]) for i, slot in enumerate(slots.tolist())]

    def _load(self, missing: set[str]) -> None:
        # Sorted: a set's order changes between processes, and row numbers should not.
        entities = sorted(missing)
        base = len(self._entities)
        self._grow(base + len(entities))
        stored = self._store.get_many([self._prefix + e.encode() for e in entities])
        for slot, (entity, value) in enumerate(zip(entities, stored, strict=True), start=base):
            self._slots[entity] = slot
            if value is None:
                self._counts[slot] = 0.0
                self._last[slot] = 0
            else:
                with decoding(self._store.path, f"row {entity!r} of table {self.name}"):
                    self._last[slot], self._counts[slot] = unpack_row(value, len(self.half_lives_s))
            self._dirty[slot] = self._unpublished[slot] = False
            self._touched[slot] = self._clock
        self._entities.extend(entities)

    def _grow(self, needed: int) -> None:
        capacity = len(self._last)
        if needed <= capacity:
            return
        capacity = max(needed, 2 * capacity)
        for name in (*_COLUMNS, "_scratch"):
            old = getattr(self, name)
            new = np.zeros((capacity, *old.shape[1:]), dtype=old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)
