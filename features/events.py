"""A batch of events as columns, and the order in which rows are read and updated for it.

Within a batch events stand in time order. The impressions of one list (one request of one user) are read
together, when the first of them comes, and every event is counted at its own time: no impression sees another
one of its list, and none sees anything later than itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from features.compiled import kernel
from features.hashing import Keys

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

#: ``Events.kinds`` of an impression. Actions and behaviours have the numbers that a plan gives them.
IMPRESSION = 0


class Events(msgspec.Struct):
    """``n`` events in time order, and at equal times impressions, then actions, then behaviours.

    ``kinds`` (n,) int16: ``IMPRESSION``, an action's or a behaviour's number, or -1 for a kind that nothing
    asks for. ``times`` (n,) ms. ``keys[column]`` (n,) uint64, 0 where the event has none: an action has those
    of its impression. ``numbers[column]`` (n,) float64, every one of ``features.scope.NUMBERS``, NaN where
    unknown: an action has the position of its impression. ``lists`` (n,): the number of an impression's list,
    -1 for what is no impression; lists are numbered from 0 in the order of their first impression, and a list
    lies in one batch whole. ``origins`` (n,): the number of the event that shows an action's impression,
    where it is in this batch, else -1.
    """

    kinds: npt.NDArray[np.int16]
    times: IntArray
    keys: Mapping[str, Keys]
    numbers: Mapping[str, FloatArray]
    lists: npt.NDArray[np.int32]
    origins: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.times)


class Reads(msgspec.Struct):
    """In which order a batch reads and updates.

    ``steps``: ``event`` updates by that event, ``~event`` reads for that impression. ``shown``: numbers of
    the impressions' events in ascending order. ``at`` (n,): an impression's place in ``shown``. ``times``
    (n,): when an event is read: for an impression, the time of its list's first.
    """

    steps: npt.NDArray[np.int32]
    shown: npt.NDArray[np.int32]
    at: npt.NDArray[np.int32]
    times: IntArray


def order_reads(events: Events, update: bool = True) -> Reads:
    """The steps for ``events``; without ``update`` only the reads, as serving has them."""
    n = len(events)
    shown = np.flatnonzero(events.lists >= 0).astype(np.int32)
    at = np.full(n, -1, dtype=np.int32)
    at[shown] = np.arange(len(shown), dtype=np.int32)
    lists = int(events.lists.max(initial=-1)) + 1
    steps = np.empty((n if update else 0) + len(shown), dtype=np.int32)
    times = events.times.copy()
    _order(events.lists, events.times, lists, update, steps, times)
    return Reads(steps, shown, at, times)


@kernel
def _order(lists, event_times, count, update, steps, times):  # type: ignore[no-untyped-def]
    n = len(lists)
    # Members of each list, linked in order: one pass, no sorting.
    first = np.full(count, -1, np.int32)
    last = np.full(count, -1, np.int32)
    following = np.full(n, -1, np.int32)
    for i in range(n):
        k = lists[i]
        if k >= 0:
            if first[k] < 0:
                first[k] = i
            else:
                following[last[k]] = i
            last[k] = i
            times[i] = event_times[first[k]]
    at = 0
    for i in range(n):
        k = lists[i]
        if k >= 0 and first[k] == i:
            member = i
            while member >= 0:
                steps[at] = ~member
                at += 1
                member = following[member]
        if update:
            steps[at] = i
            at += 1
