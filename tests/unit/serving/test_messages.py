"""Fails when a wrong request is taken, or its error does not name the field."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.events import Impression
from serving.errors import RequestError
from serving.messages import MAX_ITEMS, ScoreRequest, decode_request

ITEM = {"item_id": "a"}
WRONG: list[tuple[Any, str]] = [
    ({"items": [ITEM]}, "user_id"),
    ({"user_id": "u"}, "items"),
    ({"user_id": "", "items": [ITEM]}, "user_id"),
    ({"user_id": 7, "items": [ITEM]}, "user_id"),
    ({"user_id": "u", "items": []}, "items"),
    ({"user_id": "u", "items": [ITEM] * (MAX_ITEMS + 1)}, "items"),
    ({"user_id": "u", "items": [ITEM, {}]}, "items[1].item_id"),
    ({"user_id": "u", "items": [ITEM | {"price": "9"}]}, "items[0].price"),
    ({"user_id": "u", "items": [ITEM | {"price": -1}]}, "items[0].price"),
    ({"user_id": "u", "items": [ITEM | {"stock": -1}]}, "items[0].stock"),
    ({"user_id": "u", "items": [ITEM | {"position": 1.5}]}, "items[0].position"),
    ({"user_id": "u", "items": [ITEM | {"features": {"a": "b"}}]}, "items[0].features[...]"),
    ({"user_id": "u", "items": [ITEM], "event_time": 1_700_000_000}, "event_time"),
    ({"user_id": "u", "items": [ITEM], "context": {"page": 3}}, "context[...]"),
    ([], ""),
]


@pytest.mark.parametrize("msgpack", [False, True], ids=["json", "msgpack"])
@pytest.mark.parametrize(("wrong", "field"), WRONG)
def test_the_error_names_the_field(wrong: Any, field: str, msgpack: bool) -> None:
    """In either format."""
    data = msgspec.msgpack.encode(wrong) if msgpack else json.dumps(wrong).encode()
    with pytest.raises(RequestError) as caught:
        decode_request(data, msgpack=msgpack)
    assert caught.value.field == field
    assert "$" not in caught.value.message


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_a_request_or_an_error(data: bytes, msgpack: bool) -> None:
    """Garbage must become a 400, never another exception."""
    try:
        assert isinstance(decode_request(data, msgpack=msgpack), ScoreRequest)
    except RequestError as error:
        assert str(error)


def test_the_most_items_and_unknown_fields_pass() -> None:
    """The limit is inclusive, and callers may send more than this build reads."""
    data = {"user_id": "u", "items": [ITEM | {"brand": "x"}] * MAX_ITEMS, "trace": "t"}
    assert len(decode_request(json.dumps(data).encode()).items) == MAX_ITEMS


def test_what_can_be_scored_can_be_logged() -> None:
    """Field for field, the bounds of a request are those of the impression that follows from it."""
    item = {"item_id": "x" * 256, "category_id": "", "position": 32_767, "price": 1e12, "stock": 0}
    request = {"user_id": "u" * 256, "items": [item], "event_time": 946_684_800_000, "context": {"a": ""}}
    scored = decode_request(json.dumps(request).encode())
    impression = {
        **msgspec.to_builtins(scored.items[0]),
        "impression_id": "i",
        "user_id": scored.user_id,
        "event_time": scored.event_time,
        "context": scored.context,
    }
    assert msgspec.convert(impression, Impression).price == 1e12


def test_nan_is_refused_in_either_format() -> None:
    """JSON has none; MessagePack's is outside the bounds."""
    with pytest.raises(RequestError):
        decode_request(b'{"user_id": "u", "items": [{"item_id": "a", "price": NaN}]}')
    with pytest.raises(RequestError) as caught:
        data = msgspec.msgpack.encode({"user_id": "u", "items": [ITEM | {"price": math.nan}]})
        decode_request(data, msgpack=True)
    assert caught.value.field == "items[0].price"
