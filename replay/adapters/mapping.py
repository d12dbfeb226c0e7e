"""Any table of impressions with label columns, by a TOML mapping of its columns.

```toml
name = "mine"                 # of the log; default: the file's stem
time_unit = "s"               # s, ms, us, ns or iso; of every time column
separator = ";"               # of CSV; default ","
quote = ""                    # of CSV; default a double quote; "" where quotes are ordinary characters
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
column = "clicked"            # holds where it is a positive number, true, yes or a time;
equals = ["hit", "tap"]       # or, if this is given, one of these texts
delay = "click_s"             # how long after the impression; in delay_unit
delay_unit = "s"              # s (default), ms or us
time = "click_ts"             # or: when; neither: at the impression
value = "amount"              # money
```

The table is CSV, TSV, JSONL or Parquet; text may be compressed with gzip. It is streamed where it is in time
order, else sorted in memory.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from replay.adapters import cells
from replay.adapters.jsonl import BROKEN, NO_OBJECT, find_columns, scan_jsonl
from replay.adapters.tables import batches, refuse_empty, scan_text, time_ordered, unreadable
from replay.columns import SCHEMA
from replay.errors import LogError, MappingError
from replay.source import Label, TableLog, Tally, label_events
from stream.events import ACTIONS

DELAY_UNITS = tuple(cells.PER_US)
NEEDED = ("event_time", "user_id", "item_id")
MAPPABLE = tuple(name for name in SCHEMA if name not in ("event", "action", "value"))
SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", "any of these with .gz", ".parquet")

_TRUTH = "a number, true, false, yes, no or a time; name the texts that count in equals"


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
    quote: str = '"'
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
    _one_of(path, "time_unit", mapping.time_unit, cells.TIME_UNITS)
    if len(mapping.separator.encode()) != 1:
        raise MappingError(f"{path}: separator must be one ASCII character, not {mapping.separator!r}")
    if len(mapping.quote.encode()) > 1:
        raise MappingError(f"{path}: quote must be one ASCII character or empty, not {mapping.quote!r}")
    for name in NEEDED:
        if name not in mapping.fields and name not in mapping.constants:
            raise MappingError(f"{path}: fields.{name} is missing; needed are {', '.join(NEEDED)}")
    both = sorted(set(mapping.fields) & set(mapping.constants))
    if both:
        raise MappingError(f"{path}: {both[0]} stands in fields and in constants; give it once")
    for name, value in mapping.constants.items():
        if pl.Series([value]).cast(SCHEMA[name], strict=False).null_count():
            what = "a whole number" if SCHEMA[name] == pl.Int64 else "a number"
            raise MappingError(f"{path}: constants.{name} is {value!r}, which is not {what}")
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
        time = cells.time(mapping.fields["event_time"], mapping.time_unit, types)
        for part in batches(time_ordered(table, time), rows):
            yield label_events(part.select(_impressions(name, mapping, types)), _labels(mapping))

    return TableLog(name, source, delayed=True, files=[file])


def _asked(mapping: ColumnMapping) -> list[tuple[str, str]]:
    """(where the mapping names it, column of the table)."""
    asked = [(f"fields.{name}", column) for name, column in mapping.fields.items()]
    asked += [(f"context.{name}", column) for name, column in mapping.context.items()]
    for name, label in mapping.labels.items():
        parts = {"column": label.column, "delay": label.delay, "time": label.time, "value": label.value}
        asked += [(f"labels.{name}.{part}", column) for part, column in parts.items() if column is not None]
    return asked


def _kind(file: Path) -> str:
    kind = file.name.removesuffix(".gz").rpartition(".")[2].lower()
    if kind in ("csv", "tsv", "txt"):
        return "text"
    if kind in ("jsonl", "ndjson"):
        return "json"
    if kind != "parquet":
        raise LogError(f"{file}: a mapped table ends in {', '.join(SUFFIXES)}")
    return kind


def _open(file: Path, mapping: ColumnMapping) -> pl.LazyFrame:
    """All columns of a text or Parquet table, with ``_row``."""
    if _kind(file) == "parquet":
        return pl.scan_parquet(file, row_index_name="_row", row_index_offset=1)
    tabs = file.name.removesuffix(".gz").lower().endswith(".tsv") and mapping.separator == ","
    separator = "\t" if tabs else mapping.separator
    return scan_text(file, mapping.columns, separator=separator, quote=mapping.quote or None)


def _scan(file: Path, mapping: ColumnMapping) -> pl.LazyFrame:
    """What the mapping names, ``_row``, and ``_broken`` where the file has rows that are none.

    The rest is left out here: a wide table that has to be sorted would else be in memory as a whole.
    """
    columns = list(dict.fromkeys(column for _, column in _asked(mapping)))
    if _kind(file) == "json":
        return scan_jsonl(file, columns)
    return _open(file, mapping).select("_row", *columns)


def _check_columns(mapping: ColumnMapping, mapping_file: Path, file: Path) -> None:
    asked = _asked(mapping)
    refuse_empty(file)
    types: Mapping[str, pl.DataType]
    try:
        if _kind(file) == "json":
            types = dict.fromkeys(find_columns(file, [column for _, column in asked]), pl.String())
        else:
            types = _open(file, mapping).collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(file, error) from error
    have = [name for name in types if name != "_row"]
    for where, column in asked:
        if column not in have:
            raise MappingError(
                f"{mapping_file}: {where} names column {column!r}, which {file.name} does not have; "
                f"it has {', '.join(have)}"
            )
        if not cells.is_mappable(types[column]):
            raise MappingError(
                f"{mapping_file}: {where} names column {column!r} of type {types[column]}; a cell must be a "
                "text, a number, a truth value, a date or a time"
            )


def _impressions(name: str, mapping: ColumnMapping, types: cells.Types) -> list[pl.Expr]:
    """Canonical columns, ``_reason``, and prepared label columns (``click?``, ``click@``, ``click=``)."""
    picked = [pl.col("_row")]
    reasons: list[pl.Expr] = []
    if BROKEN in types:
        reasons.append(pl.when(BROKEN).then(pl.lit(NO_OBJECT)))

    def parsed(where: str, column: str, value: pl.Expr, what: str, needed: pl.Expr | None = None) -> pl.Expr:
        raw = cells.text(column, types)
        wrong = raw.is_not_null() & (raw != "") & value.is_null()
        # Names of columns may have braces of their own.
        words = [pl.lit(f"{where}: "), raw, pl.lit(f" in column {column} is not {what}")]
        reasons.append(pl.when(wrong if needed is None else wrong & needed).then(pl.concat_str(words)))
        return value

    times = mapping.fields["event_time"]
    shown = parsed("event_time", times, cells.time(times, mapping.time_unit, types), _unit(mapping))
    for canonical, column in mapping.fields.items():
        kind = SCHEMA[canonical]
        if canonical == "event_time":
            value = shown
        elif kind == pl.Int64:
            value = parsed(canonical, column, cells.whole(column, types), "a whole number")
        elif kind == pl.Float64:
            value = parsed(canonical, column, cells.number(column, types), "a number")
        else:
            value = cells.text(column, types)
        picked.append(value.alias(canonical))
    picked += [
        pl.lit(value).cast(SCHEMA[canonical]).alias(canonical)
        for canonical, value in mapping.constants.items()
    ]
    if "impression_id" not in mapping.fields and "impression_id" not in mapping.constants:
        picked.append(pl.format("{}-{}", pl.lit(name), "_row").alias("impression_id"))
    if mapping.context:
        texts = [cells.text(column, types).alias(key) for key, column in mapping.context.items()]
        picked.append(pl.struct(texts).alias("context"))
    for action, label in mapping.labels.items():
        where = f"labels.{action}"
        if label.equals is not None:
            holds = cells.text(label.column, types).str.strip_chars().is_in(label.equals)
        else:
            holds = parsed(where, label.column, cells.truth(label.column, mapping.time_unit, types), _TRUTH)
        holds = holds.fill_null(False)
        picked.append(holds.alias(f"{action}?"))
        # Delay, time and value matter only where the label holds: elsewhere logs have -1 or a dash.
        if label.delay is not None:
            wait = cells.number(label.delay, types)
            wait = parsed(f"{where}.delay", label.delay, wait, "a number", needed=holds)
            wait_ms = (wait * (cells.PER_US[label.delay_unit] / 1000)).round().cast(pl.Int64, strict=False)
            picked.append((shown + wait_ms).alias(f"{action}@"))
        elif label.time is not None:
            at = cells.time(label.time, mapping.time_unit, types)
            at = parsed(f"{where}.time", label.time, at, _unit(mapping), needed=holds)
            picked.append(at.alias(f"{action}@"))
        if label.value is not None:
            value = cells.number(label.value, types)
            value = parsed(f"{where}.value", label.value, value, "a number", needed=holds)
            picked.append(value.alias(f"{action}="))
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
