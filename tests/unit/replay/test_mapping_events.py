"""Fails when one row an event gives other events than the same log with label columns, or loses rows."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from replay.adapters.behaviour import IMPLICIT
from replay.adapters.mapping import load_mapping, open_mapped
from replay.columns import COLUMNS
from replay.errors import MappingError
from replay.log import to_records
from replay.source import TableLog

T0 = 1_700_000_000_000
FIELDS = '[fields]\nevent_time = "ts"\nuser_id = "u"\nitem_id = "i"\n'
OWN_IDS = FIELDS + 'impression_id = "id"\n'
EVENTS = '[events]\ncolumn = "type"\nimpression = ["view", "show"]\nclick = "click"\n'


def mapped(tmp_path: Path, table: pl.DataFrame | str, rules: str, suffix: str = ".csv") -> TableLog:
    data = tmp_path / f"table{suffix}"
    if isinstance(table, str):
        data.write_text(table)
    elif suffix == ".csv":
        table.write_csv(data)
    elif suffix == ".parquet":
        table.write_parquet(data)
    else:
        table.write_ndjson(data)
    (tmp_path / "m.toml").write_text(rules)
    return open_mapped(data, tmp_path / "m.toml")


def events(log: TableLog) -> list[tuple[int, str, str]]:
    """(ms after the first, impression id, what)."""
    table = pl.concat(list(log.chunks()))
    columns = table.select("event_time", "impression_id", "action")
    return [(time - T0, key, action or "shown") for time, key, action in columns.iter_rows()]


def both_ways(seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """One night as impressions with label columns, and as events in any order; each pair is shown once."""
    rng = random.Random(seed)
    wide: list[dict[str, Any]] = []
    long: list[dict[str, Any]] = []
    pairs = [(f"u{k % 13}", f"x{k // 13}") for k in range(400)]
    rng.shuffle(pairs)
    at = T0
    for k, (user, item) in enumerate(pairs):
        at += rng.choice([0, 1, 40])
        shown = {"id": f"id{k}", "ts": at, "u": user, "i": item, "price": rng.choice([None, 2.5]), "os": "x"}
        click = rng.choice([None, rng.randrange(1, 900)])
        paid = rng.choice([None, None, rng.randrange(1, 90_000)])
        wide.append(shown | {"click_ts": click and at + click, "paid_ts": paid and at + paid, "sum": 0.5 * k})
        long.append(shown | {"type": rng.choice(["view", "show"]), "sum": 7.0})
        same = {"id": f"id{k}", "u": user, "i": item, "price": 99.0}
        long += [same | {"ts": at + click, "type": "click"}] if click else []
        long += [same | {"ts": at + paid, "type": "pay", "sum": 0.5 * k}] if paid else []
        long.append(same | {"ts": at, "type": "hover"})
    rng.shuffle(long)
    return pl.DataFrame(wide, infer_schema_length=None), pl.DataFrame(long, infer_schema_length=None)


def canonical(log: TableLog, *, made_up_ids: bool = False) -> list[tuple[Any, ...]]:
    table = pl.concat(list(log.chunks(97)), how="vertical")
    assert table["event_time"].is_sorted()
    if made_up_ids:
        shown = table.filter(event="impression").select("impression_id", "user_id", "item_id", "event_time")
        pair = pl.concat_str("user_id", "item_id", pl.lit("at"), pl.col("event_time"))
        shown = shown.select("impression_id", pair.alias("pair"))
        table = table.join(shown, on="impression_id", maintain_order="left")
        table = table.with_columns(pl.col("pair").alias("impression_id"))
    table = table.select(*(name for name in COLUMNS if name != "context"), pl.col("context").struct.unnest())
    return sorted(table.rows(), key=repr)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("own_ids", [True, False])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_log_written_both_ways_gives_the_same_events(
    tmp_path: Path, suffix: str, own_ids: bool, seed: int
) -> None:
    """Fails when an action goes to another impression, time or value for being a row and not a column."""
    wide, long = both_ways(seed)
    fields = (OWN_IDS if own_ids else FIELDS) + 'price = "price"\n[context]\nos = "os"\n'
    labels = '[labels.click]\ncolumn = "click_ts"\ntime = "click_ts"\n'
    labels += '[labels.purchase]\ncolumn = "paid_ts"\ntime = "paid_ts"\nvalue = "sum"\n'
    as_columns = canonical(mapped(tmp_path, wide, fields + labels, suffix), made_up_ids=not own_ids)
    log = mapped(tmp_path, long, fields + EVENTS + 'purchase = "pay"\nvalue = "sum"\n', suffix)
    as_rows = canonical(log, made_up_ids=not own_ids)
    assert as_rows == as_columns and len(as_rows) > 500
    assert log.tally.left_out == {"hover": 400}
    assert log.tally.refused == 0 and log.tally.made_up == {}


def test_an_action_of_its_own_id_is_a_bare_action(tmp_path: Path) -> None:
    """Fails when an action carries what is of its impression, or is refused for it."""
    text = (
        "id,ts,u,i,pos,type,sum\n"
        f"a,{T0},u,x,3, view ,-\n"
        f"a,{T0 + 5},u,,-,click,\n"
        f"a,{T0 + 9},u,x,-,click,much\n"
        f"b,{T0 + 9},u,y,first,show,\n"
        f",{T0 + 9},u,x,1,click,\n"
    )
    log = mapped(tmp_path, text, OWN_IDS + 'position = "pos"\n' + EVENTS + 'value = "sum"\n')
    assert to_records(pl.concat(list(log.chunks()))).values == [
        f'{{"impression_id":"a","event_time":{T0},"user_id":"u","item_id":"x","position":3}}'.encode(),
        f'{{"impression_id":"a","event_time":{T0 + 5},"user_id":"u","action":"click"}}'.encode(),
    ]
    assert log.tally.examples == [
        (3, "events.value: much in column sum is not a number"),
        (4, "position: first in column pos is not a whole number"),
        (5, "impression_id is missing"),
    ]


@pytest.mark.parametrize("fields", [FIELDS, OWN_IDS])
def test_other_types_are_counted_and_rows_without_one_refused(tmp_path: Path, fields: str) -> None:
    """Fails when rows go without a word, or a heartbeat without a time is called an error."""
    text = f"id,ts,u,i,type\na,{T0},u,x,view\n,,,,ping\n,soon,,,ping\nb,{T0},u,x,\nc,{T0},u\nd,,u,x,click\n"
    log = mapped(tmp_path, text, fields + EVENTS)
    assert [what for _, _, what in events(log)] == ["shown"]
    assert log.tally.left_out == {"ping": 2}
    assert log.tally.examples == [
        (4, "column type is empty: no type of event"),
        (5, "column type is empty: no type of event"),
        (6, "event_time is missing or not a time"),
    ]


def test_a_column_that_is_no_type_does_not_fill_the_tally(tmp_path: Path) -> None:
    """Fails when the count of what is left out grows with the log."""
    rows = "".join(f"a,{T0},u,x,t{k}\n" for k in range(500))
    log = mapped(tmp_path, "id,ts,u,i,type\n" + rows, OWN_IDS + EVENTS)
    assert list(log.chunks(100)) == []
    assert len(log.tally.left_out) == 11 and sum(log.tally.left_out.values()) == 500


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_numbers_are_types_by_their_text(tmp_path: Path, suffix: str) -> None:
    table = pl.DataFrame({"ts": [T0, T0 + 1, T0 + 2], "u": "u", "i": "x", "type": [0, 1, None]})
    if suffix == ".parquet":
        table = table.with_columns(pl.col("type").cast(pl.Float64))
    rules = FIELDS + '[events]\ncolumn = "type"\nimpression = "0"\ncart = "1"\n'
    log = mapped(tmp_path, table, rules, suffix)
    assert events(log) == [(0, "table-1", "shown"), (1, "table-1", "cart")]
    assert log.tally.refused == 1


def test_without_ids_joins_are_made_up_as_for_behaviour_logs(tmp_path: Path) -> None:
    text = (
        "ts,u,i,type\n"
        f"{T0},u,x,view\n{T0 + 10},u,x,click\n{T0 + 20},u,x,show\n{T0 + 30},u,x,click\n{T0 + 40},w,x,click\n"
        f"{T0 + 50},w,x,click\n"
    )
    log = mapped(tmp_path, text, FIELDS + EVENTS)
    assert events(log) == [
        (0, "table-1", "shown"),
        (10, "table-1", "click"),
        (20, "table-3", "shown"),
        (30, "table-3", "click"),  # the latest earlier one, not the first
        (40, "table-5", "shown"),  # nobody showed it to this user
        (40, "table-5", "click"),
        (50, "table-5", "click"),
    ]
    assert log.tally.made_up == {IMPLICIT: 1}


def test_a_row_that_is_refused_takes_no_part_in_the_joins(tmp_path: Path) -> None:
    """Fails when actions go to an impression that was refused, or an amount is lost without a word."""
    text = (
        "ts,u,i,type,p\n"
        f"{T0},u,x,view,1\n{T0 + 10},u,x,view,dear\n{T0 + 20},u,x,click,\n{T0 + 30},u,x,pay,much\n"
    )
    rules = FIELDS + 'price = "p"\n' + EVENTS + 'purchase = "pay"\nvalue = "p"\n'
    log = mapped(tmp_path, text, rules)
    assert events(log) == [(0, "table-1", "shown"), (20, "table-1", "click")]
    assert [row for row, _ in log.tally.examples] == [2, 4]


def test_an_empty_item_is_no_pair(tmp_path: Path) -> None:
    """Fails when actions on nothing are joined with each other, and come out without an impression."""
    lines = [f'{{"ts":{T0 + k},"u":"u","i":"","type":"click"}}\n' for k in range(3)]
    log = mapped(tmp_path, "".join(lines), FIELDS + EVENTS, ".jsonl")
    assert list(log.chunks()) == [] and log.tally.refused == 3


def test_a_log_of_actions_only_makes_its_impressions_up(tmp_path: Path) -> None:
    text = f"ts,u,i,type\n{T0},u,x,add\n{T0 + 10},u,x,add\n{T0 + 20},u,y,add\n"
    log = mapped(tmp_path, text, FIELDS + '[events]\ncolumn = "type"\ncart = ["add"]\n')
    assert [what for _, _, what in events(log)] == ["shown", "cart", "cart", "shown", "cart"]
    assert log.tally.made_up == {IMPLICIT: 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (EVENTS + "[labels.click]\ncolumn = 'c'", "labels and events stand side by side; give labels where"),
        (
            EVENTS + "wish = 'w'",
            "events.wish is not a field; allowed are column, value, impression, click, cart",
        ),
        (EVENTS + "cart = 'show'", "events.impression and events.cart both have 'show'"),
        (EVENTS + "cart = ''", "events.cart has an empty text"),
        (EVENTS + "cart = [1]", r"Expected `str`, got `int` - at `\$.events.cart\[0\]`"),
        ("[events]\nclick = 'c'", "missing required field `column`"),
        (
            "[events]\ncolumn = 'c'",
            "events says of no text .* allowed are impression, click, cart, favourite",
        ),
        ("[constants]\nimpression_id = 'x'\n" + EVENTS, "constants.impression_id would be one impression"),
    ],
)
def test_wrong_events_name_the_field_and_what_is_allowed(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "m.toml"
    path.write_text(FIELDS + text)
    with pytest.raises(MappingError, match=expected):
        load_mapping(path)


def test_a_type_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match=r"events.column names column 'type', which .* it has ts, u, i"):
        mapped(tmp_path, f"ts,u,i\n{T0},u,x\n", FIELDS + EVENTS)


SESSION = (
    "ts,u,i,type,id,what,amount,cat\n"
    f"{T0},u1,,search,,tent,3,c1\n"
    f"{T0 + 5},u1,x,view,i1,tent,,c1\n"
    f"{T0 + 6},u1,x,peek,i1,,,c1\n"
    f"{T0 + 7},u1,x,buy,i1,,9.5,c1\n"
    f"{T0 + 8},,x,peek,,,,\n"
    f"{T0 + 9},u1,x,scroll,,,,\n"
)
TOLD = """query = "what"
category_id = "cat"
[events]
column = "type"
impression = "view"
purchase = "buy"
behaviour = ["search", "peek"]
value = "amount"
"""


@pytest.mark.parametrize("fields", [OWN_IDS, FIELDS], ids=["own ids", "made up"])
def test_rows_of_other_types_are_behaviours(tmp_path: Path, fields: str) -> None:
    """Their type is the text, they need no item, and no join takes them for an impression."""
    log = mapped(tmp_path, SESSION, fields + TOLD)
    table = pl.concat(list(log.chunks()))
    assert table["event"].to_list() == ["behaviour", "impression", "behaviour", "action"]
    told = table.filter(pl.col("event") == "behaviour")
    assert told.select("type", "item_id", "query", "value", "category_id").rows() == [
        ("search", None, "tent", 3.0, "c1"),
        ("peek", "x", None, None, "c1"),
    ]
    assert table["query"].null_count() == 3 and told["impression_id"].null_count() == 2
    assert table["impression_id"][1] is not None
    assert table["impression_id"][1] == table["impression_id"][3]
    assert table["value"][3] == 9.5
    assert log.tally.examples == [(5, "user_id is missing")]
    assert log.tally.left_out == {"scroll": 1}
    assert [json.loads(value).get("query") for value in to_records(table).values] == [
        "tent",
        None,
        None,
        None,
    ]


def test_a_query_without_behaviours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match=r"fields\.query is of behaviours"):
        mapped(tmp_path, SESSION, FIELDS + 'query = "what"\n' + EVENTS)
