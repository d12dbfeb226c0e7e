"""Canonical frames to Kafka records, vectorised: JSON text is built column by column in polars.

`DataFrame.write_ndjson` writes nulls out and cannot leave empty fields away, and one Python object an
event costs ten times as much, so every field becomes a text column ``,"name":value`` (null where the
field is left out) and one concatenation makes the records.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from contracts.events import ACTION, BEHAVIOUR, IMPRESSION
from replay.columns import context_type, flattened, kinds_of

#: Characters that JSON wants escaped inside a string.
_UNSAFE = '["\\\\\x00-\x1f]'
_ESCAPES = {chr(c): json.dumps(chr(c))[1:-1] for c in (*range(0x20), 0x22, 0x5C)}

#: Texts that may be left out, and numbers, with the kinds of events that have them.
_TEXTS = {
    "category_id": (IMPRESSION, BEHAVIOUR),
    "shop_id": (IMPRESSION, BEHAVIOUR),
    "request_id": (IMPRESSION,),
    "action": (ACTION,),
    "query": (BEHAVIOUR,),
}
_NUMBERS = {"position": (IMPRESSION,), "price": (IMPRESSION,), "value": (ACTION, BEHAVIOUR)}
_STRINGS = ("impression_id", "user_id", "item_id", "type", *_TEXTS)


@dataclass(frozen=True, slots=True)
class Records:
    """Records of one frame, in its order.

    ``kinds``: int64 (n,), indices in ``contracts.events.KINDS``. ``keys``: user ids in UTF-8. ``values``:
    JSON. ``times``: int64 (n,), ms UTC.
    """

    kinds: np.ndarray
    keys: list[bytes]
    values: list[bytes]
    times: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def cut(self, start: int, stop: int) -> Records:
        """The records from ``start`` up to ``stop``."""
        if (start, stop) == (0, len(self)):
            return self
        return Records(
            self.kinds[start:stop],
            self.keys[start:stop],
            self.values[start:stop],
            self.times[start:stop],
        )


def to_records(frame: pl.DataFrame) -> Records:
    """JSON records of a valid canonical frame; null, empty and default fields are left out.

    >>> frame = pl.DataFrame({"event": ["impression"], "event_time": [1_700_000_000_000],
    ...     "impression_id": ["i1"], "user_id": ["u"], "item_id": ["x"], "price": [9.5]})
    >>> to_records(frame).values
    [b'{"impression_id":"i1","event_time":1700000000000,"user_id":"u","item_id":"x","price":9.5}']
    """
    texts = json_lines(frame, with_event=False)
    return Records(
        kinds=kinds_of(frame).cast(pl.Int64).to_numpy(),
        keys=frame["user_id"].cast(pl.Binary).to_list(),
        values=texts.cast(pl.Binary).to_list(),
        times=frame["event_time"].to_numpy(),
    )


def json_lines(frame: pl.DataFrame, *, with_event: bool) -> pl.Series:
    """One JSON object a row (String); ``with_event`` puts the ``event`` column first (canonical JSONL)."""
    context = context_type(frame)
    frame = _escaped(flattened(frame))
    # What no row has costs nothing.
    have = {column.name for column in frame if column.null_count() < frame.height}
    parts = [
        _head(with_event, typed="type" in have),
        pl.lit('"event_time":'),
        pl.col("event_time").cast(pl.String),
        pl.lit(',"user_id":"'),
        pl.col("user_id"),
        pl.lit('"'),
        _string("item_id", pl.lit(True)),
    ]
    parts += [_string(name, _is(kinds)) for name, kinds in _TEXTS.items() if name in have]
    parts += [_number(name, _is(kinds)) for name, kinds in _NUMBERS.items() if name in have]
    if "stock" in have:
        # Nothing left is something else than not known.
        parts.append(_number("stock", _is((IMPRESSION,)), default=None))
    if context is not None:
        parts.append(_context(context, _is((IMPRESSION, BEHAVIOUR))))
    parts.append(pl.lit("}"))
    return frame.select(pl.concat_str(parts, ignore_nulls=True).alias("json"))["json"]


def _is(kinds: Sequence[str]) -> pl.Expr:
    return pl.col("event").is_in(kinds)


def _head(with_event: bool, typed: bool) -> pl.Expr:
    """The record's beginning: what every event of a kind has besides time and user."""
    event = pl.concat_str(pl.lit('{"event":"'), "event", pl.lit('",')) if with_event else pl.lit("{")
    joined = pl.concat_str(event, pl.lit('"impression_id":"'), "impression_id", pl.lit('",'))
    if not typed:
        return joined
    told = pl.concat_str(event, pl.lit('"type":"'), "type", pl.lit('",'))
    return pl.when(pl.col("event") == BEHAVIOUR).then(told).otherwise(joined)


def _string(name: str, where: pl.Expr) -> pl.Expr:
    filled = where & pl.col(name).is_not_null() & (pl.col(name) != "")
    return pl.when(filled).then(pl.concat_str(pl.lit(f',"{name}":"'), pl.col(name), pl.lit('"')))


def _number(name: str, where: pl.Expr, default: float | None = 0.0) -> pl.Expr:
    filled = where & pl.col(name).is_not_null()
    if default is not None:
        filled &= pl.col(name) != default
    return pl.when(filled).then(pl.concat_str(pl.lit(f',"{name}":'), pl.col(name).cast(pl.String)))


def _context(fields: pl.Struct, where: pl.Expr) -> pl.Expr:
    pieces = []
    for field in fields.fields:
        value = pl.col(f"context {field.name}")
        text = pl.concat_str(pl.lit(f',{json.dumps(field.name)}:"'), value, pl.lit('"'))
        pieces.append(pl.when(value.is_not_null() & (value != "")).then(text))
    body = pl.concat_str(pieces, ignore_nulls=True)
    return pl.when(where & (body != "")).then(
        pl.concat_str(pl.lit(',"context":{'), body.str.slice(1), pl.lit("}"))
    )


def _escaped(frame: pl.DataFrame) -> pl.DataFrame:
    """A flat ``frame`` with JSON escapes in those string columns that need any; most logs need none."""
    names = [name for name in frame.columns if name in _STRINGS or name.startswith("context ")]
    unsafe = frame.select(pl.col(names).str.contains(_UNSAFE).any()).row(0, named=True)
    changes = [_escape(pl.col(name)) for name in names if unsafe[name]]
    return frame.with_columns(changes) if changes else frame


def _escape(text: pl.Expr) -> pl.Expr:
    return text.str.replace_many(list(_ESCAPES), list(_ESCAPES.values()))
