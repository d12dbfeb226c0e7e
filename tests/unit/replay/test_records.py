"""Fails when a record is not what its row says: wrong escapes, lost fields, a value that does not decode."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from contracts.events import ACTIONS, Action, Behaviour, Impression
from replay.columns import conform
from replay.records import json_lines, to_records

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ids = texts.filter(bool)
times = st.integers(946_684_800_000, 2**53)
money = st.floats(0, 1e12, allow_nan=False)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "event": st.just("impression"),
                "event_time": times,
                "impression_id": ids,
                "user_id": ids,
                "item_id": ids,
                "category_id": texts | st.none(),
                "shop_id": texts | st.none(),
                "position": st.integers(0, 32_767) | st.none(),
                "price": money | st.none(),
                "stock": money | st.none(),
                "request_id": texts | st.none(),
                "context": st.fixed_dictionaries({"city": texts, 'a"b': texts | st.none()}),
            }
        ),
        min_size=1,
        max_size=5,
    )
)
def test_impressions_decode_to_what_the_row_says(rows: list[dict[str, Any]]) -> None:
    records = to_records(conform(pl.DataFrame(rows, infer_schema_length=None)))
    assert not records.kinds.any()
    for row, key, value in zip(rows, records.keys, records.values, strict=True):
        decoded = msgspec.json.decode(value, type=Impression)
        assert key == row["user_id"].encode()
        for name in ("impression_id", "event_time", "user_id", "item_id"):
            assert getattr(decoded, name) == row[name]
        for name, default in (("category_id", ""), ("shop_id", ""), ("request_id", "")):
            assert getattr(decoded, name) == (row[name] or default)
        assert decoded.position == (row["position"] or 0)
        assert decoded.price == (row["price"] or 0.0)
        assert decoded.stock == row["stock"]
        context = {name: text for name, text in row["context"].items() if text}
        assert (decoded.context or {}) == context


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "event": st.just("action"),
                "event_time": times,
                "impression_id": ids,
                "user_id": ids,
                "item_id": texts | st.none(),
                "action": st.sampled_from(ACTIONS),
                "value": money | st.none(),
            }
        ),
        min_size=1,
        max_size=5,
    )
)
def test_actions_decode_to_what_the_row_says(rows: list[dict[str, Any]]) -> None:
    records = to_records(conform(pl.DataFrame(rows, infer_schema_length=None)))
    assert (records.kinds == 1).all()
    for row, value in zip(rows, records.values, strict=True):
        decoded = msgspec.json.decode(value, type=Action)
        assert decoded.action == row["action"]
        assert decoded.item_id == (row["item_id"] or "")
        assert decoded.value == (row["value"] or 0.0)
        assert (decoded.impression_id, decoded.event_time) == (row["impression_id"], row["event_time"])


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "event": st.just("behaviour"),
                "event_time": times,
                "user_id": ids,
                "type": ids,
                "item_id": texts | st.none(),
                "category_id": texts | st.none(),
                "shop_id": texts | st.none(),
                "query": texts | st.none(),
                "value": money | st.none(),
                "context": st.fixed_dictionaries({"city": texts}) | st.none(),
            }
        ),
        min_size=1,
        max_size=5,
    )
)
def test_behaviours_decode_to_what_the_row_says(rows: list[dict[str, Any]]) -> None:
    records = to_records(conform(pl.DataFrame(rows, infer_schema_length=None)))
    assert (records.kinds == 2).all()
    for row, key, value in zip(rows, records.keys, records.values, strict=True):
        decoded = msgspec.json.decode(value, type=Behaviour)
        assert key == row["user_id"].encode()
        assert (decoded.event_time, decoded.type) == (row["event_time"], row["type"])
        for name in ("item_id", "category_id", "shop_id", "query"):
            assert getattr(decoded, name) == (row[name] or "")
        assert decoded.value == (row["value"] or 0.0)
        context = {name: text for name, text in (row["context"] or {}).items() if text}
        assert (decoded.context or {}) == context


def test_null_empty_and_default_fields_are_left_out(make: Any) -> None:
    """Otherwise every record of a narrow log carries a hundred bytes of nothing."""
    table = make.frame(
        make.impression(1, 0, category_id="", position=0, price=0.0, context={"city": "", "device": None}),
        make.action(1, 5, value=None),
    )
    first, second = (json.loads(value) for value in to_records(table).values)
    assert set(first) == {"impression_id", "event_time", "user_id", "item_id"}
    assert set(second) == {"impression_id", "event_time", "user_id", "item_id", "action"}


def test_context_of_an_action_row_is_not_sent(make: Any) -> None:
    table = make.frame(make.impression(1, 0, context={"city": "Berne"}), make.action(1, 5))
    first, second = (json.loads(value) for value in to_records(table).values)
    assert first["context"] == {"city": "Berne"}
    assert "context" not in second


def test_canonical_lines_name_the_event_first(make: Any) -> None:
    frame = make.frame(make.impression(1, 0), make.action(1, 5), make.behaviour(1, 6))
    lines = json_lines(frame, with_event=True).to_list()
    assert lines[2].startswith('{"event":"behaviour","type":"look","event_time"')
    assert lines[0].startswith('{"event":"impression","impression_id":"i1"')
    assert lines[1].startswith('{"event":"action","impression_id":"i1"')
