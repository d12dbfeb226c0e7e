"""Impressions and actions as columns, on their way into the join and out of it; times in ms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from features.events import FloatArray, IntArray
from features.hashing import Keys
from features.rows import Slots
from state.row_keys import Partitions

FloatArray32 = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint8]


class Shown(msgspec.Struct):
    """Impressions (n,): ids, times, key columns (n, c), places in their lists, prices, source partitions."""

    ids: list[str]
    times: IntArray
    keys: Keys
    places: Slots
    prices: FloatArray
    partitions: Partitions

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, some: slice) -> Shown:
        """The impressions of a part, not copied."""
        return Shown(
            self.ids[some],
            self.times[some],
            self.keys[some],
            self.places[some],
            self.prices[some],
            self.partitions[some],
        )

    def rows(self, some: npt.NDArray[np.intp]) -> Shown:
        """The impressions of these numbers."""
        return Shown(
            [self.ids[k] for k in some.tolist()],
            self.times[some],
            self.keys[some],
            self.places[some],
            self.prices[some],
            self.partitions[some],
        )


class Actions(msgspec.Struct):
    """Actions (n,): ids of their impressions, kinds as single bits of a mask, times, source partitions."""

    ids: list[str]
    bits: Bits
    times: IntArray
    partitions: Partitions

    def __len__(self) -> int:
        return len(self.ids)

    def some(self, numbers: npt.NDArray[np.intp]) -> Actions:
        """The actions of these numbers."""
        return Actions(
            [self.ids[k] for k in numbers.tolist()],
            self.bits[numbers],
            self.times[numbers],
            self.partitions[numbers],
        )

    def followed_by(self, others: Actions) -> Actions:
        """These, then ``others``."""
        return Actions(
            self.ids + others.ids,
            np.concatenate([self.bits, others.bits]),
            np.concatenate([self.times, others.times]),
            np.concatenate([self.partitions, others.partitions]),
        )


class Joined(msgspec.Struct):
    """Actions (k,) that found their impression: the given ones in their order, then those that waited for it.

    ``index``: an action's number among the given ones, -1 where it waited. ``times`` are never before the
    impression's. ``keys`` (k, c), ``places``, ``prices``, ``partitions``: the impression's. ``rows``: the
    number of its row.
    """

    index: IntArray
    bits: Bits
    times: IntArray
    keys: Keys
    places: Slots
    prices: FloatArray
    partitions: Partitions
    rows: IntArray

    def __len__(self) -> int:
        return len(self.bits)


def joined_of(parts: Sequence[Joined], columns: int) -> Joined:
    """Several parts one behind the other; ``columns``: key columns where there is none."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        nothing = np.empty(0, dtype=np.int64)
        return Joined(
            index=nothing,
            bits=np.empty(0, dtype=np.uint8),
            times=nothing,
            keys=np.empty((0, columns), dtype=np.uint64),
            places=np.empty(0, dtype=np.int32),
            prices=np.empty(0),
            partitions=np.empty(0, dtype=np.int16),
            rows=nothing,
        )
    return Joined(
        *(np.concatenate([getattr(one, name) for one in parts]) for name in Joined.__struct_fields__)
    )


class Due(msgspec.Struct):
    """Segments that have closed, and their ``masks``, ``shown`` and ``ticks`` (n,) at that moment."""

    segments: list[Any]
    masks: Bits
    shown: Shown
    ticks: IntArray


class Closed(msgspec.Struct):
    """Samples whose label stands: the heads' inputs (n, p), their predictions (n, K), labels (n,).

    ``masks``: bits of every action so far. ``shown``: the impressions, ``ticks`` (n,) those they came in.
    """

    inputs: FloatArray32
    predictions: FloatArray32
    labels: FloatArray
    masks: Bits
    shown: Shown
    ticks: IntArray

    def __len__(self) -> int:
        return len(self.labels)

    def shown_from(self, at: int) -> Closed:
        """Samples of impressions at ``at`` (ms) or later."""
        some = np.flatnonzero(self.shown.times >= at)
        if len(some) == len(self):
            return self
        return Closed(
            self.inputs[some],
            self.predictions[some],
            self.labels[some],
            self.masks[some],
            self.shown.rows(some),
            self.ticks[some],
        )


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


class Column:
    """An array that grows at its end and loses its oldest rows; both cost little a row."""

    def __init__(self, dtype: npt.DTypeLike, width: int | None = None) -> None:
        self._data: npt.NDArray[Any] = np.empty((0,) if width is None else (0, width), dtype=dtype)
        self._begin = self._end = 0

    def __len__(self) -> int:
        return self._end - self._begin

    @property
    def values(self) -> npt.NDArray[Any]:
        """The rows that are there. Take it anew after ``append`` and ``drop``."""
        return self._data[self._begin : self._end]

    def append(self, rows: npt.NDArray[Any]) -> None:
        """More rows."""
        if self._end + len(rows) > len(self._data):
            # Room for as many again, and for none of a peak that is over.
            needed = len(self) + len(rows)
            data = np.empty((2 * needed, *self._data.shape[1:]), dtype=self._data.dtype)
            data[: len(self)] = self.values
            self._begin, self._end, self._data = 0, len(self), data
        self._data[self._end : self._end + len(rows)] = rows
        self._end += len(rows)

    def drop(self, count: int) -> None:
        """Lose the oldest ``count`` rows."""
        self._begin += count
        if len(self) * 8 < len(self._data):
            self._data = self._data[self._begin : self._end].copy()
            self._begin, self._end = 0, len(self._data)


def concatenated(parts: Sequence[Shown]) -> Shown:
    """Impressions of several parts, at least one, as one."""
    if len(parts) == 1:
        return parts[0]
    return Shown(
        [one for part in parts for one in part.ids],
        np.concatenate([part.times for part in parts]),
        np.concatenate([part.keys for part in parts]),
        np.concatenate([part.places for part in parts]),
        np.concatenate([part.prices for part in parts]),
        np.concatenate([part.partitions for part in parts]),
    )
