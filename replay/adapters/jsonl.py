"""JSON lines as a table of texts: a line that is broken costs itself and not the file.

polars' own reader stops at the first line that is no JSON object, such as the last one of a log whose writer
was killed, and takes each column's type from the whole file, so that one odd cell is an error or a null.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

#: Column that is true where a line is no JSON object.
BROKEN = "_broken"
_SAMPLE_LINES = 1000


def scan_jsonl(path: Path, columns: Sequence[str]) -> pl.LazyFrame:
    """``columns`` as String (null where a line lacks them), ``_row`` (line number from 1) and ``_broken``.

    Blank lines are no rows. Nested values are JSON text.
    """
    fields = {name: pl.String() for name in columns}
    kind = pl.Struct(
        [*(pl.Field(name, dtype) for name, dtype in fields.items()), pl.Field(BROKEN, pl.Boolean())]
    )

    def decode(lines: pl.Series) -> pl.Series:
        return _decoded(lines, fields).cast({BROKEN: pl.Boolean}).to_struct(lines.name)

    decoded = pl.col("line").map_batches(decode, return_dtype=kind, is_elementwise=True)
    return _lines(path).select("_row", decoded.alias("line")).select("_row", pl.col("line").struct.unnest())


def find_columns(path: Path, asked: Sequence[str]) -> list[str]:
    """Keys of the first lines, and those of ``asked`` that stand anywhere in the file."""
    found: dict[str, None] = {}
    for line in _lines(path).head(_SAMPLE_LINES).collect(engine="streaming")["line"]:
        found.update(dict.fromkeys(_object(line) or {}))
    rare = [name for name in asked if name not in found]
    if rare:
        text = pl.col("line")
        tests = [
            text.str.contains(json.dumps(name), literal=True).any().alias(str(k))
            for k, name in enumerate(rare)
        ]
        seen = _lines(path).select(tests).collect(engine="streaming").row(0)
        found.update(dict.fromkeys(name for name, is_there in zip(rare, seen, strict=True) if is_there))
    return list(found)


def _lines(path: Path) -> pl.LazyFrame:
    table = pl.scan_lines(path, name="line", row_index_name="_row", row_index_offset=1)
    line = pl.col("line").str.strip_prefix("\ufeff").str.strip_chars()
    return table.with_columns(line).filter(pl.col("line") != "")


def _decoded(lines: pl.Series, fields: dict[str, pl.String]) -> pl.DataFrame:
    texts = lines.to_list()
    try:
        table = _read(texts, fields)
        if table.height == len(texts):
            return table.with_columns(pl.lit(False).alias(BROKEN))
    except pl.exceptions.PolarsError:
        pass
    # Only a batch with a line that polars does not take is read line by line.
    objects = [_object(text) for text in texts]
    table = _read([json.dumps(value or {}) for value in objects], fields)
    return table.with_columns(pl.Series(BROKEN, [value is None for value in objects], dtype=pl.Boolean))


def _read(texts: list[str], fields: dict[str, pl.String]) -> pl.DataFrame:
    return pl.read_ndjson(io.BytesIO("\n".join(texts).encode()), schema=fields)


def _object(text: str) -> dict[str, Any] | None:
    """A JSON object; NaN and infinities, which Python's own writer makes, are null."""
    try:
        value = json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
