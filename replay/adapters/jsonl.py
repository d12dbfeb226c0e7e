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

from replay.errors import LogError

#: Column that is true where a line is no JSON object.
BROKEN = "_broken"
#: Why such a line is refused.
NO_OBJECT = "the line is no JSON object"
_SAMPLE_LINES = 1000


def scan_jsonl(path: Path, columns: Sequence[str]) -> pl.LazyFrame:
    """``columns`` as String (null where a line lacks them), ``_row`` (line number from 1) and ``_broken``.

    Blank lines are no rows. Nested values are JSON text.
    """
    kind = pl.Struct([*(pl.Field(name, pl.String()) for name in columns), pl.Field(BROKEN, pl.Boolean())])

    def decode(lines: pl.Series) -> pl.Series:
        return decoded(lines, columns).to_struct(lines.name)

    cells = pl.col("line").map_batches(decode, return_dtype=kind, is_elementwise=True)
    return _lines(path).select("_row", cells.alias("line")).select("_row", pl.col("line").struct.unnest())


def find_columns(path: Path, asked: Sequence[str]) -> list[str]:
    """Keys of the first lines, and those of ``asked`` that stand anywhere; ``LogError`` for none at all."""
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
    if not found:
        raise LogError(f"{path}: cannot be read: its first {_SAMPLE_LINES:,} lines hold no JSON object")
    return list(found)


def decoded(lines: pl.Series, columns: Sequence[str]) -> pl.DataFrame:
    """``columns`` of JSON objects as String, and ``_broken`` (Boolean) where a text is none.

    >>> decoded(pl.Series(['{"a": 1.5, "b": {"c": []}}', '{"a":']), ["a", "b"]).rows()
    [('1.5', '{"c": []}', False), (None, None, True)]
    """
    fields = {name: pl.String() for name in columns}
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


def keys(texts: pl.Series) -> list[str]:
    """All keys of JSON objects in the order in which they first come; a text that is no object has none.

    >>> keys(pl.Series(['{"b": 1}', "{", None, '{"a": [], "b": "x"}']))
    ['b', 'a']
    """
    objects = texts.drop_nulls().unique(maintain_order=True).to_list()
    try:
        return pl.read_ndjson(io.BytesIO("\n".join(objects).encode()), infer_schema_length=None).columns
    except pl.exceptions.PolarsError:
        # Only a batch with a text that polars does not take is read one by one.
        return list(dict.fromkeys(key for text in objects for key in _object(text) or {}))


def _lines(path: Path) -> pl.LazyFrame:
    table = pl.scan_lines(path, name="line", row_index_name="_row", row_index_offset=1)
    line = pl.col("line").str.strip_prefix("\ufeff").str.strip_chars()
    return table.with_columns(line).filter(pl.col("line") != "")


def _read(texts: list[str], fields: dict[str, pl.String]) -> pl.DataFrame:
    return pl.read_ndjson(io.BytesIO("\n".join(texts).encode()), schema=fields)


def _object(text: str) -> dict[str, Any] | None:
    """A JSON object; NaN and infinities, which Python's own writer makes, are null."""
    try:
        value = json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
