"""Canonical files: reading Parquet, JSONL and CSV in bounded memory, writing Parquet and JSONL.

Writing is deterministic: the same events give the same bytes, whatever frames they come in.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl

from replay.adapters.tables import batches, time_ordered
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
        time = pl.col("event_time").cast(pl.Int64, strict=False)
        table = time_ordered(table.with_row_index("_row", offset=1), time)
        yield from batches(table, rows)


def scan_canonical(path: Path) -> pl.LazyFrame:
    """A canonical file as a lazy table; raises ``LogError`` for one that is none."""
    try:
        if path.suffix == ".parquet":
            table = pl.scan_parquet(path)
        elif path.suffix == ".csv":
            table = pl.scan_csv(path, infer_schema=False)
        else:
            # The fields of `context` may first show up anywhere: the types are read off the whole file.
            table = pl.scan_ndjson(path, infer_schema_length=None)
        names = table.collect_schema().names()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise LogError(f"{path}: cannot be read: {error}") from error
    check_columns(names, str(path))
    return table.select(name for name in COLUMNS if name in names)


def write_frames(frames: Iterable[pl.DataFrame], path: Path) -> int:
    """Write canonical frames to ``path`` by its suffix; returns the number of events."""
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
