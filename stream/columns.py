"""A tick's events as columns: what the features plan reads, and what the join remembers of impressions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from features.events import Events
from features.hashing import Keys, cross, hash_numbers, numbered
from features.plan import Plan
from features.scope import CONTEXT
from state.joins.columns import Joined, Shown
from state.joins.joins import Added
from stream.event_columns import ID_FIELDS, Columns, Layout
from stream.tick_log import TickLog
from stream.timeline import Taken

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

#: Number of each action in plans: they follow the impression, in the order of their bits.
FIRST_ACTION = 1
#: Columns of ``Columns.numbers``.
POSITION, PRICE, STOCK = range(3)
VALUE = 0


class TickEvents(NamedTuple):
    """``events`` in the order in which they count.

    ``shown`` (impressions,): the number that each of their impressions, in that order, has in the tick's own.
    ``partitions`` (events,). ``rows`` (events,): the row of an impression, or of an action's impression, in
    the join, -1 for behaviours.
    """

    events: Events
    shown: npt.NDArray[np.intp]
    partitions: npt.NDArray[np.int16]
    rows: IntArray


class JoinedTick(NamedTuple):
    """A tick after the join.

    ``events`` and ``shown``: its new impressions, ``added`` what the joins have of them; ``columns``:
    everything that counts in it; how many ``actions`` were joined, and how many ``behaviours`` came.
    """

    tick: int
    events: Columns
    shown: Shown
    added: Added
    columns: TickEvents
    actions: int
    behaviours: int

    def note(self, log: TickLog, end_ms: int) -> None:
        """Into the log of ticks."""
        log.seen(end_ms, len(self.events), self.actions, self.behaviours)


def shown_columns(
    ids: list[str], events: Columns, times: IntArray, partitions: npt.NDArray[np.int16], columns: int
) -> Shown:
    """Impressions as the join remembers them, with the first ``columns`` of their keys; a price of 0 is
    unknown."""
    prices = events.numbers[:, PRICE]
    return Shown(
        ids=ids,
        times=times,
        keys=np.ascontiguousarray(events.keys[:, :columns]),
        places=events.numbers[:, POSITION].astype(np.int32),
        prices=np.where(prices == 0.0, np.nan, prices),
        partitions=partitions,
    )


def lists_of(requests: Keys, users: Keys) -> Keys:
    """One key a list: same user, same request; an impression without a request is a list of its own."""
    lists = cross([requests, users])
    alone = np.flatnonzero(requests == 0)
    lists[alone] = hash_numbers(alone)
    return lists


def tick_events(
    impressions: Columns,
    shown: Shown,
    row_numbers: IntArray,
    joined: Joined,
    amounts: FloatArray,
    taken: Taken,
    plan: Plan,
    requests: Keys,
) -> TickEvents:
    """Everything that counts in a tick, in time order; at equal times impressions, actions, behaviours.

    ``amounts``: what the given actions say of money. ``taken`` are the tick's behaviours. ``plan.remembered``
    are the columns of ``shown.keys`` and ``joined.keys``. ``row_numbers`` and ``requests`` (n,): those of
    the impressions.
    """
    behaviours = taken.events
    n, k, b = len(shown.ids), len(joined.bits), len(behaviours)
    times = np.concatenate([shown.times, joined.times, taken.times])
    order = np.argsort(times, kind="stable")
    bits = np.log2(joined.bits, dtype=np.float64).astype(np.int16) if k else np.empty(0, dtype=np.int16)
    kind = np.concatenate(
        [
            np.zeros(n, dtype=np.int16),
            bits + np.int16(FIRST_ACTION),
            behaviours.codes,
        ]
    )
    matrix = np.concatenate([shown.keys, joined.keys, behaviours.keys])[order]
    unknown = np.full(b, np.nan)
    value = np.where(
        joined.index >= 0, amounts[np.maximum(joined.index, 0)] if len(amounts) else np.nan, np.nan
    )
    numbers = {
        "price": np.concatenate([shown.prices, joined.prices, unknown]),
        "position": np.concatenate(
            [shown.places.astype(np.float64), joined.places.astype(np.float64), unknown]
        ),
        "stock": np.concatenate([impressions.numbers[:, STOCK], np.full(k + b, np.nan)]),
        "value": np.concatenate([np.full(n, np.nan), value, behaviours.numbers[:, VALUE]]),
    }
    users = shown.keys[:, plan.remembered.index("user_id")]
    lists = np.concatenate([lists_of(requests, users), np.zeros(k + b, dtype=np.uint64)])[order]
    first = order < n
    events = Events(
        kinds=kind[order],
        times=times[order],
        keys={name: np.ascontiguousarray(matrix[:, c]) for c, name in enumerate(plan.remembered)},
        numbers={name: column[order] for name, column in numbers.items()},
        lists=numbered(lists),
        origins=np.full(len(order), -1, dtype=np.int32),
    )
    rows = np.concatenate([row_numbers, joined.rows, np.full(b, -1)])[order]
    partitions = np.concatenate([shown.partitions, joined.partitions, taken.partitions])[order]
    return TickEvents(events, order[first], partitions, rows)


def united(ticks: Sequence[TickEvents]) -> Events:
    """Events of several ticks as one batch: tick after tick, and lists of different ticks apart.

    An action whose impression came in one of them knows which event that is (``Events.origins``).
    """
    parts = [tick.events for tick in ticks]
    rows = np.concatenate([tick.rows for tick in ticks])
    lists, count = [], 0
    for part in parts:
        lists.append(np.where(part.lists >= 0, part.lists + np.int32(count), part.lists))
        count += int(part.lists.max(initial=-1)) + 1
    every = np.concatenate(lists)
    shown = np.flatnonzero(every >= 0)
    origins = np.full(len(rows), -1, dtype=np.int32)
    if len(shown):
        # Rows are numbered as they come, but a tick's events stand by time.
        order = np.argsort(rows[shown], kind="stable")
        known = rows[shown][order]
        at = np.minimum(np.searchsorted(known, rows), len(known) - 1)
        here = (every < 0) & (rows >= 0) & (known[at] == rows)
        origins[here] = shown[order][at[here]]
    return Events(
        kinds=np.concatenate([part.kinds for part in parts]),
        times=np.concatenate([part.times for part in parts]),
        keys={name: np.concatenate([part.keys[name] for part in parts]) for name in parts[0].keys},
        numbers={name: np.concatenate([part.numbers[name] for part in parts]) for name in parts[0].numbers},
        lists=every.astype(np.int32),
        origins=origins,
    )


def trunk_columns(events: Columns, shown: Shown, layout: Layout) -> dict[str, Any]:
    """What a trunk reads of impressions beside their features."""
    found: dict[str, Any] = {
        name: events.keys[:, column]
        for column, name in enumerate(layout.keys)
        if name in ID_FIELDS or name.startswith(CONTEXT)
    }
    found |= {
        "position": events.numbers[:, POSITION].astype(np.int64),
        "price": events.numbers[:, PRICE],
        "event_time": shown.times,
    }
    if events.contexts is not None:
        found["context"] = events.contexts
    return found
