"""Fails when a record that cannot be used stops the worker, takes its neighbours with it or is refused
without a reason that names the field, and when one that can be used is refused.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.events import ACTIONS, EVENTS, Action, Behaviour, Impression
from contracts.limits import MIN_EVENT_TIME
from features.declared import plan_from
from features.hashing import hash_texts
from stream.decode import Decoded, Decoder, Record
from stream.event_columns import Columns, Layout, layouts
from stream.json_scan import Scanner

#: Two counts ask for what is searched and for a part of the context; a trunk reads another part.
PLAN = plan_from(
    {
        "counts": [{"keys": ["query"]}, {"keys": ["context.page"]}, {"keys": ["item_id", "position"]}],
        "session": [{}],
    },
    ACTIONS,
)
LAYOUTS = layouts(PLAN, ("item_id", "context.device"))
NOW = 1_700_000_000_000
FUTURE, CLOSING = 300_000, 7_000
SHOWN = {"impression_id": "i", "event_time": NOW, "user_id": "u", "item_id": "x"}
DONE = {"impression_id": "i", "event_time": NOW, "user_id": "u", "action": "click"}
GOOD = json.dumps(SHOWN).encode()
REQUIRED = {Impression: SHOWN, Action: DONE}


def layout(kind: type[Any]) -> Layout:
    return LAYOUTS[EVENTS.index(kind)]


def decode(*values: bytes | None, kind: type[Any] = Impression, first: int = 0) -> Decoded:
    """By the scanner and without it, which must be the same."""
    records = [Record(first + i, b"key", value) for i, value in enumerate(values)]
    offsets = np.arange(first, first + len(values))
    scanned, plain = (
        Decoder(layout(kind), FUTURE, CLOSING, scan=scan).decode(records, offsets, NOW)
        for scan in (True, False)
    )
    same(scanned.events, plain.events)
    assert (scanned.times.tolist(), scanned.offsets.tolist()) == (
        plain.times.tolist(),
        plain.offsets.tolist(),
    )
    assert scanned.refused == plain.refused
    assert scanned.watermarks == plain.watermarks
    return scanned


def same(one: Columns, other: Columns) -> None:
    assert one.ids.tolist() == other.ids.tolist()
    assert one.keys.tolist() == other.keys.tolist()
    assert one.numbers.tobytes() == other.numbers.tobytes()
    assert one.codes.tolist() == other.codes.tolist()
    logged = [None if some.logged is None else some.logged.tolist() for some in (one, other)]
    assert logged[0] == logged[1]


def items(decoded: Decoded, kind: type[Any] = Impression) -> list[int]:
    """The keys of the events' items."""
    return column(decoded, "item_id", kind)


def column(decoded: Decoded, name: str, kind: type[Any] = Impression) -> list[int]:
    found: list[int] = decoded.events.keys[:, layout(kind).keys.index(name)].tolist()
    return found


def keys(*texts: str) -> list[int]:
    found: list[int] = hash_texts(texts).tolist()
    return found


def shown(**fields: Any) -> bytes:
    return json.dumps({**SHOWN, **fields}).encode()


def packed(**fields: Any) -> bytes:
    return msgspec.msgpack.encode({**SHOWN, **fields})


def with_json(field: str, literal: str) -> bytes:
    return GOOD[:-1] + f',"{field}":{literal}}}'.encode()


def reason(value: bytes | None, kind: type[Any] = Impression) -> str:
    decoded = decode(value, kind=kind)
    assert len(decoded.events) == 0 and len(decoded.refused) == 1 and decoded.watermarks == []
    assert decoded.refused[0].record == Record(0, b"key", value)
    return decoded.refused[0].reason


# -- what is taken


def test_the_least_that_an_event_needs_and_its_defaults() -> None:
    decoded = decode(GOOD, first=7)
    events = decoded.events
    assert (events.ids.tolist(), items(decoded), column(decoded, "user_id")) == (["i"], keys("x"), keys("u"))
    assert column(decoded, "category_id") == column(decoded, "request_id") == [0]
    assert events.numbers[0, :2].tolist() == [0.0, 0.0] and np.isnan(events.numbers[0, 2])
    assert events.logged is None
    assert (decoded.times.tolist(), decoded.offsets.tolist()) == ([NOW], [7])
    assert (decoded.refused, decoded.watermarks) == ([], [])


@pytest.mark.parametrize("name", ACTIONS)
def test_every_action_of_the_contract(name: str) -> None:
    events = decode(json.dumps({**DONE, "action": name, "value": 2}).encode(), kind=Action).events
    assert [ACTIONS[code] for code in events.codes] == [name]
    assert (events.ids.tolist(), events.numbers.tolist()) == (["i"], [[2.0]])


def test_messagepack_and_json_may_stand_side_by_side() -> None:
    decoded = decode(GOOD, packed(item_id="y"), shown(item_id="z"))
    assert items(decoded) == keys("x", "y", "z")
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
    assert (len(decoded.events), decoded.times.tolist(), decoded.offsets.tolist()) == (0, [], [])


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
    assert items(decoded) == keys("a", "b", "c")
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


# -- what the scanner reads is what msgspec reads

