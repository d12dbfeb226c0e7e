"""A tick's events as columns: what the features plan reads, and what the join remembers of impressions.

Here, and nowhere later, an event is a Python object: ids become 64-bit numbers, amounts arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from contracts.events import ACTIONS, Behaviour, Impression
from features.columns import key_matrix
from features.events import Events
from features.hashing import Keys, cross, hash_numbers, hash_texts
from features.plan import Plan
from features.scope import OTHER
from state.joins.columns import Joined, Shown
from stream.tick_log import TickLog
from stream.timeline import Taken

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

#: Ids of an impression.
ID_FIELDS = ("user_id", "item_id", "category_id", "shop_id")
#: Number of each action in plans: they follow the impression, in the order of their bits.
FIRST_ACTION = 1


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

    ``events`` and ``shown``: its new impressions, ``row`` the join's number of the first one; ``columns``:
    everything that counts in it; how many ``actions`` were joined, and how many ``behaviours`` came.
    """

    tick: int
    events: list[Impression]
    shown: Shown
    row: int
    columns: TickEvents
    actions: int
    behaviours: int

    def note(self, log: TickLog, end_ms: int) -> None:
        """Into the log of ticks."""
        log.seen(end_ms, len(self.events), self.actions, self.behaviours)


def shown_columns(
    ids: list[str],
    events: Sequence[Impression],
    times: IntArray,
    partitions: npt.NDArray[np.int16],
    names: Sequence[str],
) -> Shown:
    """Impressions as the join remembers them; a price of 0 is unknown."""
    return Shown(
        ids=ids,
        times=times,
        keys=impression_keys(events, names),
        places=np.array([e.position for e in events], dtype=np.int32),
        prices=np.array([e.price or np.nan for e in events], dtype=np.float64),
        partitions=partitions,
    )


def impression_keys(events: Sequence[Impression], names: Sequence[str]) -> Keys:
    """The columns ``names`` of impressions, (n, columns) uint64."""
    texts = {name: _texts(events, name) for name in ID_FIELDS}
    contexts = [e.context for e in events]
    return key_matrix(names, len(events), texts, contexts, [e.position for e in events])


def behaviour_keys(events: Sequence[Behaviour], names: Sequence[str]) -> Keys:
    """The columns ``names`` of behaviours, (n, columns) uint64."""
    columns = ("user_id", "item_id", "category_id", "shop_id", "query")
    texts = {name: _texts(events, name) for name in columns}
    return key_matrix(names, len(events), texts, [e.context for e in events])


def _texts(events: Sequence[Any], name: str) -> Callable[[], list[str]]:
    return lambda: list(map(attrgetter(name), events))


def lists_of(events: Sequence[Impression], users: Keys) -> npt.NDArray[np.int32]:
    """The number of each impression's list: same user, same request; without a request a list of its own.

    ``users`` (n,): the keys of their users.
    """
    requests = hash_texts([e.request_id for e in events])
    alone = hash_numbers(np.arange(len(events)))
    lists = np.where(requests == 0, alone, cross([requests, users]))
    return np.unique(lists, return_inverse=True)[1].astype(np.int32)


def tick_events(
    impressions: Sequence[Impression],
    shown: Shown,
    first_row: int,
    joined: Joined,
    amounts: FloatArray,
    taken: Taken,
    plan: Plan,
) -> TickEvents:
    """Everything that counts in a tick, in time order; at equal times impressions, actions, behaviours.

    ``amounts``: what the given actions say of money. ``taken`` are the tick's behaviours. ``plan.remembered``
    are the columns of ``shown.keys`` and ``joined.keys``.
    """
    behaviours: list[Behaviour] = taken.events
    number = {kind: k for k, kind in enumerate(plan.scope.kinds)}
    other = number[OTHER]
    n, k, b = len(shown.ids), len(joined.bits), len(behaviours)
    times = np.concatenate([shown.times, joined.times, taken.times])
    order = np.argsort(times, kind="stable")
    bits = np.log2(joined.bits, dtype=np.float64).astype(np.int16) if k else np.empty(0, dtype=np.int16)
    kind = np.concatenate(
        [
            np.zeros(n, dtype=np.int16),
            bits + np.int16(FIRST_ACTION),
            np.array([number.get(e.type, other) for e in behaviours], dtype=np.int16),
        ]
    )
    matrix = np.concatenate([shown.keys, joined.keys, behaviour_keys(behaviours, plan.remembered)])[order]
    unknown = np.full(b, np.nan)
    stock = np.array([np.nan if e.stock is None else e.stock for e in impressions], dtype=np.float64)
    value = np.where(
        joined.index >= 0, amounts[np.maximum(joined.index, 0)] if len(amounts) else np.nan, np.nan
    )
    numbers = {
        "price": np.concatenate([shown.prices, joined.prices, unknown]),
        "position": np.concatenate(
            [shown.places.astype(np.float64), joined.places.astype(np.float64), unknown]
        ),
        "stock": np.concatenate([stock, np.full(k + b, np.nan)]),
        "value": np.concatenate(
            [np.full(n, np.nan), value, np.array([e.value for e in behaviours], dtype=np.float64)]
        ),
    }
    users = shown.keys[:, plan.remembered.index("user_id")]
    lists = np.concatenate([lists_of(impressions, users), np.full(k + b, -1, dtype=np.int32)])[order]
    first = order < n
    events = Events(
        kinds=kind[order],
        times=times[order],
        keys={name: np.ascontiguousarray(matrix[:, c]) for c, name in enumerate(plan.remembered)},
        numbers={name: column[order] for name, column in numbers.items()},
        lists=_in_order(lists),
        origins=np.full(len(order), -1, dtype=np.int32),
    )
    rows = np.concatenate([first_row + np.arange(n), joined.rows, np.full(b, -1)])[order]
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


def trunk_columns(events: Sequence[Impression], shown: Shown, names: Sequence[str]) -> dict[str, Any]:
    """What a trunk reads of impressions beside their features. ``names``: the columns of ``shown.keys``."""
    known = {name: column for column, name in enumerate(names)}
    return {
        **{
            # What is a key already is not worked out again.
            field: shown.keys[:, known[field]] if field in known else [getattr(e, field) for e in events]
            for field in ID_FIELDS
        },
        "position": shown.places.astype(np.int64),
        "price": np.array([e.price for e in events], dtype=np.float64),
        "event_time": shown.times,
        "context": [e.context for e in events],
    }


def _in_order(lists: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Lists numbered anew in the order of their first impression; -1 stays."""
    listed = np.flatnonzero(lists >= 0)
    if not len(listed):
        return lists
    _, first, inverse = np.unique(lists[listed], return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    found = lists.copy()
    found[listed] = rank[inverse]
    return found


def action_columns(events: Sequence[Any]) -> tuple[list[str], npt.NDArray[np.uint8], FloatArray]:
    """Impression ids, bits and amounts of actions."""
    bits = np.fromiter((_BIT[e.action] for e in events), dtype=np.uint8, count=len(events))
    amounts = np.fromiter((e.value for e in events), dtype=np.float64, count=len(events))
    return [e.impression_id for e in events], bits, amounts


#: Bit of each action in the join's masks.
_BIT = {name: 1 << k for k, name in enumerate(ACTIONS)}
