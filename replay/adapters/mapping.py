"""Any table of impressions with label columns, by a TOML mapping of its columns.

```toml
name = "mine"                 # of the log; default: the file's stem
time_unit = "s"               # s, ms, us or iso; of every time column
separator = ";"               # of CSV; default ","
columns = ["ts", "u", "i"]    # of CSV without a header

[fields]                      # canonical column = column of the table
event_time = "ts"
user_id = "u"
item_id = "i"                 # these three are needed; without impression_id rows are numbered

[constants]                   # canonical column = one value for all rows
shop_id = "main"

[context]                     # context name = column of the table
device = "dev"

[labels.click]                # an action for each row whose label holds
column = "clicked"            # holds where it is a positive number or true ...
equals = ["yes"]              # ... or one of these texts
delay = "click_s"             # how long after the impression; in delay_unit
delay_unit = "s"              # s (default), ms or us
time = "click_ts"             # or: when; neither: at the impression
value = "amount"              # money
```

The table is CSV, TSV, JSONL or Parquet. It is streamed where it is in time order, else sorted in memory.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from replay.adapters.tables import batches, scan_text, time_ordered
from replay.columns import SCHEMA
from replay.errors import LogError, MappingError
from replay.source import Label, TableLog, Tally, label_events
from stream.events import ACTIONS

TIME_UNITS = ("s", "ms", "us", "iso")
DELAY_UNITS = ("s", "ms", "us")
NEEDED = ("event_time", "user_id", "item_id")
MAPPABLE = tuple(name for name in SCHEMA if name not in ("event", "action", "value"))
SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".jsonl", ".ndjson", ".parquet")

_PER_MS = {"s": 1000.0, "ms": 1.0, "us": 0.001}


class LabelMapping(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """When a row has an action, and at what time."""

    column: str
    equals: list[str] | None = None
    delay: str | None = None
    delay_unit: str = "s"
    time: str | None = None
    value: str | None = None


class ColumnMapping(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """A mapping file; see the module for the meaning of its fields."""

    fields: dict[str, str]
    name: str = ""
    time_unit: str = "ms"
    separator: str = ","
    columns: list[str] | None = None
    constants: dict[str, str | int | float] = {}
    context: dict[str, str] = {}
    labels: dict[str, LabelMapping] = {}


def load_mapping(path: Path) -> ColumnMapping:
    """Read and check a mapping; raises ``MappingError`` that names the field and what is allowed."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MappingError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MappingError(f"{path}: not TOML: {error}") from error
    _known(path, "", data, ColumnMapping.__struct_fields__)
    for label, body in _table(data.get("labels")).items():
        _known(path, f"labels.{label}.", _table(body), LabelMapping.__struct_fields__)
    try:
        mapping = msgspec.convert(data, ColumnMapping)
    except msgspec.ValidationError as error:
        raise MappingError(f"{path}: {error}") from error
    _known(path, "fields.", mapping.fields, MAPPABLE)
    _known(path, "constants.", mapping.constants, [name for name in MAPPABLE if name != "event_time"])
    _known(path, "labels.", mapping.labels, ACTIONS)
    _one_of(path, "time_unit", mapping.time_unit, TIME_UNITS)
    if len(mapping.separator.encode()) != 1:
        raise MappingError(f"{path}: separator must be one ASCII character, not {mapping.separator!r}")
    for name in NEEDED:
        if name not in mapping.fields and name not in mapping.constants:
            raise MappingError(f"{path}: fields.{name} is missing; needed are {', '.join(NEEDED)}")
    both = sorted(set(mapping.fields) & set(mapping.constants))
    if both:
        raise MappingError(f"{path}: {both[0]} stands in fields and in constants; give it once")
    for action, rules in mapping.labels.items():
        _one_of(path, f"labels.{action}.delay_unit", rules.delay_unit, DELAY_UNITS)
        if rules.delay is not None and rules.time is not None:
            raise MappingError(f"{path}: labels.{action} has delay and time; give one of them")
    return mapping


def open_mapped(file: Path, mapping_file: Path) -> TableLog:
    """The table ``file`` under the mapping in ``mapping_file``, as a recorded log."""
    mapping = load_mapping(mapping_file)
    if not file.is_file():
        raise LogError(f"{file}: no such file")
    _check_columns(mapping, mapping_file, file)
    name = mapping.name or file.name.partition(".")[0]

    def source(rows: int, tally: Tally) -> Iterator[pl.DataFrame]:
        table = _scan(file, mapping)
        types = dict(table.collect_schema())
        time = _time(mapping.fields["event_time"], mapping.time_unit, types)
        for part in batches(time_ordered(table, time), rows):
            yield label_events(part.select(_impressions(name, mapping, types)), _labels(mapping))

    return TableLog(name, source, delayed=True, files=[file])


def _scan(file: Path, mapping: ColumnMapping) -> pl.LazyFrame:
    kind = file.name.removesuffix(".gz").rpartition(".")[2].lower()
    try:
        if kind in ("csv", "tsv", "txt"):
            separator = "\t" if kind == "tsv" and mapping.separator == "," else mapping.separator
            return scan_text(file, mapping.columns, separator=separator)
        if kind in ("jsonl", "ndjson"):
            table = pl.scan_ndjson(file, infer_schema_length=None)
        elif kind == "parquet":
            table = pl.scan_parquet(file)
        else:
            raise LogError(f"{file}: a mapped table ends in {', '.join(SUFFIXES)}")
        table.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise LogError(f"{file}: cannot be read: {error}") from error
    return table.with_row_index("_row", offset=1)


