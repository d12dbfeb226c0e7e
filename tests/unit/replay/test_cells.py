"""Fails when a cell of a foreign table is taken for another: a yes for a no, a time a millisecond off.

Every case is one cell through the whole mapping, as a user's log would bring it.
"""

from __future__ import annotations

import random
from pathlib import Path

import polars as pl
import pytest

from replay.adapters.mapping import open_mapped
from replay.source import TableLog

FIELDS = '[fields]\nevent_time = "ts"\nuser_id = "u"\nitem_id = "i"\n'
T0 = 1_700_000_000_000


def mapped(tmp_path: Path, table: pl.DataFrame | str, rules: str) -> TableLog:
    """A log of ``table`` (CSV text, or a frame that is written as Parquet) under ``rules``."""
    data = tmp_path / ("t.csv" if isinstance(table, str) else "t.parquet")
    if isinstance(table, str):
        data.write_text(table, encoding="utf-8")
    else:
        table.write_parquet(data)
    (tmp_path / "m.toml").write_text(rules, encoding="utf-8")
    return open_mapped(data, tmp_path / "m.toml")


def table(**columns: pl.Series) -> pl.DataFrame:
    frame = pl.DataFrame(columns)
    return frame.with_columns(
        **{
            name: pl.lit(value)
            for name, value in {"ts": T0, "u": "u", "i": "x"}.items()
            if name not in columns
        }
    )


@pytest.mark.parametrize(
    ("cell", "clicks"),
    [
        *(("1", 1), ("3", 1), ("0.5", 1), ("true", 1), ("TRUE", 1), ("yes", 1), ("Y", 1), ("t", 1)),
        *(("0", 0), ("0.0", 0), ("-1", 0), ("false", 0), ("no", 0), ("N", 0), ("f", 0), ("", 0), ("nan", 0)),
    ],
)
def test_a_label_cell_is_a_yes_or_a_no(tmp_path: Path, cell: str, clicks: int) -> None:
    log = mapped(tmp_path, f"ts,u,i,c\n{T0},u,x,{cell}\n", FIELDS + '[labels.click]\ncolumn = "c"\n')
    info = log.info()
    assert (info.impressions, info.clicks, info.refused) == (1, clicks, 0)


def test_a_label_that_is_neither_is_refused_and_not_a_negative(tmp_path: Path) -> None:
    """A log whose clicks are all read as negatives looks like a log without clicks."""
    rules = FIELDS + '[labels.click]\ncolumn = "c"\n'
    log = mapped(tmp_path, f"ts,u,i,c\n{T0},u,x,tapped\n{T0},u,x,1\n", rules)
    assert (log.info().clicks, log.tally.refused) == (1, 1)
    assert "labels.click: tapped in column c is not a number, true, false, yes" in log.tally.text()
    log = mapped(tmp_path, f"ts,u,i,c\n{T0},u,x,tapped\n{T0},u,x,1\n", rules + 'equals = ["tapped"]\n')
    assert (log.info().clicks, log.tally.refused) == (1, 0)


def test_a_missing_label_in_a_float_column_is_no_click(tmp_path: Path) -> None:
    """NaN compares as larger than every number in polars."""
    clicked = table(c=pl.Series([float("nan"), 1.0, 0.0, None]))
    assert mapped(tmp_path, clicked, FIELDS + '[labels.click]\ncolumn = "c"\n').info().clicks == 1


@pytest.mark.parametrize(
    ("unit", "shown", "clicked"),
    [
        ("ms", f"{T0}", f"{T0 + 5000}"),
        ("iso", "2023-11-14T22:13:20Z", "2023-11-14T22:13:25Z"),
    ],
)
def test_a_column_of_click_times_is_its_own_label(
    tmp_path: Path, unit: str, shown: str, clicked: str
) -> None:
    rules = f'time_unit = "{unit}"\n' + FIELDS + '[labels.click]\ncolumn = "at"\ntime = "at"\n'
    log = mapped(tmp_path, f"ts,u,i,at\n{shown},u,x,{clicked}\n{shown},u,y,\n", rules)
    info = log.info()
    assert (info.impressions, info.clicks, info.refused, info.last_ms) == (2, 1, 0, T0 + 5000)


def test_click_times_as_parquet_times(tmp_path: Path) -> None:
    at = pl.Series([T0 + 5000, None]).cast(pl.Datetime("ms"))
    log = mapped(tmp_path, table(at=at), FIELDS + '[labels.click]\ncolumn = "at"\ntime = "at"\n')
    assert (log.info().clicks, log.info().last_ms) == (1, T0 + 5000)


