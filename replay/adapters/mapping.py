"""Any table by a TOML mapping of its columns: a row is an impression with label columns, or one event.

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

[events]                      # in place of labels: a row is one event, of the type in this column
column = "type"
impression = ["view", "show"] # one text or several; rows of types that stand nowhere are left out and counted
click = "click"               # so are cart, favourite, purchase and refund
behaviour = ["search", "pv"]  # its type is the text itself; an item is not needed
value = "amount"              # money of the actions, amount of the behaviours
```

With ``fields.impression_id`` an action carries the id of its impression, and the table is streamed. Without
it the joins are made up as `behaviour` says: an action belongs to the latest earlier impression of the same
user and item, however long ago (ties in the file's order); where there is none, the action's row makes an
implicit one at the same time, which is counted. So it is with the first action of each user and item where no
type means impression. The columns that are named are in memory then.

The table is CSV, TSV, JSONL or Parquet; text may be compressed with gzip. It is streamed where it is in time
order, else sorted in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl

from replay.adapters import cells
from replay.adapters.behaviour import attributed
from replay.adapters.jsonl import BROKEN, NO_OBJECT, find_columns, scan_jsonl
from replay.adapters.mapping_file import ColumnMapping, EventsMapping, load_mapping
from replay.adapters.tables import batches, refuse_empty, scan_text, time_ordered, unreadable
from replay.columns import ACTION, BEHAVIOUR, IMPRESSION, SCHEMA
from replay.errors import LogError, MappingError
from replay.source import Label, TableLog, Tally, label_events

SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", "any of these with .gz", ".parquet")

#: Columns for the type of an event row; no table has such names.
_TYPE, _KIND = "_type\0", "_kind\0"
#: Types that are left out are told apart up to this many: the column may hold anything.
_NAMED = 10
_OTHERS = "of other types"
_OF_ALL = ("event_time", "impression_id", "user_id", "item_id", "value")
#: Of impressions and behaviours, and of these last alone; the rest is of impressions.
_OF_BOTH, _OF_BEHAVIOURS = ("category_id", "shop_id", "context"), ("query",)
_TRUTH = "a number, true, false, yes, no or a time; name the texts that count in equals"


def open_mapped(file: Path, mapping_file: Path) -> TableLog:
    """The table ``file`` under the mapping in ``mapping_file``, as a recorded log."""
    mapping = load_mapping(mapping_file)
    if not file.is_file():
        raise LogError(f"{file}: no such file")
    _check_columns(mapping, mapping_file, file)
    name = mapping.name or file.name.partition(".")[0]
    events = mapping.events

    def source(rows: int, tally: Tally) -> Iterator[pl.DataFrame]:
        table = _scan(file, mapping)
        types = dict(table.collect_schema())
        time = cells.time(mapping.fields["event_time"], mapping.time_unit, types)
        parts = batches(time_ordered(table, time), rows)
        if events is None:
            for part in parts:
                yield label_events(part.select(_impressions(name, mapping, types)), _labels(mapping))
            return
        frames = (_events(part, name, mapping, events, types, tally) for part in parts)
        if "impression_id" in mapping.fields:
            yield from frames
            return
        held = list(frames)
        if held:
            yield from attributed(name, pl.concat(held), rows, tally)

    return TableLog(name, source, delayed=events is None, files=[file])


def _asked(mapping: ColumnMapping) -> list[tuple[str, str]]:
    """(where the mapping names it, column of the table)."""
    asked = [(f"fields.{name}", column) for name, column in mapping.fields.items()]
    asked += [(f"context.{name}", column) for name, column in mapping.context.items()]
    for name, label in mapping.labels.items():
        parts = {"column": label.column, "delay": label.delay, "time": label.time, "value": label.value}
        asked += [(f"labels.{name}.{part}", column) for part, column in parts.items() if column is not None]
    if mapping.events is not None:
        asked.append(("events.column", mapping.events.column))
        if mapping.events.value is not None:
            asked.append(("events.value", mapping.events.value))
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


class _Cells:
    """The cells of a table as canonical columns, and why a row's cannot be read."""

    def __init__(self, mapping: ColumnMapping, types: cells.Types) -> None:
        self.mapping = mapping
        self.types = types
        self.reasons: list[pl.Expr] = []
        if BROKEN in types:
            self.reasons.append(pl.when(BROKEN).then(pl.lit(NO_OBJECT)))
        time = mapping.fields["event_time"]
        unit = _unit(mapping)
        self.time = self.parsed("event_time", time, cells.time(time, mapping.time_unit, types), unit)

    def parsed(
        self, where: str, column: str, value: pl.Expr, what: str, needed: pl.Expr | None = None
    ) -> pl.Expr:
        """``value``; a text that gives none is a reason, only where ``needed`` holds if that is given."""
        raw = cells.text(column, self.types)
        wrong = raw.is_not_null() & (raw != "") & value.is_null()
        # Names of columns may have braces of their own.
        words = [pl.lit(f"{where}: "), raw, pl.lit(f" in column {column} is not {what}")]
        self.reasons.append(pl.when(wrong if needed is None else wrong & needed).then(pl.concat_str(words)))
        return value

    def canonical(self, needed: pl.Expr | None = None) -> dict[str, pl.Expr]:
        """What fields, constants and context name; numbers must be some only where ``needed`` holds."""
        found = {}
        for canonical, column in self.mapping.fields.items():
            kind = SCHEMA[canonical]
            if canonical == "event_time":
                value = self.time
            elif kind == pl.Int64:
                whole = cells.whole(column, self.types)
                value = self.parsed(canonical, column, whole, "a whole number", needed)
            elif kind == pl.Float64:
                number = cells.number(column, self.types)
                value = self.parsed(canonical, column, number, "a number", needed)
            else:
                value = cells.text(column, self.types)
            found[canonical] = value
        for canonical, constant in self.mapping.constants.items():
            found[canonical] = pl.lit(constant).cast(SCHEMA[canonical])
        if self.mapping.context:
            texts = [
                cells.text(column, self.types).alias(key) for key, column in self.mapping.context.items()
            ]
            found["context"] = pl.struct(texts)
        return found

    def reason(self) -> pl.Expr:
        return pl.coalesce(self.reasons).alias("_reason")


