"""The event contract: what may stand in the impressions and actions topics.

Events are JSON objects (MessagePack maps are accepted too), one a record, keyed by ``user_id``. Event
time is milliseconds UTC. Unknown fields pass; a missing or wrong one sends the record to the dead-letter
topic with the reason.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec

ActionName = Literal["click", "cart", "favourite", "purchase", "refund"]

#: The order is the bit order in the join's action masks and the column order of the counts: append only.
ACTIONS: tuple[str, ...] = get_args(ActionName)

#: 2000-01-01 UTC: an event time below it is almost surely seconds written where milliseconds belong.
MIN_EVENT_TIME = 946_684_800_000

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
OptionalId = Annotated[str, msgspec.Meta(max_length=256)]
EventTime = Annotated[int, msgspec.Meta(ge=MIN_EVENT_TIME, le=2**53)]


class Impression(msgspec.Struct, gc=False, kw_only=True):
    """One item shown to one user at one position of one request.

    ``features`` are real-time features logged at serving time, by the names of the weights' feature
    list; they win over what the worker would compute.

    >>> msgspec.json.decode(
    ...     b'{"impression_id":"i1","event_time":1700000000000,"user_id":"u","item_id":"x"}', type=Impression
    ... ).position
    0
    """

    impression_id: Id
    event_time: EventTime
    user_id: Id
    item_id: Id
    category_id: OptionalId = ""
    shop_id: OptionalId = ""
    position: Annotated[int, msgspec.Meta(ge=0, le=32_767)] = 0
    price: Annotated[float, msgspec.Meta(ge=0.0, le=1e12)] = 0.0
    request_id: OptionalId = ""
    context: dict[str, OptionalId] | None = None
    features: dict[str, float] | None = None


class Action(msgspec.Struct, gc=False, kw_only=True):
    """What a user did with an impression. ``value`` is money for purchases and refunds."""

    impression_id: Id
    event_time: EventTime
    user_id: Id
    action: ActionName
    item_id: OptionalId = ""
    value: Annotated[float, msgspec.Meta(ge=0.0, le=1e12)] = 0.0


class Watermark(msgspec.Struct, gc=False, kw_only=True):
    """A producer's promise: nothing older than ``watermark`` (ms UTC) follows in this partition.

    Optional. The replay writes one into every partition when a log ends, so that the last samples close
    at once and a rehearsal on a broker equals one without.
    """

    watermark: EventTime


class DeadLetter(msgspec.Struct, kw_only=True):
    """A record that was refused: why, where it stood, and its bytes (base64 in JSON)."""

    reason: str
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    seen_at: int