TEXTS = st.text(max_size=6) | st.text('ab"\\/\n日é\u07ff\U0001f600', max_size=5) | st.just("x" * 256)
AMOUNTS = (
    st.floats(0, 1e12)
    | st.integers(0, 10**12)
    | st.decimals(0, 10**6, places=2).map(float)
    | st.sampled_from([5e-324, 1e-7, 2.0**53, 1e12, 0.1 + 0.2, 123456789012.34567])
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "event_time": st.integers(MIN_EVENT_TIME, NOW),
    "item_id": TEXTS,
    "category_id": TEXTS,
    "shop_id": TEXTS,
    "request_id": TEXTS,
    "query": TEXTS,
    "type": st.sampled_from(["search", "look", "click", "other"]) | TEXTS,
    "position": st.integers(-1, 40_000),
    "price": AMOUNTS,
    "stock": st.none() | AMOUNTS,
    "value": AMOUNTS,
    "context": st.none() | st.dictionaries(st.sampled_from(["device", "page", "query", "other", ""]), TEXTS),
    "features": st.none() | st.dictionaries(TEXTS, st.floats(-2, 2), max_size=2),
    "action": st.sampled_from([*ACTIONS, "wink"]),
    "elsewhere": TEXTS | AMOUNTS | st.booleans() | st.lists(st.integers(), max_size=2) | st.none(),
}
WRITERS = [
    lambda fields: json.dumps(fields).encode(),
    lambda fields: json.dumps(fields, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass"),
    lambda fields: json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "surrogatepass"
    ),
    lambda fields: json.dumps(fields).replace("e", "E").encode(),
]


@settings(max_examples=400, deadline=None)
@given(data=st.data(), kind=st.sampled_from([Impression, Action, Behaviour]), write=st.sampled_from(WRITERS))
def test_records_in_any_order_and_writing_are_read_alike(data: Any, kind: type[Any], write: Any) -> None:
    """``decode`` compares; here come the fields of all kinds, in any order, with any texts and numbers."""
    values = []
    for _ in range(data.draw(st.integers(1, 3))):
        names = data.draw(st.lists(st.sampled_from(sorted(FIELDS)), unique=True))
        fields = {name: data.draw(FIELDS[name]) for name in names}
        least = {"impression_id": "i", "user_id": "日本 u", "type": "look", "action": "click"}
        least = {name: value for name, value in least.items() if name in kind.__struct_fields__}
        values.append(write({**fields, **{k: fields.get(k, v) for k, v in least.items()}, "event_time": NOW}))
    decode(*values, kind=kind)


@pytest.mark.parametrize(
    "literal",
    [
        "0.1",
        "1e-7",
        "1E+2",
        "0.30000000000000004",
        "123456789012.34567",
        "1e-400",
        "0e5",
        "00",
        "1.",
        ".5",
        "1e",
        "-0",
        "9007199254740993",
        "0." + "0" * 30 + "1",
        "1" + "0" * 400,
        "5" * 19,
        "1e22",
        "1e23",
    ],
)
def test_a_number_is_what_msgspec_reads(literal: str) -> None:
    """The digits of a number, and what is no number, must not depend on who reads it."""
    decode(with_json("price", literal), with_json("stock", literal), with_json("unknown", literal))


@pytest.mark.parametrize(
    "text",
    [
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe0\x80\x80",
        b"\xf0\x80\x80\x80",
        b"\xe6\x97",
        b"\x1f",
        b"\x7f",
        "日本".encode(),
        "\U0001f600é".encode(),
    ],
)
def test_a_text_is_one_for_both(text: bytes) -> None:
    """What is no UTF-8 is refused by both, and other texts have one key."""
    decode(GOOD[:-1] + b',"shop_id":"' + text + b'"}', GOOD[:-1] + b',"' + text + b'":1}')


def test_of_a_field_that_comes_twice_the_last_counts() -> None:
    decoded = decode(
        with_json("item_id", '"y"'), with_json("price", "1.5")[:-1] + b',"price":0.30000000000000004}'
    )
    assert items(decoded) == keys("y", "x") and decoded.events.numbers[1, 1] == 0.30000000000000004


def test_almost_everything_that_producers_write_is_scanned() -> None:
    """Else a worker is several times slower, and nobody sees why."""
    fields = {
        "item_id": "日本",
        "position": 3,
        "price": 19.99,
        "stock": None,
        "context": {"device": "ios", "x": ""},
    }
    values = [
        shown(**fields),
        json.dumps({**SHOWN, **fields}, ensure_ascii=False).encode(),
        shown(request_id="r"),
    ]
    scanner = Scanner(LAYOUTS[0])
    data = b"".join(values)
    taken = scanner.scan(data, np.cumsum([len(value) for value in values])).taken
    assert taken.tolist() == [False, True, True]  # the first has escapes


def test_names_of_items_are_told_by_their_keys() -> None:
    """The live page shows names, and rows know keys alone."""
    told: dict[int, str] = {}

    def see(found: Any, texts: Any) -> None:
        told.update(zip(found.tolist(), texts(np.arange(len(found))), strict=True))

    records = [Record(0, None, shown(item_id="plain")), Record(1, None, packed(item_id="packed"))]
    Decoder(LAYOUTS[0], FUTURE, named=see, scan=True).decode(records, np.arange(2), NOW)
    assert told == dict(zip(keys("plain", "packed"), ["plain", "packed"], strict=True))
