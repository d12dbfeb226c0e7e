"""Fails when a mapping sends a column to the wrong field, or a wrong mapping is met with a riddle."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from replay.adapters.mapping import load_mapping, open_mapped
from replay.errors import LogError, MappingError
from replay.log import to_records
from replay.open_log import open_log
from replay.source import TableLog

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
        ('time_unit = "min"\n' + FIELDS, r"time_unit is 'min'; allowed are s, ms, us, ns, iso"),
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
            "delay_unit is 'h'; allowed are s, ms, us, ns",
        ),
        (FIELDS + '[labels.click]\ncolumn = "c"\ndelay = "d"\ntime = "t"', "has delay and time"),
        (FIELDS + '[constants]\nuser_id = "u"', "user_id stands in fields and in constants"),
        (FIELDS + "[constants]\nevent_time = 5", "constants.event_time is not a field"),
        ('separator = ", "\n' + FIELDS, "separator must be one"),
        ('quote = "<<"\n' + FIELDS, "quote must be one"),
        (FIELDS + '[constants]\nprice = "free"', "constants.price is 'free', which is not a number"),
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


def mapped(tmp_path: Path, name: str, content: bytes, rules: str) -> TableLog:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "m.toml").write_text(rules)
    return open_mapped(tmp_path / name, tmp_path / "m.toml")


def test_a_broken_json_line_costs_itself(tmp_path: Path) -> None:
    """Fails when one line, such as the last of a killed writer, takes the whole log with it."""
    good = b'{"ts":1700000000000,"u":1,"i":"a"}\r\n'
    nan = b'{"ts":1700000000000,"u":true,"i":NaN,"note":{"deep":[1]}}\n'
    content = (
        b"\xef\xbb\xbf" + good + b"\r\n[1]\n" + nan + b'{"ts":"1700000000000","u":"x","i":5}\n{"ts":17000'
    )
    for name, data in (("t.jsonl", content), ("z.ndjson.gz", gzip.compress(content))):
        log = mapped(tmp_path, name, data, FIELDS + '[context]\nnote = "note"\n')
        chunk = pl.concat(list(log.chunks()))
        assert chunk.select("user_id", "item_id").rows() == [("1", "a"), ("x", "5")]
        assert log.tally.examples == [
            (3, "the line is no JSON object"),
            (4, "item_id is missing"),
            (6, "the line is no JSON object"),
        ]


def test_a_json_column_may_first_come_late(tmp_path: Path) -> None:
    rows = [b'{"ts":1700000000000,"u":"u","i":"a"}\n'] * 1500 + [
        b'{"ts":1700000000000,"u":"u","i":"a","c":1}\n'
    ]
    rules = FIELDS + '[labels.click]\ncolumn = "c"\n'
    assert mapped(tmp_path, "t.jsonl", b"".join(rows), rules).info().clicks == 1
    with pytest.raises(MappingError, match=r"names column 'c', which t.jsonl does not have; it has ts, u, i"):
        mapped(tmp_path, "t.jsonl", b"".join(rows[:-1]), rules)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.csv", b"", "t.csv: the file is empty"),
        ("t.jsonl", b"", "t.jsonl: the file is empty"),
        ("t.csv", b"PK\x03\x04zip", "a ZIP archive; unpack it"),
        ("t.csv", b"ts,u,i\n1700000000000,\xb0\xa1,x\n", "t.csv: cannot be read.*must be UTF-8"),
        ("t.tsv", b'ts\tu\ti\n1700000000000\tu\t"5\n1700000000000\tu\tx\n', 'says quote = ""'),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line_that_helps(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    """Fails when what is wrong deep inside a file comes out as polars' own traceback."""
    with pytest.raises(LogError, match=expected) as caught:
        mapped(tmp_path, name, content, FIELDS).info()
    assert "\n" not in str(caught.value)


def test_quotes_may_be_ordinary_characters(tmp_path: Path) -> None:
    content = b'ts\tu\ti\n1700000000000\tu\t"5\n1700000000000\tu\t5" screen\n'
    log = mapped(tmp_path, "t.tsv", content, 'quote = ""\n' + FIELDS)
    assert pl.concat(list(log.chunks()))["item_id"].to_list() == ['"5', '5" screen']


def test_a_column_of_lists_is_no_cell(tmp_path: Path) -> None:
    pl.DataFrame({"ts": [1], "u": ["u"], "i": [[1, 2]]}).write_parquet(tmp_path / "t.parquet")
    (tmp_path / "m.toml").write_text(FIELDS)
    with pytest.raises(MappingError, match=r"fields.item_id names column 'i' of type List\(Int64\)"):
        open_mapped(tmp_path / "t.parquet", tmp_path / "m.toml")
