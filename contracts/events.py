"""The event contract: what may stand in the source topics, one kind of event each.

Events are JSON objects (MessagePack maps are accepted too), one a record, keyed by ``user_id``. Event
time is milliseconds UTC. Unknown fields pass; a missing or wrong one sends the record to the dead-letter
topic with the reason.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec

from contracts.limits import MAX_AMOUNT, MAX_EVENT_TIME, MAX_ID, MAX_POSITION, MAX_TYPE, MIN_EVENT_TIME

ActionName = Literal["click", "cart", "favourite", "purchase", "refund"]

#: The order is the bit order in the join's action masks and the column order of the counts: append only.
ACTIONS: tuple[str, ...] = get_args(ActionName)

#: The kinds of events, in the words of recorded logs; each has a topic. The index is the kind's number in
#: states and commits, and events of the same time count in this order: append only.
KINDS: tuple[str, ...] = ("impression", "action", "behaviour")
IMPRESSION, ACTION, BEHAVIOUR = KINDS

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID)]
OptionalId = Annotated[str, msgspec.Meta(max_length=MAX_ID)]
TypeName = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TYPE)]
EventTime = Annotated[int, msgspec.Meta(ge=MIN_EVENT_TIME, le=MAX_EVENT_TIME)]
Place = Annotated[int, msgspec.Meta(ge=0, le=MAX_POSITION)]
Amount = Annotated[float, msgspec.Meta(ge=0.0, le=MAX_AMOUNT)]


class Impression(msgspec.Struct, gc=False, kw_only=True):
    """One item shown to one user at one position of one request.

    ``request_id`` is the list that it was shown in, ``stock`` the units that were left (null where that is
    not known). ``features`` are real-time features logged at serving time, by the names of the weights'
    feature list; they win over what the worker would compute.

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
    position: Place = 0
    price: Amount = 0.0
    stock: Amount | None = None
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
    value: Amount = 0.0


class Behaviour(msgspec.Struct, gc=False, kw_only=True):
    """Anything else that a user did: a page view, a search, a filter, a look at an item that no list showed.

    ``type`` is free text, in the shop's own words. A behaviour is joined to nothing and never a label. It has
    no id: one that a producer sends twice counts twice. ``query`` is what was searched or chosen, ``value``
    an amount that belongs to it.

    >>> msgspec.json.decode(
    ...     b'{"event_time":1700000000000,"user_id":"u","type":"search","query":"tent"}', type=Behaviour
    ... ).query
    'tent'
    """

    event_time: EventTime
    user_id: Id
    type: TypeName
    item_id: OptionalId = ""
    category_id: OptionalId = ""
    shop_id: OptionalId = ""
    query: OptionalId = ""
    value: Amount = 0.0
    context: dict[str, OptionalId] | None = None


#: The schema of each of ``KINDS``.
EVENTS: tuple[type[Impression] | type[Action] | type[Behaviour], ...] = (Impression, Action, Behaviour)


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
