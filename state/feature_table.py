"""The rows of one table of a features plan: a bounded number in memory, all of them in RocksDB.

In memory a row takes 8 bytes a number, and 30 for its key, its place in the index and what is known of it
(measured by ``bench.state``; twice as much at most, since arrays double when they are full). A key that is on
disk only takes two to five bytes of a filter, so that a key which is nowhere costs no look-up.

Rows are forgotten by event time and not when they happen to be deleted: a row whose newest event (``SEEN``)
lies more than ``forget_ms`` before a batch's minute counts as missing for it, whether it is still stored or
not. Deleting is housekeeping that changes no result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from features.compiled import kernel
from features.events import FloatArray
from features.hashing import Keys
from features.plan import CLOCK_MS, SEEN, Layout
from features.row_bytes import TAIL, first_numbers, pack, unpack
from features.rows import Rows, Slots, Values
from state.disk_keys import DiskKeys
from state.errors import decoding
from state.forgotten import Forgotten
from state.row_keys import SHARED, Partitions, parsed, parts, row_keys, table_prefix
from state.row_pass import Republish, Sweep
from state.store import Batch, Store

IntArray32 = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]

#: Keys that are read from disk together when a worker starts.
SCAN_KEYS = 65_536
#: The column that says which rows' key belongs to a source partition.
OWNER = "user_id"
_SIDES = ("_touched", "_begun", "_partitions", "_dirty", "_unpublished")


class Moment(msgspec.Struct):
    """The batch that runs: its number, its events' partitions, and when its first tick begins (ms)."""

    number: int
    partitions: Partitions
    now: int


class Changed(msgspec.Struct):
    """What is to be published of a table: rows that changed, and keys that are ``gone``.

    ``packed`` (n,): the rows as ``features.row_bytes`` has them.

    ``partitions`` (n,) and ``gone_partitions``: source partitions, ``SHARED`` for rows of the worker as a
    whole. No key is both changed and gone.
    """

    table: str
    keys: Keys
    partitions: Partitions
    packed: list[bytes]
    gone: Keys
    gone_partitions: Partitions

    def __len__(self) -> int:
        return len(self.keys) + len(self.gone)


class _Packed(NamedTuple):
    """Rows in memory and their bytes, in the order of partitions and keys."""

    slots: npt.NDArray[np.intp]
    keys: Keys
    partitions: Partitions
    rows: list[bytes]

    def of(self, some: BoolArray) -> _Packed:
        """A part of them."""
        if some.all():
            return self
        rows = [self.rows[i] for i in np.flatnonzero(some).tolist()]
        return _Packed(self.slots[some], self.keys[some], self.partitions[some], rows)


