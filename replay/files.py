"""Canonical files: reading Parquet, JSONL and CSV in bounded memory, writing Parquet and JSONL.

Writing is deterministic: the same events give the same bytes, whatever frames they come in.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl

from replay.adapters import cells
from replay.adapters.jsonl import BROKEN, NO_OBJECT, decoded, find_columns, keys, scan_jsonl
from replay.adapters.tables import batches, refuse_empty, scan_text, time_ordered, unreadable
from replay.columns import COLUMNS, SCHEMA, check_columns, conform, context_type
from replay.errors import LogError
from replay.log import CHUNK_ROWS
from replay.records import json_lines
from replay.source import TableLog, Tally

CANONICAL_SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".csv")
_ROW_GROUP = CHUNK_ROWS


class FileLog(TableLog):
    """A canonical file. Streamed where it is in event-time order (checked), else sorted in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(path.stem, self._batches, delayed=False, files=(path,))

    def _batches(self, rows: int, tally: Tally) -> Iterator[pl.DataFrame]:
        table = scan_canonical(self.path)
        types = dict(table.collect_schema())
        fields = _context_fields(table, rows) if BROKEN in types and "context" in types else []
        time = _cell("event_time", types)
        for part in batches(time_ordered(table, time), rows):
            yield _events(part, types, fields)


def scan_canonical(path: Path) -> pl.LazyFrame:
    """A canonical file as a lazy table, with ``_row``; raises ``LogError`` for one that is none.

    Cells of CSV and JSONL are texts, and JSONL has ``_broken``; `_events` makes canonical rows of them.
    """
    refuse_empty(path)
    try:
        if path.suffix == ".parquet":
            table = pl.scan_parquet(path, row_index_name="_row", row_index_offset=1)
            names = table.collect_schema().names()
        elif path.suffix == ".csv":
            table = scan_text(path)
            names = [name for name in table.collect_schema().names() if name != "context"]
        else:
            names = find_columns(path, COLUMNS)
            table = scan_jsonl(path, [name for name in COLUMNS if name in names])
            names = [*names, "_row", BROKEN]
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(path, error) from error
    check_columns([name for name in names if name not in ("_row", BROKEN)], str(path))
    return table.select(name for name in ("_row", *COLUMNS, BROKEN) if name in names)


def _cell(name: str, types: cells.Types) -> pl.Expr:
    """A canonical column; a text that is no number where one is due is null."""
    if types[name] != pl.String:
        return pl.col(name).cast(SCHEMA[name], strict=False)
    kind = SCHEMA[name]
    if kind == pl.Int64:
        return cells.whole(name, types)
    return cells.number(name, types) if kind == pl.Float64 else pl.col(name)


def _context_fields(table: pl.LazyFrame, rows: int) -> list[str]:
    """The keys of all contexts: they may first come anywhere, and every batch has the same columns."""
    found: dict[str, None] = {}
    for part in batches(table.select("context"), rows):
        found.update(dict.fromkeys(keys(part["context"])))
    return list(found)


def _events(part: pl.DataFrame, types: cells.Types, fields: list[str]) -> pl.DataFrame:
    """Canonical rows with ``_reason`` of a batch of `scan_canonical`; ``fields``: those of ``context``."""
    reasons = [pl.lit(None, dtype=pl.String)]
    if BROKEN in types:
        reasons.append(pl.when(BROKEN).then(pl.lit(NO_OBJECT)))
    picked = [pl.col("_row"), *(_cell(name, types).alias(name) for name in SCHEMA if name in types)]
    for name in ("position", "price", "value", "stock"):
        if types.get(name) == pl.String:
            raw = pl.col(name).str.strip_chars()
            wrong = (raw != "") & _cell(name, types).is_null()
            what = "a whole number" if SCHEMA[name] == pl.Int64 else "a number"
            reasons.append(pl.when(wrong).then(pl.format(name + " {} is not " + what, raw)))
    if fields:
        context = decoded(part["context"].replace("", None).fill_null("{}"), fields)
        part = part.with_columns(
            context.drop(BROKEN).to_struct("context"), context[BROKEN].alias("_no_context")
        )
        picked.append(pl.col("context"))
        reasons.append(pl.when("_no_context").then(pl.lit("context is no JSON object")))
    elif isinstance(types.get("context"), pl.Struct):
        picked.append(pl.col("context"))
    return part.select(*picked, pl.coalesce(reasons).alias("_reason"))


def write_log(frames: Iterable[pl.DataFrame], to: str | os.PathLike[str]) -> int:
    """Write canonical frames to a file (.parquet, .jsonl or .ndjson); returns the number of events."""
    path = Path(to)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.suffix == ".parquet":
            events = _write_parquet(frames, temporary)
        elif path.suffix in (".jsonl", ".ndjson"):
            events = _write_jsonl(frames, temporary)
        else:
            raise LogError(f"{path}: a log is written as .parquet or .jsonl")
        # A reader never sees half a log.
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return events


def _write_jsonl(frames: Iterable[pl.DataFrame], path: Path) -> int:
    events = 0
    with path.open("wb") as out:
        for frame in frames:
            lines = json_lines(frame, with_event=True)
            if lines.len():
                out.write("\n".join(lines.to_list()).encode())
                out.write(b"\n")
            events += frame.height
    return events


def _write_parquet(frames: Iterable[pl.DataFrame], path: Path) -> int:
    source = iter(frames)
    first = next(source, None)
    kind = context_type(first) if first is not None else None
    schema: dict[str, pl.DataType] = {}
    for name in COLUMNS:
        if name != "context":
            schema[name] = SCHEMA[name]
        elif kind is not None:
            schema[name] = kind
    events = 0

    def read(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        nonlocal events
        for frame in _regular(_conformed(first, source, kind), _ROW_GROUP):
            events += frame.height
            yield frame

    table = pl.io.plugins.register_io_source(read, schema=schema)
    table.sink_parquet(path, compression="zstd", row_group_size=_ROW_GROUP, maintain_order=True)
    return events


def _conformed(
    first: pl.DataFrame | None, rest: Iterator[pl.DataFrame], kind: pl.Struct | None
) -> Iterator[pl.DataFrame]:
    if first is None:
        return
    known = {field.name for field in kind.fields} if kind is not None else set()
    yield conform(first, kind)
    for frame in rest:
        own = context_type(frame)
        extra = {field.name for field in own.fields} - known if own is not None else set()
        if extra:
            raise LogError(
                f"context fields {', '.join(sorted(extra))} are not in the first frame, and Parquet has one "
                "schema a file; give every frame the same context fields, or write .jsonl"
            )
        yield conform(frame, kind)


def _regular(frames: Iterator[pl.DataFrame], rows: int) -> Iterator[pl.DataFrame]:
    """Frames of exactly ``rows`` rows but the last: row groups then depend on the events alone."""
    held: list[pl.DataFrame] = []
    count = 0
    for frame in frames:
        held.append(frame)
        count += frame.height
        if count >= rows:
            whole = pl.concat(held, rechunk=True)
            for start in range(0, count - count % rows, rows):
                yield whole.slice(start, rows)
            held = [whole.slice(count - count % rows)]
            count %= rows
    if count:
        yield pl.concat(held, rechunk=True)
