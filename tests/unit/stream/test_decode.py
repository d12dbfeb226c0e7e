"""Fails when a record that cannot be used stops the worker, takes its neighbours with it or is refused
without a reason that names the field, and when one that can be used is refused.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.events import ACTIONS, Action, Impression
from contracts.limits import MIN_EVENT_TIME
from stream.decode import Decoded, Decoder, Record

NOW = 1_700_000_000_000
FUTURE, CLOSING = 300_000, 7_000
SHOWN = {"impression_id": "i", "event_time": NOW, "user_id": "u", "item_id": "x"}
DONE = {"impression_id": "i", "event_time": NOW, "user_id": "u", "action": "click"}
GOOD = json.dumps(SHOWN).encode()
REQUIRED = {Impression: SHOWN, Action: DONE}


def decode(*values: bytes | None, kind: type[Any] = Impression, first: int = 0) -> Decoded[Any]:
    records = [Record(first + i, b"key", value) for i, value in enumerate(values)]
    return Decoder(kind, FUTURE, CLOSING).decode(records, NOW)


def shown(**fields: Any) -> bytes:
    return json.dumps({**SHOWN, **fields}).encode()


def packed(**fields: Any) -> bytes:
    return msgspec.msgpack.encode({**SHOWN, **fields})


def with_json(field: str, literal: str) -> bytes:
    return GOOD[:-1] + f',"{field}":{literal}}}'.encode()


def reason(value: bytes | None, kind: type[Any] = Impression) -> str:
    decoded = decode(value, kind=kind)
    assert decoded.events == [] and len(decoded.refused) == 1 and decoded.watermarks == []
    assert decoded.refused[0].record == Record(0, b"key", value)
    return decoded.refused[0].reason


# -- what is taken


def test_the_least_that_an_event_needs_and_its_defaults() -> None:
    decoded = decode(GOOD, first=7)
    assert decoded.events == [Impression(impression_id="i", event_time=NOW, user_id="u", item_id="x")]
    assert (decoded.events[0].position, decoded.events[0].price, decoded.events[0].features) == (0, 0.0, None)
    assert (decoded.times.tolist(), decoded.offsets.tolist()) == ([NOW], [7])
    assert (decoded.refused, decoded.watermarks) == ([], [])


@pytest.mark.parametrize("name", ACTIONS)
def test_every_action_of_the_contract(name: str) -> None:
    (event,) = decode(json.dumps({**DONE, "action": name}).encode(), kind=Action).events
    assert event.action == name


def test_messagepack_and_json_may_stand_side_by_side() -> None:
    decoded = decode(GOOD, packed(item_id="y"), shown(item_id="z"))
    assert [event.item_id for event in decoded.events] == ["x", "y", "z"]
    assert decoded.offsets.tolist() == [0, 1, 2]


def test_a_messagepack_map_of_any_size() -> None:
    for extra in (0, 12, 70_000):
        fields = {f"f{i}": i for i in range(extra)}
        assert len(decode(packed(**fields)).events) == 1


@pytest.mark.parametrize(
    "value",
    [
        shown(unknown={"deep": [1, 2, {"x": None}]}),
        packed(unknown=[b"bytes", 1.5, None]),
        with_json("unknown", "9" * 5000),
        b"\n\t " + GOOD + b" \n",
        shown(context={"device": "phone"}, features={"item_ctr_60s": -0.5}),
        shown(event_time=MIN_EVENT_TIME),
        shown(event_time=NOW + FUTURE),
        shown(item_id="日本/\u0000 x"),
        shown(item_id="x" * 256),
    ],
)
def test_unknown_fields_white_space_and_the_edges_of_what_is_allowed_pass(value: bytes) -> None:
    decoded = decode(value)
    assert (len(decoded.events), decoded.refused) == (1, [])


def test_an_empty_batch() -> None:
    decoded = decode()
    assert (decoded.events, decoded.times.tolist(), decoded.offsets.tolist()) == ([], [], [])


# -- what is refused, and what the reason says


@pytest.mark.parametrize(
    ("kind", "field"), [(kind, field) for kind, fields in REQUIRED.items() for field in fields]
)
def test_a_missing_field_is_named(kind: type[Any], field: str) -> None:
    fields = {name: value for name, value in REQUIRED[kind].items() if name != field}
    for value in (json.dumps(fields).encode(), msgspec.msgpack.encode(fields)):
        assert f"missing required field `{field}`" in reason(value, kind)


WRONG = [
    ("event_time", '"1700000000000"'),
    ("event_time", "1700000000000.5"),
    ("event_time", "true"),
    ("event_time", "1700000000"),
    ("event_time", "-1"),
    ("event_time", "9" * 30),
    ("event_time", "9" * 5000),
    ("item_id", "null"),
    ("item_id", '""'),
    ("user_id", "17"),
    ("impression_id", '"' + "x" * 257 + '"'),
    ("category_id", '"' + "x" * 257 + '"'),
    ("position", "-1"),
    ("position", "32768"),
    ("position", "1.5"),
    ("price", "-0.01"),
    ("price", "1e13"),
    ("price", "1e999"),
    ("price", '"9.99"'),
    ("context", '{"device":1}'),
    ("context", "[]"),
    ("features", '{"item_ctr_60s":"high"}'),
    ("features", '{"item_ctr_60s":' + "9" * 5000 + "}"),
]


@pytest.mark.parametrize(("field", "literal"), WRONG)
def test_a_wrong_field_is_named(field: str, literal: str) -> None:
    assert f"$.{field}" in reason(with_json(field, literal))


@pytest.mark.parametrize(("field", "literal"), [("action", '"wink"'), ("action", "1"), ("value", "-1")])
def test_a_wrong_field_of_an_action_is_named(field: str, literal: str) -> None:
    value = json.dumps(DONE).encode()[:-1] + f',"{field}":{literal}}}'.encode()
    assert f"$.{field}" in reason(value, Action)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf"), -1.0])
def test_a_price_that_is_no_amount_is_named_in_messagepack_too(number: float) -> None:
    assert "$.price" in reason(packed(price=number))


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (GOOD[:-1] + b',"item_id":"\xff"}', "item_id"),
        (GOOD[:-1] + b',"\xff\xfe":"unknown","user_id":"\xc3"}', ""),
        (GOOD[:-1] + b',"unknown":"\xff","user_id":"\xc3"}', "user_id"),
        (GOOD[:-1] + b',"context":{"device":"\xff"}}', "context"),
        (b"\x85" + packed()[1:] + b"\xa7shop_id\xa1\xff", "shop_id"),
    ],
)
def test_text_that_is_not_utf8_is_named(value: bytes, field: str) -> None:
    got = reason(value)
    if field:
        assert got.startswith("Text is not UTF-8") and f"$.{field}" in got
    else:
        assert "utf-8" in got


def test_an_event_from_the_future_is_refused_with_how_far_and_the_setting() -> None:
    got = reason(shown(event_time=NOW + FUTURE + 1))
    assert got.startswith(f"event_time {NOW + FUTURE + 1} is 300 s ahead of the clock")
    assert "times.max_future_s" in got


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "no value"),
        (b"", "no value"),
        (b"\x00\x01\x02", "malformed"),
        (b"hello", "malformed"),
        (b"[1]", "array"),
        (b"null", "null"),
        (b'"text"', "str"),
        (GOOD[:-1], "truncated"),
        (GOOD + GOOD, "trailing"),
        (GOOD + b"\n" + GOOD, "trailing"),
        (packed() + packed(), "trailing"),
        (b"\xef\xbb\xbf" + GOOD, "malformed"),
        (with_json("price", "NaN"), "malformed"),
        (with_json("item_id", '"\\ud800"'), ""),
        (b"\xdf\xff\xff\xff\xff", "truncated"),
        (b"\x85" + packed()[1:] + b"\xa7context\xdf\xff\xff\xff\xff", "truncated"),
    ],
)
def test_what_is_no_event_at_all_is_refused_with_what_is_wrong(value: bytes | None, says: str) -> None:
    got = reason(value)
    assert got and says in got


@pytest.mark.parametrize(
    "value",
    [
        with_json("unknown", "[" * 100_000 + "]" * 100_000),
        with_json("unknown", '{"a":' * 100_000 + "1" + "}" * 100_000),
        b"\x85" + packed()[1:] + b"\xa1x" + b"\x91" * 100_000 + b"\xc0",
        b'{"watermark":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_deep_nesting_is_refused_and_stops_nothing(value: bytes) -> None:
    """The decoder gives up with another error than for bad input; unhandled, every restart dies on it."""
    assert reason(value) == "the record is nested too deeply"


# -- a bad record among good ones


def test_the_good_ones_of_a_batch_keep_their_offsets() -> None:
    decoded = decode(
        shown(item_id="a"),
        b"garbage",
        shown(item_id="b"),
        shown(event_time=NOW + 10 * FUTURE),
        None,
        packed(item_id="c"),
        first=40,
    )
    assert [event.item_id for event in decoded.events] == ["a", "b", "c"]
    assert decoded.offsets.tolist() == [40, 42, 45]
    assert decoded.times.tolist() == [NOW, NOW, NOW]
    assert sorted(refused.record.offset for refused in decoded.refused) == [41, 43, 44]


GARBAGE = st.one_of(
    st.binary(max_size=30),
    st.binary(max_size=30).map(lambda tail: b"{" + tail),
    st.integers(0, len(GOOD) - 1).map(lambda at: GOOD[:at]),
    st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)).map(
        lambda change: GOOD[: change[0]] + bytes([change[1]]) + GOOD[change[0] + 1 :]
    ),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers(-(2**63), 2**63) | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=6,
    ).map(msgspec.msgpack.encode),
    st.sampled_from([*SHOWN, "position", "price", "context", "features", "watermark"]).flatmap(
        lambda name: st.one_of(
            st.none(), st.floats(), st.text(max_size=3), st.lists(st.integers(-(2**63), 2**63), max_size=1)
        ).map(lambda value: packed(**{name: value}))
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.none(), st.just(GOOD), GARBAGE), max_size=6))
def test_whatever_comes_each_record_is_either_an_event_or_refused(values: list[bytes | None]) -> None:
    decoded = decode(*values, first=5)
    offsets = [*decoded.offsets.tolist(), *(refused.record.offset for refused in decoded.refused)]
    assert sorted(offsets) == list(range(5, 5 + len(values)))
    assert len(decoded.events) == len(decoded.times) == len(decoded.offsets)
    assert {5 + i for i, value in enumerate(values) if value == GOOD} <= set(decoded.offsets.tolist())
    assert all(refused.reason for refused in decoded.refused)


# -- watermark records


def watermark(at: Any) -> bytes:
    return json.dumps({"watermark": at}).encode()


def test_a_watermark_is_no_event_and_not_refused() -> None:
    decoded = decode(GOOD, watermark(NOW + 1), watermark(NOW), shown(item_id="y"))
    assert len(decoded.events) == 2
    assert decoded.offsets.tolist() == [0, 3]
    assert (decoded.refused, decoded.watermarks) == ([], [(1, NOW + 1), (2, NOW)])


def test_a_watermark_in_messagepack() -> None:
    assert decode(msgspec.msgpack.encode({"watermark": NOW}), kind=Action).watermarks == [(0, NOW)]


@pytest.mark.parametrize("at", ["soon", 1700000000, None, -1])
def test_a_wrong_watermark_is_refused(at: Any) -> None:
    reason(watermark(at))


def test_a_watermark_may_close_the_last_samples_but_not_end_time() -> None:
    """One from the far future would make every event after it late, for good."""
    assert decode(watermark(NOW + FUTURE + CLOSING)).watermarks == [(0, NOW + FUTURE + CLOSING)]
    got = reason(watermark(NOW + FUTURE + CLOSING + 1000))
    assert got.startswith("watermark") and "times.max_future_s" in got


def test_an_event_with_a_field_called_watermark_is_an_event() -> None:
    decoded = decode(shown(watermark=NOW + 1))
    assert (len(decoded.events), decoded.watermarks) == (1, [])