def test_delay_time_and_value_matter_only_where_the_label_holds(tmp_path: Path) -> None:
    rules = FIELDS + '[labels.purchase]\ncolumn = "c"\ndelay = "d"\nvalue = "v"\n'
    rows = f"{T0},u,x,0,-,-\n{T0},u,x,1,2,9.5\n{T0},u,x,1,soon,9.5\n"
    log = mapped(tmp_path, "ts,u,i,c,d,v\n" + rows, rules)
    assert (log.info().impressions, log.info().last_ms) == (2, T0 + 2000)
    assert log.tally.examples == [(3, "labels.purchase.delay: soon in column d is not a number")]


def test_seconds_with_decimals_keep_their_milliseconds(tmp_path: Path) -> None:
    """Fails when seconds are multiplied and rounded down: one in two hundred then loses a millisecond."""
    draw = random.Random(7)
    expected = sorted(draw.randrange(T0, T0 + 10**11) for _ in range(5000))
    rows = "".join(f"{ms // 1000}.{ms % 1000:03},u,x\n" for ms in expected)
    log = mapped(tmp_path, "ts,u,i\n" + rows, 'time_unit = "s"\n' + FIELDS)
    assert pl.concat(list(log.chunks()))["event_time"].to_list() == expected


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        ("ns", "1700000000250999999"),
        ("ns", "1700000000250000000"),
        ("us", "1700000000250000"),
        ("ms", "1700000000250.75"),
        ("iso", "2023-11-14 22:13:20.25+00"),  # PostgreSQL
        ("iso", "2023-11-15 06:13:20.25+08"),
        ("iso", "2023-11-14 22:13:20,250"),  # Python's logging, quoted in the CSV
        ("iso", "2023-11-14t22:13:20.250z"),
    ],
)
def test_a_time_is_the_same_in_every_notation(tmp_path: Path, unit: str, text: str) -> None:
    log = mapped(tmp_path, f'ts,u,i\n"{text}",u,x\n', f'time_unit = "{unit}"\n' + FIELDS)
    assert (log.info().first_ms, log.tally.text()) == (T0 + 250, "")


def test_a_time_without_seconds(tmp_path: Path) -> None:
    rows = "2023-11-14T22:13Z,u,x\n2023-11-14 22:13,u,x\n2023-11-14T23:13+01:00,u,x\n"
    log = mapped(tmp_path, "ts,u,i\n" + rows, 'time_unit = "iso"\n' + FIELDS)
    assert pl.concat(list(log.chunks()))["event_time"].to_list() == [T0 - 20_000] * 3


@pytest.mark.parametrize("unit", ["s", "us"])
def test_a_unit_that_is_too_coarse_is_refused_as_one_that_is_too_fine(tmp_path: Path, unit: str) -> None:
    """Fails when a time in the year 55840 passes: it ends in a traceback of the calendar."""
    text = T0 if unit == "s" else T0 * 1_000_000
    log = mapped(tmp_path, f"ts,u,i\n{text},u,x\n", f'time_unit = "{unit}"\n' + FIELDS)
    assert log.info().impressions == 0
    assert "2100-01-01 UTC: wrong unit?" in log.tally.text()


def test_whole_floats_are_whole_numbers(tmp_path: Path) -> None:
    """Integers with missing values come as floats: a position 3.0 is 3, an item 17.0 is the item 17."""
    frame = table(i=pl.Series([17.0, 18.5]), pos=pl.Series([3.0, None]))
    chunk = pl.concat(list(mapped(tmp_path, frame, FIELDS + 'position = "pos"\n').chunks()))
    assert chunk.select("item_id", "position").rows() == [("17", 3), ("18.5", None)]
    log = mapped(tmp_path, f"ts,u,i,pos\n{T0},u,x,3.0\n{T0},u,x,3.5\n", FIELDS + 'position = "pos"\n')
    assert log.info().impressions == 1
    assert log.tally.examples == [(2, "position: 3.5 in column pos is not a whole number")]


def test_a_column_name_may_have_braces(tmp_path: Path) -> None:
    rules = FIELDS + 'price = "p{}"\n'
    log = mapped(tmp_path, f"ts,u,i,p{{}}\n{T0},u,x,dear\n", rules)
    assert log.info().refused == 1
    assert log.tally.examples == [(1, "price: dear in column p{} is not a number")]
