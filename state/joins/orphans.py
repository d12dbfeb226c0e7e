"""Actions that wait for their impression, in memory and in RocksDB: at most ``limit`` of them.

Above it the ones that would expire first expire early, counted: a wrong impressions topic must not fill the
memory. Which ones is a matter of the events alone, so that a restart changes nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from state.errors import decoding
from state.joins.columns import Actions
from state.keys import JoinKeys
from state.store import Batch, Store

#: Actions that may wait. One takes about 400 bytes.
MAX_ORPHANS = 200_000


#: (bit, time, expiry, source partition), times in ms.
Waiting = tuple[int, int, int, int]


class Orphans:
    """Waiting actions by impression id. ``len`` is the number of actions, not of impressions."""

    def __init__(self, store: Store, keys: JoinKeys, limit: int = MAX_ORPHANS) -> None:
        self.limit = limit
        self._prefix = keys.waiting
        self._store = store
        self._waiting: dict[str, list[Waiting]] = {}
        #: Impression ids by the expiry of their actions, the first to expire first.
        self._due: dict[int, set[str]] = {}
        self._changed: set[str] = set()
        self._count = 0
        self._most = 0

    def __len__(self) -> int:
        return self._count

    def wait(self, impression_id: str, bit: int, time: int, expiry: int, partition: int) -> bool:
        """Keep an action until ``expiry``; False where one of its kind waits for the impression already."""
        waiting = self._waiting.setdefault(impression_id, [])
        if any(bit == other for other, _, _, _ in waiting):
            return False
        waiting.append((bit, time, expiry, partition))
        self._due.setdefault(expiry, set()).add(impression_id)
        self._changed.add(impression_id)
        self._count += 1
        self._most = max(self._most, self._count)
        return True

    def take(self, ids: Sequence[str]) -> Actions | None:
        """Remove what waits for ``ids``, in their order; None where nothing does."""
        if not self._waiting or self._waiting.keys().isdisjoint(ids):
            return None
        found: list[tuple[str, int, int, int]] = []
        for impression_id in ids:
            waiting = self._waiting.pop(impression_id, None)
            if waiting is None:
                continue
            self._changed.add(impression_id)
            self._count -= len(waiting)
            for bit, time, expiry, partition in waiting:
                found.append((impression_id, bit, time, partition))
                self._no_longer_due(impression_id, expiry)
        return Actions(
            [one[0] for one in found],
            np.array([one[1] for one in found], dtype=np.uint8),
            np.array([one[2] for one in found], dtype=np.int64),
            np.array([one[3] for one in found], dtype=np.int16),
        )

    def expire(self, boundary_ms: int) -> int:
        """Drop what expires at or before ``boundary_ms``; returns how many."""
        before = self._count
        while self._due and (expiry := next(iter(self._due))) <= boundary_ms:
            for impression_id in list(self._due[expiry]):
                self._drop(impression_id, expiry)
        if self._count * 8 < self._most:
            # A dictionary keeps the room of its best days.
            self._waiting = dict(self._waiting)
            self._most = self._count
        return before - self._count

    def shed(self) -> int:
        """Drop what is above ``limit``, the first to expire first, then by id; returns how many."""
        before = self._count
        while self._count > self.limit:
            expiry = next(iter(self._due))
            for impression_id in sorted(self._due[expiry]):
                self._drop(impression_id, expiry)
                if self._count <= self.limit:
                    break
        return before - self._count

    def clear(self) -> int:
        """Drop everything; returns how many."""
        before = self._count
        self._changed.update(self._waiting)
        self._waiting, self._due = {}, {}
        self._count = self._most = 0
        return before

    def write(self, batch: Batch) -> None:
        """Add what changed since the last ``write`` to ``batch``."""
        for impression_id in sorted(self._changed):
            key = self._prefix + impression_id.encode()
            waiting = self._waiting.get(impression_id)
            if waiting:
                batch.put(key, msgspec.msgpack.encode(waiting))
            else:
                batch.delete(key)
        self._changed = set()

    def restore(self) -> None:
        """Load what the last checkpoint wrote."""
        due: dict[int, set[str]] = {}
        for key, value in self._store.scan(self._prefix):
            with decoding(self._store.path, f"waiting action {key!r}"):
                impression_id = key[len(self._prefix) :].decode()
                waiting = msgspec.msgpack.decode(value, type=list[Waiting])
            self._waiting[impression_id] = waiting
            self._count += len(waiting)
            for _, _, expiry, _ in waiting:
                due.setdefault(expiry, set()).add(impression_id)
        self._due = dict(sorted(due.items()))
        self._most = self._count

    def state(self) -> Iterator[bytes]:
        """The content in a fixed order, for digests."""
        for impression_id in sorted(self._waiting):
            yield msgspec.msgpack.encode((impression_id, sorted(self._waiting[impression_id])))

    def _drop(self, impression_id: str, expiry: int) -> None:
        """Remove the actions of an impression that expire at ``expiry``."""
        waiting = self._waiting[impression_id]
        still = [one for one in waiting if one[2] != expiry]
        self._count -= len(waiting) - len(still)
        if still:
            self._waiting[impression_id] = still
        else:
            del self._waiting[impression_id]
        self._changed.add(impression_id)
        self._no_longer_due(impression_id, expiry)

    def _no_longer_due(self, impression_id: str, expiry: int) -> None:
        ids = self._due.get(expiry)
        if ids is not None:
            ids.discard(impression_id)
            if not ids:
                del self._due[expiry]
