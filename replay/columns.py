"""The canonical columns of a recorded log, and what makes a row valid.

One row an event, ordered by ``event_time``; at equal times impressions come before actions, so that an
action never precedes the impression that it answers, and behaviours come last. See ``docs/contracts.md``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import polars as pl

from contracts.events import ACTION, ACTIONS, BEHAVIOUR, IMPRESSION, KINDS
from contracts.limits import (
    MAX_AMOUNT,
    MAX_ID,
    MAX_POSITION,
    MAX_RECORDED_TIME,
    MAX_TYPE,
    MIN_EVENT_TIME,
)
from replay.errors import LogError

__all__ = [
    "ACTION",
    "BEHAVIOUR",
    "COLUMNS",
    "IMPRESSION",
    "SCHEMA",
    "check_columns",
    "conform",
    "context_type",
    "flattened",
    "in_event_order",
    "kinds_of",
    "refusals",
]

#: Every column but ``context``, whose fields differ from log to log. Times in ms UTC, prices in money.
SCHEMA: dict[str, pl.DataType] = {
    "event": pl.String(),
    "event_time": pl.Int64(),
    "impression_id": pl.String(),
    "user_id": pl.String(),
    "item_id": pl.String(),
    "category_id": pl.String(),
    "shop_id": pl.String(),
    "position": pl.Int64(),
    "price": pl.Float64(),
    "request_id": pl.String(),
    "action": pl.String(),
    "value": pl.Float64(),
    "stock": pl.Float64(),
    "type": pl.String(),
    "query": pl.String(),
}
#: The columns in their order; ``context`` (a struct of strings) is the only one that may be absent.
COLUMNS: tuple[str, ...] = (*list(SCHEMA)[:10], "context", *list(SCHEMA)[10:])

_OPTIONAL_IDS = ("category_id", "shop_id", "request_id")
_TEXTS = ("item_id", *_OPTIONAL_IDS, "query")


def kinds_of(frame: pl.DataFrame) -> pl.Series:
    """The index in ``contracts.events.KINDS`` of each row (Int8).

    >>> kinds_of(pl.DataFrame({"event": ["behaviour", "impression", "action"]})).to_list()
    [2, 0, 1]
    """
    return frame.select(_kind().alias("kind"))["kind"]


def in_event_order(frame: pl.DataFrame) -> pl.DataFrame:
    """``frame`` sorted by event time, at equal times by kind, then as it was."""
    return frame.sort("event_time", _kind(), maintain_order=True)


def _kind() -> pl.Expr:
    event = pl.col("event")
    return (event == ACTION).cast(pl.Int8) + 2 * (event == BEHAVIOUR).cast(pl.Int8)


def context_type(frame: pl.DataFrame | pl.LazyFrame) -> pl.Struct | None:
    """The struct type of ``context``, ``None`` where the column is absent or has no fields."""
    dtype = frame.collect_schema().get("context")
    return dtype if isinstance(dtype, pl.Struct) and dtype.fields else None


def flattened(frame: pl.DataFrame) -> pl.DataFrame:
    """``frame`` with the fields of ``context`` as columns ``context <field>``.

    An expression on one field of a struct costs as much as the struct has fields: a context of some hundred
    fields would take seconds a chunk.

    >>> flattened(pl.DataFrame({"user_id": ["u"], "context": [{"os": "x"}]})).columns
    ['user_id', 'context os']
    """
    if context_type(frame) is None:
        return frame
    fields = frame["context"].struct.unnest()
    return frame.drop("context").hstack(fields.rename(lambda name: f"context {name}"))


def conform(frame: pl.DataFrame, context: pl.Struct | None = None) -> pl.DataFrame:
    """``frame`` with exactly the canonical columns, in order and cast; a missing column is null.

    ``context`` is kept when the frame has it as a struct, and added as nulls when its type is given. A
    cell that cannot be cast becomes null, which ``refusals`` then reports.

    >>> conform(pl.DataFrame({"event": ["impression"], "event_time": [1_700_000_000_000]})).columns[:3]
    ['event', 'event_time', 'impression_id']
    """
    kind = context or context_type(frame)
    if kind is not None:
        kind = pl.Struct({field.name: pl.String() for field in kind.fields})
    picked: list[pl.Expr] = []
    for name in COLUMNS:
        if name == "context":
            if kind is not None:
                has = "context" in frame.columns
                source = pl.col("context") if has else pl.lit(None, dtype=kind).alias("context")
                picked.append(source.cast(kind))
        elif name in frame.columns:
            picked.append(pl.col(name).cast(SCHEMA[name], strict=False))
        else:
            picked.append(pl.lit(None, dtype=SCHEMA[name]).alias(name))
    return frame.select(picked)


def refusals(context: pl.Struct | None = None) -> pl.Expr:
    """The reason why a canonical row cannot be an event (String), null for a good row.

    ``context``: the type of that column, whose texts are bounded as well; it must be `flattened` then.
    """
    is_impression, is_action = pl.col("event") == IMPRESSION, pl.col("event") == ACTION
    is_behaviour = pl.col("event") == BEHAVIOUR
    time = pl.col("event_time")
    kinds = " or ".join(repr(kind) for kind in KINDS)
    checks: list[tuple[pl.Expr, pl.Expr]] = [
        (
            pl.col("event").is_null() | ~pl.col("event").is_in(KINDS),
            _text(f"event is not {kinds}"),
        ),
        (time.is_null(), _text("event_time is missing or not a time")),
        (
            (time < MIN_EVENT_TIME) | (time > MAX_RECORDED_TIME),
            pl.format("event_time {} ms is outside 2000-01-01 UTC .. 2100-01-01 UTC: wrong unit?", time),
        ),
    ]
    empty, reason = _empty("impression_id")
    checks += [(~is_behaviour & empty, reason), _long("impression_id"), _empty("user_id"), _long("user_id")]
    empty, reason = _empty("item_id")
    checks.append((is_impression & empty, reason))
    checks.extend(_long(name) for name in _TEXTS)
    empty, reason = _empty("type")
    checks.append((is_behaviour & empty, reason))
    checks.append(_long("type", MAX_TYPE))
    for field in context.fields if context is not None else ():
        checks.append(_long(f"context {field.name}"))
    position = pl.col("position")
    checks.append(
        (
            (position < 0) | (position > MAX_POSITION),
            pl.format(f"position {{}} is outside 0..{MAX_POSITION}", position),
        )
    )
    for name in ("price", "value", "stock"):
        amount = pl.col(name)
        # NaN compares as larger than every number in polars, infinities by themselves.
        outside = (amount < 0) | (amount > MAX_AMOUNT)
        checks.append((outside, pl.format(f"{name} {{}} is outside 0..1e{math.log10(MAX_AMOUNT):g}", amount)))
    allowed = ", ".join(ACTIONS)
    checks.append(
        (
            is_action & (pl.col("action").is_null() | ~pl.col("action").is_in(ACTIONS)),
            _text(f"action is not one of {allowed}"),
        )
    )
    # The first check that fails names the reason. Flat: one branch in the other would be as deep as there are
    # checks, and its cost quadratic in the fields of the context.
    return pl.coalesce(pl.when(failed).then(why) for failed, why in checks).alias("literal")


def check_columns(names: Iterable[str], where: str) -> None:
    """Raise ``LogError`` when a canonical file lacks a column that no event can do without."""
    have = set(names)
    needed = ["event", "event_time", "user_id"]
    # A file of behaviours alone has neither.
    needed += [] if "type" in have else ["impression_id", "item_id"]
    missing = [name for name in needed if name not in have]
    if missing:
        raise LogError(
            f"{where}: not a canonical log: no column {', '.join(missing)}; "
            f"it has {', '.join(sorted(have))}. Give a column mapping (--mapping M.toml) for any other layout"
        )


def _text(text: str) -> pl.Expr:
    return pl.lit(text, dtype=pl.String)


def _empty(name: str) -> tuple[pl.Expr, pl.Expr]:
    column = pl.col(name)
    return column.is_null() | (column == ""), _text(f"{name} is missing")


def _long(name: str, most: int = MAX_ID) -> tuple[pl.Expr, pl.Expr]:
    column = pl.col(name)
    # Bytes bound characters from above and need no decoding; only a long text is counted exactly.
    too_long = (column.str.len_bytes() > most) & (column.str.len_chars() > most)
    return too_long, _text(f"{name} is longer than {most} characters")