def _check_columns(mapping: ColumnMapping, mapping_file: Path, file: Path) -> None:
    have = [name for name in _scan(file, mapping).collect_schema().names() if name != "_row"]
    asked = [(f"fields.{name}", column) for name, column in mapping.fields.items()]
    asked += [(f"context.{name}", column) for name, column in mapping.context.items()]
    for name, label in mapping.labels.items():
        parts = {"column": label.column, "delay": label.delay, "time": label.time, "value": label.value}
        asked += [(f"labels.{name}.{part}", column) for part, column in parts.items() if column is not None]
    for where, column in asked:
        if column not in have:
            raise MappingError(
                f"{mapping_file}: {where} names column {column!r}, which {file.name} does not have; "
                f"it has {', '.join(have)}"
            )


def _impressions(name: str, mapping: ColumnMapping, types: Mapping[str, Any]) -> list[pl.Expr]:
    """Canonical columns, ``_reason``, and prepared label columns (``click?``, ``click@``, ``click=``)."""
    picked = [pl.col("_row")]
    reasons: list[pl.Expr] = []

    def parsed(where: str, column: str, value: pl.Expr, what: str) -> pl.Expr:
        raw = pl.col(column).cast(pl.String)
        wrong = raw.is_not_null() & (raw != "") & value.is_null()
        reasons.append(pl.when(wrong).then(pl.format(f"{where}: {{}} in column {column} is not {what}", raw)))
        return value

    for canonical, column in mapping.fields.items():
        kind = SCHEMA[canonical]
        value = pl.col(column).cast(pl.String)
        if canonical == "event_time":
            value = parsed(canonical, column, _time(column, mapping.time_unit, types), _unit(mapping))
        elif kind == pl.Int64:
            value = parsed(
                canonical, column, value.str.strip_chars().cast(kind, strict=False), "a whole number"
            )
        elif kind == pl.Float64:
            value = parsed(canonical, column, value.str.strip_chars().cast(kind, strict=False), "a number")
        picked.append(value.alias(canonical))
    picked += [
        pl.lit(value).cast(SCHEMA[canonical], strict=False).alias(canonical)
        for canonical, value in mapping.constants.items()
    ]
    if "impression_id" not in mapping.fields and "impression_id" not in mapping.constants:
        picked.append(pl.format("{}-{}", pl.lit(name), "_row").alias("impression_id"))
    if mapping.context:
        texts = [pl.col(column).cast(pl.String).alias(key) for key, column in mapping.context.items()]
        picked.append(pl.struct(texts).alias("context"))
    for action, label in mapping.labels.items():
        picked.append(_holds(label).alias(f"{action}?"))
        if label.delay is not None:
            shown = _time(mapping.fields["event_time"], mapping.time_unit, types)
            later = shown + (_float(label.delay) * _PER_MS[label.delay_unit]).round().cast(
                pl.Int64, strict=False
            )
            picked.append(later.alias(f"{action}@"))
        elif label.time is not None:
            picked.append(_time(label.time, mapping.time_unit, types).alias(f"{action}@"))
        if label.value is not None:
            picked.append(
                parsed(f"labels.{action}.value", label.value, _float(label.value), "a number").alias(
                    f"{action}="
                )
            )
    return [*picked, pl.coalesce(reasons).alias("_reason")]


def _labels(mapping: ColumnMapping) -> list[Label]:
    return [
        Label(
            action,
            pl.col(f"{action}?"),
            time=pl.col(f"{action}@") if label.delay is not None or label.time is not None else None,
            value=pl.col(f"{action}=") if label.value is not None else None,
        )
        for action, label in mapping.labels.items()
    ]


def _holds(label: LabelMapping) -> pl.Expr:
    text = pl.col(label.column).cast(pl.String).str.strip_chars()
    if label.equals is not None:
        return text.is_in(label.equals).fill_null(False)
    positive = text.cast(pl.Float64, strict=False) > 0
    return (positive.fill_null(False) | (text.str.to_lowercase() == "true")).fill_null(False)


def _float(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)


def _time(column: str, unit: str, types: Mapping[str, Any]) -> pl.Expr:
    """``column`` in ms UTC (Int64), null where it is not a time. A date or time type needs no unit."""
    if types[column] in (pl.Date, pl.Datetime):
        return pl.col(column).cast(pl.Datetime("ms")).dt.epoch("ms")
    if unit != "iso":
        # Every time that the contract allows is exact in a double, in microseconds too.
        return (_float(column) * _PER_MS[unit]).floor().cast(pl.Int64, strict=False)
    text = pl.col(column).cast(pl.String).str.strip_chars()
    text = text.str.replace(r"^(\S{10})T", "${1} ").str.replace(r"\s?(Z|UTC)$", "+00:00")
    zoned = text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%z", strict=False, time_zone="UTC").dt.epoch("ms")
    plain = text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False).dt.epoch("ms")
    day = text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("ms")).dt.epoch("ms")
    return pl.coalesce(zoned, plain, day)


def _unit(mapping: ColumnMapping) -> str:
    return "an ISO 8601 time" if mapping.time_unit == "iso" else f"a number of {mapping.time_unit}"


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _known(path: Path, where: str, found: Iterable[str], allowed: Iterable[str]) -> None:
    allowed = list(allowed)
    for name in found:
        if name not in allowed:
            raise MappingError(f"{path}: {where}{name} is not a field; allowed are {', '.join(allowed)}")


def _one_of(path: Path, field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise MappingError(f"{path}: {field} is {value!r}; allowed are {', '.join(allowed)}")
