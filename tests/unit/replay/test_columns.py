"""Fails when a row that the event contract refuses is let through, or a good one is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import polars as pl
import pytest

from contracts.events import Action, Behaviour, Impression
from replay.columns import COLUMNS, SCHEMA, conform, context_type, flattened, refusals
from replay.log import to_records


def reason(table: pl.DataFrame) -> str | None:
    answer: str | None = flattened(table).select(refusals(context_type(table)))["literal"][0]
    return answer


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"event": "refund"}, "event is not 'impression' or 'action' or 'behaviour'"),
        ({"event_time": None}, "event_time is missing or not a time"),
        ({"event_time": 1_700_000_000}, "outside 2000-01-01 UTC"),
        ({"event_time": 2**53 + 1}, "outside 2000-01-01 UTC"),
        ({"impression_id": ""}, "impression_id is missing"),
        ({"user_id": None}, "user_id is missing"),
        ({"item_id": None}, "item_id is missing"),
        ({"user_id": "u" * 257}, "user_id is longer than 256"),
        ({"shop_id": "ü" * 257}, "shop_id is longer than 256"),
        ({"context": {"city": "c" * 257}}, "context city is longer than 256"),
        ({"position": -1}, "position -1 is outside"),
        ({"position": 32_768}, "position 32768 is outside"),
        ({"price": -0.5}, "price -0.5 is outside"),
        ({"price": float("nan")}, "price NaN is outside"),
        ({"price": float("inf")}, "price inf is outside"),
        ({"stock": -1.0}, "stock -1.0 is outside 0..1e12"),
    ],
)
def test_a_bad_impression_is_refused_with_its_reason(
    make: Any, change: dict[str, Any], expected: str
) -> None:
    assert expected in (reason(make.frame(make.impression(1, 0, **change))) or "")


@pytest.mark.parametrize(
    ("change", "expected"),
    [({"action": "wish"}, "action is not one of click, cart"), ({"value": 2e12}, "value 2000000000000.0")],
)
def test_a_bad_action_is_refused_with_its_reason(make: Any, change: dict[str, Any], expected: str) -> None:
    assert expected in (reason(make.frame(make.action(1, 0) | change)) or "")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"type": ""}, "type is missing"),
        ({"type": "t" * 65}, "type is longer than 64"),
        ({"query": "q" * 257}, "query is longer than 256"),
        ({"item_id": "x" * 257}, "item_id is longer than 256"),
        ({"user_id": None}, "user_id is missing"),
        ({"value": -1.0}, "value -1.0 is outside"),
    ],
)
def test_a_bad_behaviour_is_refused_with_its_reason(make: Any, change: dict[str, Any], expected: str) -> None:
    assert expected in (reason(make.frame(make.behaviour(1, 0) | change)) or "")


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"user_id": "ü" * 256},
        {"position": 32_767, "price": 1e12},
        {"event_time": 946_684_800_000},
        {"context": {"city": "c" * 256}},
        {"item_id": "x" * 256, "request_id": ""},
    ],
)
def test_what_is_not_refused_decodes(make: Any, change: dict[str, Any]) -> None:
    """The bounds here and those of the event schema are the same."""
    table = make.frame(make.impression(1, 0, **change))
    assert reason(table) is None
    msgspec.json.decode(to_records(table).values[0], type=Impression)
    wide = make.frame(make.action(1, 0, value=1e12, item_id=""))
    assert reason(wide) is None
    msgspec.json.decode(to_records(wide).values[0], type=Action)
    free = make.frame(make.behaviour(1, 0, "t" * 64, value=1e12, item_id=None, query="q" * 256))
    assert reason(free) is None
    msgspec.json.decode(to_records(free).values[0], type=Behaviour)


def test_conform_orders_casts_and_fills() -> None:
    table = pl.DataFrame(
        {"event_time": ["1700000000000", "soon"], "event": ["impression"] * 2, "more": [1, 2]}
    )
    done = conform(table)
    assert tuple(done.columns) == tuple(name for name in COLUMNS if name != "context")
    assert dict(done.schema) == SCHEMA
    assert done["event_time"].to_list() == [1_700_000_000_000, None]


def test_context_becomes_text() -> None:
    """A number in the context would break the escape check and the schema of files."""
    table = pl.DataFrame({"event": ["impression"], "context": [{"tab": 3}]})
    assert conform(table)["context"].to_list() == [{"tab": "3"}]


def test_a_wide_context_is_rendered_field_by_field(make: Any) -> None:
    """Fields are checked and escaped as columns of their own, nulls and odd names included."""
    fields = {f"field {k}": f"v{k}" for k in range(400)} | {'quo"te': 'a "b"', "none": None}
    frame = make.frame(make.impression(1, 0, context=fields), make.impression(2, 1, context=None))
    assert reason(frame) is None
    whole, bare = (msgspec.json.decode(value, type=Impression) for value in to_records(frame).values)
    assert whole.context == {name: text for name, text in fields.items() if text is not None}
    assert bare.context is None
    long = frame.with_columns(pl.struct(pl.lit("x" * 257).alias("field 7")).alias("context"))
    assert reason(long) == "context field 7 is longer than 256 characters"