def _impressions(name: str, mapping: ColumnMapping, types: cells.Types) -> list[pl.Expr]:
    """Canonical columns, ``_reason``, and prepared label columns (``click?``, ``click@``, ``click=``)."""
    row = _Cells(mapping, types)
    parsed = row.parsed
    columns = row.canonical()
    if "impression_id" not in columns:
        columns["impression_id"] = pl.format("{}-{}", pl.lit(name), "_row")
    picked = [pl.col("_row"), *(value.alias(canonical) for canonical, value in columns.items())]
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
            picked.append((row.time + wait_ms).alias(f"{action}@"))
        elif label.time is not None:
            at = cells.time(label.time, mapping.time_unit, types)
            at = parsed(f"{where}.time", label.time, at, _unit(mapping), needed=holds)
            picked.append(at.alias(f"{action}@"))
        if label.value is not None:
            value = cells.number(label.value, types)
            value = parsed(f"{where}.value", label.value, value, "a number", needed=holds)
            picked.append(value.alias(f"{action}="))
    return [*picked, row.reason()]


def _events(
    part: pl.DataFrame,
    name: str,
    mapping: ColumnMapping,
    events: EventsMapping,
    types: cells.Types,
    tally: Tally,
) -> pl.DataFrame:
    """A batch of event rows: canonical columns and ``_reason``; for `attributed` where they have no ids."""
    text = cells.text(events.column, types).str.strip_chars().fill_null("")
    kinds = {text: kind for kind, text in events.texts()}
    kind = text.replace_strict(kinds, default=None, return_dtype=pl.String)
    part = part.with_columns(text.alias(_TYPE), kind.alias(_KIND))
    other = pl.col(_KIND).is_null() & (pl.col(_TYPE) != "")
    for what, count in part.filter(other)[_TYPE].value_counts(sort=True).iter_rows():
        tally.leave_out(what if what in tally.left_out or len(tally.left_out) < _NAMED else _OTHERS, count)
    shown = pl.col(_KIND) == IMPRESSION
    told = pl.col(_KIND) == BEHAVIOUR
    acted = ~shown & ~told
    row = _Cells(mapping, types)
    untyped = pl.lit(f"column {events.column} is empty: no type of event")
    row.reasons.append(pl.when(pl.col(_TYPE) == "").then(untyped))
    columns = row.canonical(needed=shown)
    if events.value is not None:
        value = cells.number(events.value, types)
        value = row.parsed("events.value", events.value, value, "a number", needed=~shown)
        columns["value"] = pl.when(~shown).then(value)
    columns["type"] = pl.when(told).then(_TYPE)
    if "impression_id" in columns:
        of = dict.fromkeys(_OF_BOTH, shown | told) | dict.fromkeys((*_OF_BEHAVIOURS, "type"), told)
        columns = {
            canonical: value if canonical in _OF_ALL else pl.when(of.get(canonical, shown)).then(value)
            for canonical, value in columns.items()
        }
        event = pl.when(shown).then(pl.lit(IMPRESSION)).when(told).then(pl.lit(BEHAVIOUR))
        columns["event"] = event.when(acted).then(pl.lit(ACTION))
        columns["action"] = pl.when(acted).then(_KIND)
        columns["impression_id"] = pl.when(~told).then(columns["impression_id"])
    else:
        columns["kind"] = pl.col(_KIND)
    picked = [value.alias(canonical) for canonical, value in columns.items()]
    return part.filter(~other).select("_row", *picked, row.reason())


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
