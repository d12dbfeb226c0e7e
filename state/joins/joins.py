"""The joins of all source partitions of a worker, tick by tick.

Each partition has a join of its own, so that it can be moved whole and knows nothing of the others. Rows have
one number in all of them: the partition's, and behind it the row's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from features.events import IntArray
from features.hashing import Keys
from state.joins.columns import (
    Actions,
    Closed,
    Due,
    FloatArray32,
    JoinCounts,
    Joined,
    Shown,
    concatenated,
    joined_of,
)
from state.joins.join import Join
from state.joins.orphans import MAX_ORPHANS
from state.joins.payloads import clean_folder
from state.row_keys import Partitions
from state.store import Batch, Store

#: Bits of a row's number that are its number in its partition.
_OWN_BITS = 40


class Added(NamedTuple):
    """Impressions that were added in one tick: ``rows`` (n,), and of each partition its part of them, its
    number and its first row's own number."""

    rows: IntArray
    parts: list[tuple[slice, int, int]]


class Joins:
    """As ``state.joins.join.Join``, over impressions and actions of any partitions.

    ``max_orphans``: actions that wait at most, of each partition.
    """

    def __init__(
        self,
        store: Store,
        tick_ms: int,
        label_window_ms: int,
        join_limit_ms: int,
        columns: int,
        max_orphans: int = MAX_ORPHANS,
    ) -> None:
        self._store = store
        self._settings = tick_ms, label_window_ms, join_limit_ms, columns, max_orphans
        self._columns = columns
        self._joins: dict[int, Join] = {}

    def __len__(self) -> int:
        """Impressions that are remembered."""
        return sum(map(len, self._joins.values()))

    @property
    def counts(self) -> JoinCounts:
        """The totals of all partitions."""
        total = JoinCounts()
        for join in self._joins.values():
            for name in JoinCounts.__struct_fields__:
                setattr(total, name, getattr(total, name) + getattr(join.counts, name))
        return total

    @property
    def counts_by_partition(self) -> dict[int, JoinCounts]:
        """The totals of each partition, part of every checkpoint."""
        return {partition: join.counts for partition, join in sorted(self._joins.items())}

    @property
    def rows_in_memory(self) -> int:
        """Impressions that are in memory in full."""
        return sum(join.rows_in_memory for join in self._joins.values())

    def new_rows(self, ids: Sequence[str], partitions: Partitions) -> npt.NDArray[np.intp] | None:
        """Indexes of impressions that are not duplicates; None where all are new (the usual case).

        Equal ``partitions`` (n,) stand together.
        """
        fresh: list[npt.NDArray[np.intp]] = []
        all_new = True
        for part, partition in _parts(partitions):
            rows = self._of(partition).new_rows(ids[part])
            all_new = all_new and rows is None
            fresh.append(np.arange(part.start, part.stop) if rows is None else part.start + rows)
        return None if all_new else np.concatenate(fresh)

    def add(self, tick: int, shown: Shown) -> Added:
        """Remember new impressions of ``tick``; equal partitions stand together.

        The next ``join`` has the actions that waited for them. ``know`` and ``attach_payload`` follow before
        the next ``write``.
        """
        rows, parts = np.empty(len(shown), dtype=np.int64), []
        whole = list(_parts(shown.partitions))
        for part, partition in whole:
            own = shown if len(whole) == 1 else shown.part(part)
            first = self._of(partition).add(tick, own)
            rows[part] = _numbers(partition, first + np.arange(len(own)))
            parts.append((part, partition, first))
        return Added(rows, parts)

    def know(self, added: Added, keys: Keys) -> None:
        """The key columns (n, c) of what was added, with what is worked out only now."""
        for part, partition, first in added.parts:
            self._of(partition).know(first, keys[part])

    def attach_payload(self, added: Added, inputs: FloatArray32, predictions: FloatArray32) -> None:
        """What the experts saw and said of what was added; kept until the samples close."""
        for part, partition, first in added.parts:
            self._of(partition).attach_payload(first, inputs[part], predictions[part])

    def join(self, actions: Actions, tick: int) -> Joined:
        """Find the impressions of actions, each in its own partition; the rest become orphans.

        Call it after ``add`` in every tick. Actions come by partition, those that waited behind a partition's
        own.
        """
        order = np.argsort(actions.partitions, kind="stable")
        mine = {p: order[part] for part, p in _parts(actions.partitions[order])}
        found = []
        for partition in sorted(mine.keys() | {p for p, join in self._joins.items() if join.waits}):
            given = mine.get(partition, order[:0])
            one = self._of(partition).join(actions.some(given), tick)
            if len(one):
                one.index = np.where(one.index >= 0, given[one.index], -1) if len(given) else one.index
                one.rows = _numbers(partition, one.rows)
                found.append(one)
        return joined_of(found, self._columns)

    def next_close(self) -> int | None:
        """Event time (ms) at which the next samples close; None where none are open."""
        return min(
            (at for join in self._joins.values() if (at := join.next_close()) is not None), default=None
        )

    def last_close(self) -> int | None:
        """Event time (ms) at which the newest open samples close; None where none are open."""
        return max(
            (at for join in self._joins.values() if (at := join.last_close()) is not None), default=None
        )

    def close(self, boundary_ms: int) -> dict[int, Due]:
        """Samples that close at or before ``boundary_ms``, which is a tick's start, by partition."""
        found = {}
        for partition, join in sorted(self._joins.items()):
            due = join.close(boundary_ms)
            if due is not None:
                found[partition] = due
        return found

    def closed(self, due: Mapping[int, Due]) -> Closed:
        """The samples of ``due``, whose payload is there by now; by partition."""
        parts = [self._of(partition).closed(one) for partition, one in due.items()]
        if len(parts) == 1:
            return parts[0]
        return Closed(
            np.concatenate([part.inputs for part in parts]),
            np.concatenate([part.predictions for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.masks for part in parts]),
            concatenated([part.shown for part in parts]),
            np.concatenate([part.ticks for part in parts]),
        )

    def forget_all(self) -> None:
        """Forget every impression and every waiting action; see ``Join.forget_all``."""
        for join in self._joins.values():
            join.forget_all()

    def drop_open(self) -> int:
        """Close everything that is open without making samples of it; returns how many impressions."""
        return sum(join.drop_open() for join in self._joins.values())

    def write(self, batch: Batch) -> None:
        """Add everything that changed since the last ``write`` to ``batch``, which is to be committed."""
        for _, join in sorted(self._joins.items()):
            join.write(batch)

    def restore(self, counts: Mapping[int, JoinCounts]) -> None:
        """Load what the last checkpoint wrote. Raises ``StateDamagedError`` where it does not fit."""
        clean_folder(self._store, counts)
        for partition, one in counts.items():
            self._of(partition).restore(one)

    def remembered(self) -> Iterator[Shown]:
        """All impressions, by partition, a tick's together; what is on disk only is read back."""
        for _, join in sorted(self._joins.items()):
            for _, shown in join.remembered():
                yield shown

    def state(self, partition: int | None = None) -> Iterator[bytes]:
        """The content of all joins, or of one partition's, in a fixed order, for digests."""
        for number, join in sorted(self._joins.items()):
            if partition in (None, number):
                yield msgspec.msgpack.encode(number)
                yield from join.state()

    def _of(self, partition: int) -> Join:
        join = self._joins.get(partition)
        if join is None:
            join = self._joins[partition] = Join(self._store, *self._settings, partition)
        return join


def _parts(partitions: Partitions) -> Iterator[tuple[slice, int]]:
    """Where each partition stands. Raises ``ValueError`` where one stands in two places."""
    if not len(partitions):
        return
    ends = [0, *(np.flatnonzero(np.diff(partitions)) + 1).tolist(), len(partitions)]
    seen = set()
    for begin, end in pairwise(ends):
        partition = int(partitions[begin])
        if partition in seen:
            raise ValueError(f"events of partition {partition} do not stand together")
        seen.add(partition)
        yield slice(begin, end), partition


def _numbers(partition: int, rows: IntArray) -> IntArray:
    """Rows of a partition as they are numbered in all of them."""
    numbers: IntArray = rows + (partition << _OWN_BITS)
    return numbers
