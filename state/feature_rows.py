"""All feature rows of a worker: the tables of a plan, their bound in memory, their way to disk and topic."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from features.plan import Plan
from state.errors import StateDamagedError, StateFormatError
from state.feature_table import Changed, FeatureTable, Moment
from state.keys import FORMAT_VERSION, META_BEGUN, META_FORMAT, META_PLAN
from state.row_keys import Partitions
from state.store import Batch, Store

#: Stored rows that ``expire`` looks at in a call: about 10 ms.
SWEEP_ROWS = 10_000
#: After so many deletes RocksDB writes them into a file, where they begin to free what they delete.
FLUSHED_ROWS = 50_000


class FeatureRows:
    """``tables``: what ``plan.observe`` needs. At most ``cached_rows`` rows of all of them stay in memory.

    ``forget_ms``: a row whose newest event lies longer back counts as missing, and is deleted in time.
    Raises ``StateFormatError`` where the state was written with other features or by the first edition.
    """

    def __init__(self, store: Store, plan: Plan, cached_rows: int, forget_ms: int) -> None:
        self.takes = 0
        self.evicted = 0
        self.forgotten = 0
        self._plan_hash = plan.hash.encode()
        self._cached_rows = cached_rows
        self._known = _check_layout(store, self._plan_hash)
        self._store = store
        self._acknowledged = 0
        self._deleted = 0
        self._turn = 0
        self._batches = 0
        self.tables = {
            name: FeatureTable(name, number, layout, store, forget_ms)
            for number, (name, layout) in enumerate(plan.tables.items())
        }

    def __len__(self) -> int:
        """Rows in memory."""
        return sum(map(len, self.tables.values()))

    @property
    def nbytes(self) -> int:
        """Bytes of memory that tables take."""
        return sum(table.nbytes for table in self.tables.values())

    @property
    def overfull(self) -> bool:
        """Whether more rows are in memory than may stay there; ``evict`` brings them below the bound."""
        return len(self) > self._cached_rows

    def begin(self, partitions: Partitions, now: int) -> None:
        """Say which events ``plan.observe`` gets next: their source partitions (n,).

        ``now`` (ms): the start of their first tick. So that results do not depend on batches, ticks on both
        sides of a multiple of ``CLOCK_MS`` must be in different ones.
        """
        self._batches += 1
        moment = Moment(self._batches, partitions.astype(np.int16, copy=False), now)
        for table in self.tables.values():
            table.moment = moment

    def write(self, batch: Batch) -> int:
        """Add every changed row to ``batch``; returns how many. Deletes what is forgotten and told."""
        if not self._known:
            batch.put(META_FORMAT, str(FORMAT_VERSION).encode())
            batch.put(META_PLAN, self._plan_hash)
            self._known = True
        self._deleted += sum(table.delete(batch, self._acknowledged) for table in self.tables.values())
        return sum(table.write(batch) for table in self.tables.values())

    def take_changed(self) -> list[Changed]:
        """What changed in each table since the last call, for publishing; see ``takes`` and ``acknowledge``.

        After a restart parts of ``republish_since`` follow.
        """
        self.takes += 1
        changed = [table.take_changed(self.takes) for table in self.tables.values()]
        return [one for one in changed if len(one)]

    def acknowledge(self, take: int) -> None:
        """Everything up to the take of this number (``takes`` right after it) has reached the broker.

        May be called from another thread.
        """
        self._acknowledged = max(self._acknowledged, take)

    def drop_changed(self) -> None:
        """What changed is published by nobody (a rehearsal): it counts as published."""
        self.take_changed()
        self.acknowledge(self.takes)

    def republish_since(self, at: int) -> None:
        """Publish every stored row once more that may have changed at ``at`` (ms) or later, part by part."""
        for table in self.tables.values():
            table.republish_since(at)

    @property
    def republishing(self) -> bool:
        """Whether rows of ``republish_since`` are still to be taken."""
        return any(table.republishing for table in self.tables.values())

    def expire(self, now: int) -> int:
        """Look for rows that matter no more at ``now`` (ms), ``SWEEP_ROWS`` stored ones a call.

        Returns how many were found; the next ``take_changed`` tells them.
        """
        tables = list(self.tables.values())
        left, found = SWEEP_ROWS, 0
        for _ in tables:
            table = tables[self._turn % len(tables)]
            looked, forgotten = table.sweep(now, left)
            left, found = left - looked, found + forgotten
            if table.sweeping:
                break
            self._turn += 1
            if left <= 0:
                break
        self.forgotten += found
        return found

    def evict(self) -> int:
        """Bring memory back under the bound; call after a checkpoint. Returns rows dropped.

        The least recently used leave, whatever table they are of; only those that are written and published.
        """
        if self._deleted >= FLUSHED_ROWS:
            self._deleted = 0
            self._store.flush()
        surplus = len(self) - self._cached_rows
        if surplus <= 0:
            return 0
        # A tenth more than needed, so that the arrays are not rebuilt every second.
        surplus += self._cached_rows // 10
        tables = list(self.tables.values())
        idle = [table.idle() for table in tables]
        last_used = np.concatenate([used for _, used in idle])
        if surplus < len(last_used):
            leaving = np.zeros(len(last_used), dtype=np.bool_)
            leaving[np.argpartition(last_used, surplus)[:surplus]] = True
        else:
            leaving = np.ones(len(last_used), dtype=np.bool_)
        ends = np.cumsum([len(slots) for slots, _ in idle])[:-1]
        for table, (slots, _), some in zip(tables, idle, np.split(leaving, ends), strict=True):
            if some.any():
                table.drop(slots[some])
        dropped = int(np.count_nonzero(leaving))
        self.evicted += dropped
        return dropped

    def state(self, now: int) -> Iterator[bytes]:
        """All stored rows that matter at ``now`` (ms) in a fixed order, for digests."""
        for name, table in self.tables.items():
            yield name.encode()
            yield from table.state(now)


def _check_layout(store: Store, plan_hash: bytes) -> bool:
    """Whether the layout is stored. Raises ``StateFormatError`` where it is another one."""
    version, plan = store.get(META_FORMAT), store.get(META_PLAN)
    if version is None:
        if any(key != META_BEGUN for key in store.keys(b"")):
            raise StateFormatError(
                f"state in {store.path} was written by the first edition of Surgeline, whose rows this one "
                "does not read; give the worker a new state folder (its counts begin anew, and a replay of "
                "the log brings them back), or run the version that wrote it"
            )
        return False
    if version != str(FORMAT_VERSION).encode():
        raise StateFormatError(
            f"state in {store.path} has layout {version.decode(errors='replace')}, this version of Surgeline "
            f"reads {FORMAT_VERSION}; use the version that wrote it, or a new state folder"
        )
    if plan is None:
        if all(key in (META_BEGUN, META_FORMAT) for key in store.keys(b"")):
            return False  # begun, and killed before its first checkpoint, or without its write-ahead log
        raise StateDamagedError(store.path, "it does not say which features its rows are of")
    if plan != plan_hash:
        raise StateFormatError(
            f"state in {store.path} was written with other features than the scenario has: put the old "
            "[features] back, or use a new state folder (counts begin anew there; a replay of the log brings "
            "them back)"
        )
    return True
