"""Cells of a foreign table as times, numbers, texts and truths: expressions, null where a cell is none.

A caller reports what is null and was not empty; nothing here guesses.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

#: Microseconds in one unit of time.
PER_US = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
TIME_UNITS = (*PER_US, "iso")

_YES = ("true", "t", "yes", "y")
_NO = ("false", "f", "no", "n")

Types = Mapping[str, pl.DataType]


def is_mappable(dtype: pl.DataType) -> bool:
    """Whether cells of this type are single values that have a text."""
    return not (dtype.is_nested() or dtype in (pl.Object, pl.Duration, pl.Time))


def text(column: str, types: Types) -> pl.Expr:
    """The cell as it would stand in a CSV file.

    A whole float has no fraction: integers with missing values come as floats out of pandas, and the item
    ``17`` of one file must be the item ``17`` of another.
    """
    cell = pl.col(column)
    if types[column].is_float():
        whole = cell.cast(pl.Int64, strict=False)
        return pl.when(whole == cell).then(whole.cast(pl.String)).otherwise(cell.cast(pl.String))
    # Bytes that are no UTF-8 are no text.
    return cell.cast(pl.String, strict=False)


def number(column: str, types: Types) -> pl.Expr:
    """Float64."""
    if types[column].is_numeric():
        return pl.col(column).cast(pl.Float64, strict=False)
    return text(column, types).str.strip_chars().cast(pl.Float64, strict=False)


def whole(column: str, types: Types) -> pl.Expr:
    """Int64; ``3.0`` is 3, and ``3.5`` is none."""
    exact = text(column, types).str.strip_chars().cast(pl.Int64, strict=False)
    value = number(column, types)
    return pl.coalesce(exact, pl.when(value == value.floor()).then(value.cast(pl.Int64, strict=False)))


def time(column: str, unit: str, types: Types) -> pl.Expr:
    """ms UTC (Int64), rounded down. A column of dates or times needs no unit."""
    dtype = types[column]
    if dtype in (pl.Date, pl.Datetime):
        return pl.col(column).cast(pl.Datetime("ms")).dt.epoch("ms")
    if unit == "iso":
        return _iso(text(column, types))
    # Seconds with decimals are no exact doubles: 1.001 s would be 1000 ms if they were not rounded to
    # microseconds first. Every microsecond until the year 2100 is an exact double.
    ms = (number(column, types) * PER_US[unit]).round().cast(pl.Int64, strict=False) // 1000
    if unit != "ns":
        return ms
    return pl.coalesce(text(column, types).str.strip_chars().cast(pl.Int64, strict=False) // 1_000_000, ms)


def _iso(value: pl.Expr) -> pl.Expr:
    """ISO 8601 as programs write it: any zone or none (UTC), a space for the T, no seconds, a comma."""
    value = value.str.strip_chars().str.replace(r"^(\S{10})[Tt]", "${1} ").str.replace(",", ".", literal=True)
    value = value.str.replace(r"\s?([Zz]|UTC|GMT)$", "+00:00")
    value = value.str.replace(r"^(\S{10} \d\d:\d\d)([^:\d]|$)", "${1}:00${2}")
    # PostgreSQL writes zones of whole hours in two digits.
    value = value.str.replace(r"(:\S*\s?[+-]\d\d)$", "${1}00")
    zoned = value.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%z", strict=False, time_zone="UTC").dt.epoch("ms")
    plain = value.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False).dt.epoch("ms")
    day = value.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("ms")).dt.epoch("ms")
    return pl.coalesce(zoned, plain, day)


def truth(column: str, unit: str, types: Types) -> pl.Expr:
    """Boolean: a positive number, a yes or a time holds; empty and NaN do not; null for any other text."""
    cell = text(column, types).str.strip_chars().str.to_lowercase()
    empty = cell.is_null() | (cell == "")
    if types[column] in (pl.Date, pl.Datetime):
        return ~empty
    value = number(column, types)
    known = (
        pl.when(empty | value.is_nan() | cell.is_in(_NO))
        .then(pl.lit(False))
        .when(cell.is_in(_YES))
        .then(pl.lit(True))
        .otherwise(value > 0)
    )
    if unit == "iso":
        return pl.coalesce(known, pl.when(time(column, unit, types).is_not_null()).then(pl.lit(True)))
    return known
