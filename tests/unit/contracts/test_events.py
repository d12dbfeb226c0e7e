"""Would catch: a limit that one side has and another has not, or a schema that takes what it should not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from contracts.events import EVENTS, KINDS, Behaviour, Impression
from contracts.limits import MAX_AMOUNT, MAX_EVENT_TIME, MAX_ID, MAX_POSITION, MAX_TYPE, MIN_EVENT_TIME
from contracts.scenario import Topics

LOOK: dict[str, Any] = {"event_time": 1_700_000_000_000, "user_id": "u", "type": "look"}
SHOWN = {"event_time": 1_700_000_000_000, "user_id": "u", "impression_id": "i", "item_id": "x"}


def test_kinds_schemas_and_topics_are_in_one_order() -> None:
    assert tuple(event.__name__.lower() for event in EVENTS) == KINDS
    assert Topics().sources == tuple(f"surgeline-{kind}s" for kind in KINDS)


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"user_id": ""}, "user_id"),
        ({"user_id": "u" * (MAX_ID + 1)}, "user_id"),
        ({"type": ""}, "type"),
        ({"type": "t" * (MAX_TYPE + 1)}, "type"),
        ({"item_id": "x" * (MAX_ID + 1)}, "item_id"),
        ({"query": "q" * (MAX_ID + 1)}, "query"),
        ({"context": {"city": "c" * (MAX_ID + 1)}}, "context"),
        ({"value": -1.0}, "value"),
        ({"value": MAX_AMOUNT * 2}, "value"),
        ({"event_time": MIN_EVENT_TIME - 1}, "event_time"),
        ({"event_time": MAX_EVENT_TIME + 1}, "event_time"),
        ({"item_id": None}, "item_id"),
    ],
)
def test_a_behaviour_outside_the_limits_is_refused(more: dict[str, Any], field: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert(LOOK | more, Behaviour)


def test_a_behaviour_at_the_limits_is_taken() -> None:
    widest = {"user_id": "u" * MAX_ID, "type": "t" * MAX_TYPE, "query": "q" * MAX_ID, "value": MAX_AMOUNT}
    assert msgspec.convert(LOOK | widest, Behaviour).query == "q" * MAX_ID
    assert msgspec.convert(LOOK | {"anything": [1, {}]}, Behaviour).item_id == ""


def test_nothing_left_is_something_else_than_not_known() -> None:
    assert msgspec.convert(SHOWN, Impression).stock is None
    assert msgspec.convert(SHOWN | {"stock": 0, "position": MAX_POSITION}, Impression).stock == 0.0
    with pytest.raises(msgspec.ValidationError, match="stock"):
        msgspec.convert(SHOWN | {"stock": -1}, Impression)
