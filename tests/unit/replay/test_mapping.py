"""Fails when a mapping sends a column to the wrong field, or a wrong mapping is met with a riddle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from replay.adapters.mapping import load_mapping
from replay.errors import LogError, MappingError
from replay.log import open_log, to_records

FIELDS = '[fields]\nevent_time = "ts"\nuser_id = "u"\nitem_id = "i"\n'
FULL = """
name = "mine"
time_unit = "s"
[fields]
event_time = "ts"
user_id = "u"
item_id = "i"
price = "p"
position = "pos"
[constants]
shop_id = "main"
[context]
device = "dev"
[labels.click]
column = "clicked"
[labels.purchase]
column = "state"
equals = ["paid", "sent"]
delay = "wait_ms"
delay_unit = "ms"
value = "amount"
"""
NAMES = ("ts", "u", "i", "p", "pos", "dev", "clicked", "state", "wait_ms", "amount")
ROWS: list[dict[str, Any]] = [
    dict(zip(NAMES, row, strict=True))
    for row in (
        (1700000001, "u1", "a", 2.5, 1, "ios", 0, "", None, None),
        (1700000000, "u2", "b", 9.0, 2, None, 1, "paid", 1500, 9.0),
        (1700000002, "u3", "c", 1.0, 3, "web", 1, "sent", None, 1.0),
    )
]


def write(tmp_path: Path, mapping: str, suffix: str = ".csv") -> tuple[Path, Path]:
    table = pl.DataFrame(ROWS, infer_schema_length=None)
    data = tmp_path / f"table{suffix}"
    if suffix == ".csv":
        table.write_csv(data)
    elif suffix == ".parquet":
        table.write_parquet(data)
    else:
        data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    rules = tmp_path / "mapping.toml"
    rules.write_text(mapping)
    return data, rules


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_kind_of_table_gives_the_same_events(tmp_path: Path, suffix: str) -> None:
    log = open_log(*write(tmp_path, FULL, suffix))
    values = [json.loads(value) for value in to_records(pl.concat(list(log.chunks()))).values]
    second, first = (
        {"impression_id": f"mine-{row}", "event_time": time * 1000, "user_id": user, "item_id": item}
        for row, time, user, item in ((1, 1700000001, "u1", "a"), (2, 1700000000, "u2", "b"))
    )
    assert values == [
        first | {"shop_id": "main", "position": 2, "price": 9.0},
        first | {"action": "click"},
        second | {"shop_id": "main", "position": 1, "price": 2.5, "context": {"device": "ios"}},
        first | {"event_time": 1700000001500, "action": "purchase", "value": 9.0},
    ]
    assert log.name == "mine"
    assert log.tally.examples == [(3, "purchase has no time")]


@pytest.mark.parametrize(
    ("unit", "text", "expected"),
    [
        ("s", "1700000000.25", 1_700_000_000_250),
        ("ms", "1700000000250", 1_700_000_000_250),
        ("us", "1700000000250999", 1_700_000_000_250),
        ("iso", "2023-11-14T22:13:20.250Z", 1_700_000_000_250),
        ("iso", "2023-11-14 23:13:20.25+01:00", 1_700_000_000_250),
        ("iso", "2023-11-14 22:13:20", 1_700_000_000_000),
        ("iso", "2023-11-14 22:13:20 UTC", 1_700_000_000_000),
        ("iso", "2023-11-14", 1_699_920_000_000),
    ],
)
def test_time_units(tmp_path: Path, unit: str, text: str, expected: int) -> None:
    (tmp_path / "t.csv").write_text(f"ts,u,i\n{text},u1,a\n")
    (tmp_path / "m.toml").write_text(f'time_unit = "{unit}"\n{FIELDS}')
    log = open_log(tmp_path / "t.csv", tmp_path / "m.toml")
    assert log.info().first_ms == expected


def test_a_parquet_time_needs_no_unit(tmp_path: Path) -> None:
    times = pl.Series("ts", [1_700_000_000_250_000]).cast(pl.Datetime("us"))
    pl.DataFrame([times]).with_columns(u=pl.lit("u"), i=pl.lit("i")).write_parquet(tmp_path / "t.parquet")
    (tmp_path / "m.toml").write_text(FIELDS)
    assert open_log(tmp_path / "t.parquet", tmp_path / "m.toml").info().first_ms == 1_700_000_000_250


def test_a_csv_without_header_and_with_its_own_separator(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("1700000000000;u1;a\n")
    (tmp_path / "m.toml").write_text('separator = ";"\ncolumns = ["ts", "u", "i"]\n' + FIELDS)
    assert open_log(tmp_path / "t.csv", tmp_path / "m.toml").info().impressions == 1


def test_rows_that_cannot_be_read_are_told_with_column_and_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("ts,u,i,p\nsoon,u1,a,1\n1700000000000,u1,a,dear\n1700000000000,u1,a,\n")
    (tmp_path / "m.toml").write_text(FIELDS + 'price = "p"\n')
    log = open_log(tmp_path / "t.csv", tmp_path / "m.toml")
    assert log.info().impressions == 1
    assert sorted(log.tally.examples) == [
        (1, "event_time: soon in column ts is not a number of ms"),
        (2, "price: dear in column p is not a number"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('time_unit = "min"\n' + FIELDS, r"time_unit is 'min'; allowed are s, ms, us, iso"),
        ('fields = {event_time = "ts", user_id = "u"}', "fields.item_id is missing"),
        (FIELDS + 'colour = "c"', "fields.colour is not a field; allowed are event_time, impression_id"),
        (FIELDS + '[labels.wish]\ncolumn = "c"', "labels.wish is not a field; allowed are click, cart"),
        (
            FIELDS + '[labels.click]\ncolumn = "c"\nwhen = "x"',
            "labels.click.when is not a field; allowed are column",
        ),
        (FIELDS + "[labels.click]\nequals = ['1']", "missing required field `column`"),
        (
            FIELDS + '[labels.click]\ncolumn = "c"\ndelay_unit = "h"',
            "delay_unit is 'h'; allowed are s, ms, us",
        ),
        (FIELDS + '[labels.click]\ncolumn = "c"\ndelay = "d"\ntime = "t"', "has delay and time"),
        (FIELDS + '[constants]\nuser_id = "u"', "user_id stands in fields and in constants"),
        (FIELDS + "[constants]\nevent_time = 5", "constants.event_time is not a field"),
        ('separator = ", "\n' + FIELDS, "separator must be one"),
        ("zone = 1\n" + FIELDS, "zone is not a field; allowed are fields, name, time_unit"),
        ("fields = 3", r"Expected `object`, got `int` - at `\$.fields`"),
        ("fields = ", "not TOML"),
    ],
)
def test_a_wrong_mapping_names_the_field_and_what_is_allowed(
    tmp_path: Path, text: str, expected: str
) -> None:
    path = tmp_path / "m.toml"
    path.write_text(text)
    with pytest.raises(MappingError, match=expected):
        load_mapping(path)


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    data, rules = write(tmp_path, FULL.replace('"clicked"', '"tapped"'))
    with pytest.raises(MappingError, match=r"labels.click.column names column 'tapped'.*it has ts, u, i"):
        open_log(data, rules)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    data, rules = write(tmp_path, FULL)
    with pytest.raises(MappingError, match="cannot be read"):
        open_log(data, tmp_path / "none.toml")
    with pytest.raises(LogError, match="no such file"):
        open_log(tmp_path / "none.csv", rules)
    other = data.rename(tmp_path / "table.xlsx")
    with pytest.raises(LogError, match=r"ends in \.csv"):
        open_log(other, rules)