class FeatureTable:
    """Table ``number`` of a plan. Raises ``StateDamagedError`` where stored rows cannot be read.

    Implements ``features.plan.Table``; ``moment`` must be that of the batch that asks.
    """

    def __init__(self, name: str, number: int, layout: Layout, store: Store, forget_ms: int) -> None:
        self.name = name
        self.number = number
        self.width = layout.width
        self.partitioned = OWNER in layout.key
        self.moment = Moment(0, np.empty(0, dtype=np.int16), 0)
        self._forget_ms = float(forget_ms)
        self._store = store
        self._rows = Rows(layout.width)
        self._touched: IntArray32 = np.zeros(0, dtype=np.int32)
        self._begun: IntArray32 = np.zeros(0, dtype=np.int32)
        self._partitions: Partitions = np.zeros(0, dtype=np.int16)
        self._dirty: BoolArray = np.zeros(0, dtype=np.bool_)
        self._unpublished: BoolArray = np.zeros(0, dtype=np.bool_)
        self._fit()
        self._on_disk = DiskKeys()
        #: Which partitions have rows, by number + 1.
        self._has_rows = np.zeros(1 << 16, dtype=np.bool_)
        self._republish: Republish | None = None
        self._sweep: Sweep | None = None
        self._sweep_from = 0.0
        self._forgotten = Forgotten()
        self._packed: _Packed | None = None
        self._restore()

    def __len__(self) -> int:
        """Rows in memory."""
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that are taken or kept for rows to come."""
        arrays = [*vars(self._rows).values(), *(getattr(self, name) for name in _SIDES)]
        return self._on_disk.nbytes + sum(one.nbytes for one in arrays if isinstance(one, np.ndarray))

    @property
    def filter_bytes(self) -> int:
        """Those of ``nbytes`` that grow with the keys on disk: at most ``state.disk_keys.MAX_BYTES``."""
        return self._on_disk.nbytes

    @property
    def values(self) -> Values:
        """See ``features.plan.Table``."""
        return self._rows.values

    def locate(self, keys: Keys, begin: BoolArray) -> Slots:
        """Rows of the moment's events. What is on disk only is loaded; what is forgotten is missing."""
        rows, moment = self._rows, self.moment
        if len(keys) != len(moment.partitions):
            raise ValueError(
                f"{len(keys)} keys for a batch that was begun with {len(moment.partitions)} events"
            )
        if len(self._on_disk):
            self._load(keys)
        used = rows.used
        slots = rows.locate(keys, begin)
        self._fit()
        if rows.used > used:
            fresh = np.flatnonzero(slots >= used)[::-1]
            # Written backwards, what stays is the first event of a row.
            self._partitions[slots[fresh]] = moment.partitions[fresh] if self.partitioned else SHARED
        _follow(
            rows.values, slots, begin, self._touched, self._begun, moment.number, self._oldest(moment.now)
        )
        return slots

    def touch(self, slots: Slots) -> None:
        """See ``features.plan.Table``."""
        self._dirty[slots] = True
        self._unpublished[slots] = True
        self._packed = None

    # -- checkpoints

    def delete(self, batch: Batch, acknowledged: int) -> int:
        """Delete rows that are forgotten and whose tombstone is ``acknowledged``; returns how many."""
        self._drop_revived()
        keys, partitions = self._forgotten.published(acknowledged)
        for key in row_keys(self.number, partitions, keys):
            batch.delete(key)
        slots = self._rows.find(keys)
        # They are the first to leave memory.
        self._touched[slots[slots >= 0]] = 0
        return len(keys)

    def write(self, batch: Batch) -> int:
        """Put all rows that changed since the last call; returns how many."""
        packed, self._packed = self._packed, None
        # Usually what is written now has just been published.
        if packed is None or np.count_nonzero(self._dirty) != np.count_nonzero(self._dirty[packed.slots]):
            packed = self._pack(self._dirty)
        else:
            packed = packed.of(self._dirty[packed.slots])
        put = batch.put
        for key, row in zip(row_keys(self.number, packed.partitions, packed.keys), packed.rows, strict=True):
            put(key, row)
        self._has_rows[packed.partitions.astype(np.int32) + 1] = True
        self._dirty[packed.slots] = False
        return len(packed.slots)

    def take_changed(self, take: int) -> Changed:
        """What changed or is gone since the last call, and a part of a republish. ``take`` is its number."""
        again, again_partitions, again_rows = self._republished()
        self._packed = packed = self._pack(self._unpublished)
        self._drop_revived()
        self._unpublished[packed.slots] = False
        gone, gone_partitions = self._forgotten.take(take)
        return Changed(
            self.name,
            np.concatenate([packed.keys, again]),
            np.concatenate([packed.partitions, again_partitions]),
            packed.rows + pack(again, again_rows, self.moment.now),
            gone,
            gone_partitions,
        )

    def _pack(self, some: BoolArray) -> _Packed:
        """The rows of which ``some`` is true."""
        slots = np.flatnonzero(some[: self._rows.used])
        # In the order of their keys RocksDB takes them in half the time.
        slots = slots[np.lexsort((self._rows.keys[slots], self._partitions[slots]))]
        keys = self._rows.keys[slots]
        rows = pack(keys, self._rows.values[slots], self.moment.now)
        return _Packed(slots, keys, self._partitions[slots], rows)

    def republish_since(self, at: int) -> None:
        """Publish every stored row once more that may have changed at ``at`` (ms) or later, part by part."""
        self._republish = Republish(self._store, table_prefix(self.number), self.width, at)

    @property
    def republishing(self) -> bool:
        """Whether rows of ``republish_since`` are still to be taken."""
        return self._republish is not None

    # -- bounds

    def idle(self) -> tuple[npt.NDArray[np.intp], IntArray32]:
        """Rows that may leave memory, and the number of the batch that used each last."""
        used = self._rows.used
        slots = np.flatnonzero(~(self._dirty[:used] | self._unpublished[:used]))
        return slots, self._touched[slots]

    def drop(self, slots: npt.NDArray[np.intp]) -> None:
        """Rows of ``idle`` leave memory; they stay in the store."""
        stays = np.ones(self._rows.used, dtype=np.bool_)
        stays[slots] = False
        keys, kept = self._rows.keys[slots], np.flatnonzero(stays)
        self._on_disk.add(keys)
        if self._sweep is not None:
            self._sweep.kept.add(keys)
        for name in _SIDES:
            setattr(self, name, getattr(self, name)[kept])
        self._rows.keep(kept)
        self._packed = None  # rows have other numbers now
        self._fit()

    def sweep(self, now: int, limit: int) -> tuple[int, int]:
        """Look at the next ``limit`` stored rows, to forget those that matter no more at ``now`` (ms).

        Returns how many it has looked at and how many are to be forgotten; (0, 0) where nothing can be due.
        """
        before = self._oldest(now)
        if self._sweep is None:
            if before <= self._sweep_from:
                return 0, 0
            prefix = table_prefix(self.number)
            self._sweep = Sweep(self._store, prefix, self.width, before, len(self._on_disk))
        looked, keys, partitions = self._sweep.take(limit)
        slots = self._rows.find(keys)
        # What is in memory may know more than the store.
        seen = np.where(slots >= 0, self._rows.values[slots, SEEN], -np.inf)
        busy = (slots >= 0) & (self._dirty[slots] | self._unpublished[slots] | (seen >= before))
        self._sweep.oldest = min(self._sweep.oldest, seen[busy].min(initial=np.inf))
        found = self._forgotten.add(keys[~busy], partitions[~busy])
        if self._sweep.done:
            self._on_disk = self._sweep.kept
            self._sweep_from = min(self._sweep.oldest, before + self._forget_ms)
            self._sweep = None
        return looked, found

    @property
    def sweeping(self) -> bool:
        """Whether a sweep has begun and is not through."""
        return self._sweep is not None

    # -- for people and digests

    def top(self, score: Callable[[Values], FloatArray], n: int) -> tuple[Keys, Values]:
        """The ``n`` rows in memory with the highest ``score`` of (rows, width), the highest first.

        Only positive ones; rows that are on disk only are cold and not looked at.
        """
        used = self._rows.used
        scores = score(self._rows.values[:used])
        best = np.argsort(-scores, kind="stable")[:n] if used <= n else np.argpartition(-scores, n)[:n]
        best = best[np.argsort(-scores[best], kind="stable")]
        best = best[scores[best] > 0]
        return self._rows.keys[best], self._rows.values[best]

    def state(self, now: int) -> Iterator[bytes]:
        """Every stored row that matters at ``now`` (ms), in a fixed order.

        Without the time of its last change, which follows the batches and not the events.
        """
        for key, row in self._store.scan(table_prefix(self.number)):
            if first_numbers([row])[0] >= self._oldest(now):
                yield key
                yield row[:-TAIL]

    # -- within

    def _oldest(self, now: int) -> float:
        """What ``SEEN`` must be at least (ms) for a row to matter."""
        return now // CLOCK_MS * CLOCK_MS - self._forget_ms

    def _fit(self) -> None:
        """What stands beside the rows has room for as many."""
        size = len(self._rows.keys)
        if len(self._touched) == size:
            return
        for name in _SIDES:
            old = getattr(self, name)
            new = np.zeros(size, dtype=old.dtype)
            new[: len(old)] = old[:size]
            setattr(self, name, new)

    def _restore(self) -> None:
        """Learn which keys are on disk."""
        found = []
        for part in parts(self._store.keys(table_prefix(self.number)), SCAN_KEYS):
            with decoding(self._store.path, f"keys of table {self.name}"):
                partitions, keys = parsed(part)
            self._has_rows[np.unique(partitions).astype(np.int32) + 1] = True
            found.append(keys)
        self._on_disk = DiskKeys(sum(map(len, found)))
        for keys in found:
            self._on_disk.add(keys)

    def _load(self, keys: Keys) -> None:
        """Bring those of ``keys`` that are on disk only into memory."""
        missing = np.flatnonzero((self._rows.find(keys) < 0) & (keys != 0))
        missing = missing[self._on_disk.find(keys[missing])]
        if not len(missing):
            return
        wanted, first = np.unique(keys[missing], return_index=True)
        own = self.moment.partitions[missing[first]] if self.partitioned else np.full(len(wanted), SHARED)
        partitions = own.astype(np.int16)
        rows: list[bytes | None] = self._store.get_many(row_keys(self.number, partitions, wanted))
        # A user's rows may lie where the user was before the topics got more partitions.
        for other in np.flatnonzero(self._has_rows) - 1 if self.partitioned else ():
            lost = [i for i, row in enumerate(rows) if row is None]
            if not lost:
                break
            there = np.full(len(lost), other, dtype=np.int16)
            for i, row in zip(
                lost, self._store.get_many(row_keys(self.number, there, wanted[lost])), strict=True
            ):
                if row is not None:
                    rows[i], partitions[i] = row, other
        at = [i for i, row in enumerate(rows) if row is not None]
        if not at:
            return
        data = [row for row in rows if row is not None]
        with decoding(self._store.path, f"rows of table {self.name}"):
            values, _ = unpack(wanted[at], data, self.width)
        slots = self._rows.locate(wanted[at], np.ones(len(at), dtype=np.bool_))
        self._fit()
        self._rows.values[slots] = values
        self._partitions[slots] = partitions[at]
        self._touched[slots] = self.moment.number

    def _republished(self) -> tuple[Keys, Partitions, Values]:
        if self._republish is None:
            return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int16), np.empty((0, self.width))
        keys, partitions, rows = self._republish.take()
        if self._republish.done:
            self._republish = None
        slots = self._rows.find(keys)
        # A row in memory may be newer than the stored one.
        self._unpublished[slots[slots >= 0]] = True
        some = (slots < 0) & ~self._forgotten.has(keys)
        return keys[some], partitions[some], rows[some]

    def _drop_revived(self) -> None:
        """What has begun anew since it was forgotten is neither gone nor deleted."""
        if len(self._forgotten):
            slots = self._rows.find(self._forgotten.keys)
            self._forgotten.keep(~((slots >= 0) & (self._dirty[slots] | self._unpublished[slots])))


@kernel
def _follow(values, slots, begin, touched, begun, number, oldest):  # type: ignore[no-untyped-def]
    for i in range(len(slots)):
        slot = slots[i]
        if slot < 0:
            continue
        touched[slot] = number
        if begun[slot] == number:
            continue
        if values[slot, 0] < oldest:
            if not begin[i]:
                slots[i] = -1
                continue
            for k in range(values.shape[1]):
                values[slot, k] = 0.0
        if begin[i]:
            begun[slot] = number
