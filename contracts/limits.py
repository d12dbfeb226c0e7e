"""The bounds of what an event may say, once for every side: schemas, recorded logs, requests, adapters."""

from __future__ import annotations

#: Characters of an id, a context text or a query.
MAX_ID = 256
#: Characters of a behaviour's type.
MAX_TYPE = 64
MAX_POSITION = 32_767
#: Money, and units in stock.
MAX_AMOUNT = 1e12

#: 2000-01-01 UTC in ms: an event time below it is almost surely seconds written where milliseconds belong.
MIN_EVENT_TIME = 946_684_800_000
#: What JSON numbers hold exactly everywhere. How far ahead of the clock an event may be, the scenario says.
MAX_EVENT_TIME = 2**53
#: 2100-01-01 UTC: a recorded time behind it is almost surely in a finer unit than was said.
MAX_RECORDED_TIME = 4_102_444_800_000
