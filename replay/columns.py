"""The canonical columns of a recorded log, and what makes a row valid.

One row an event, ordered by ``event_time``; at equal times impressions come before actions, so that an
action never precedes the impression that it answers. See ``docs/contracts.md``.
"""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from contracts.events import ACTIONS, MIN_EVENT_TIME
from replay.errors import LogError

IMPRESSION = "impression"
ACTION = "action"

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
}
#: The columns in their order; ``context`` (a struct of strings) is the only one that may be absent.
COLUMNS: tuple[str, ...] = (*list(SCHEMA)[:10], "context", "action", "value")

#: 2100-01-01 UTC: an event time behind it is almost surely in a finer unit than was said. The event contract
#: goes further, to 2^53.
MAX_EVENT_TIME = 4_102_444_800_000
MAX_ID = 256
MAX_POSITION = 32_767
MAX_MONEY = 1e12

_REQUIRED_IDS = ("impression_id", "user_id")
_OPTIONAL_IDS = ("category_id", "shop_id", "request_id")


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
    is_action = pl.col("event") == ACTION
    time = pl.col("event_time")
    checks: list[tuple[pl.Expr, pl.Expr]] = [
        (
            pl.col("event").is_null() | ~pl.col("event").is_in([IMPRESSION, ACTION]),
            _text("event is not 'impression' or 'action'"),
        ),
        (time.is_null(), _text("event_time is missing or not a time")),
        (
            (time < MIN_EVENT_TIME) | (time > MAX_EVENT_TIME),
            pl.format("event_time {} ms is outside 2000-01-01 UTC .. 2100-01-01 UTC: wrong unit?", time),
        ),
    ]
    for name in _REQUIRED_IDS:
        checks.append(_empty(name))
        checks.append(_long(name))
    empty, reason = _empty("item_id")
    checks.append((~is_action & empty, reason))
    checks.extend(_long(name) for name in ("item_id", *_OPTIONAL_IDS))
    for field in context.fields if context is not None else ():
        checks.append(_long(f"context {field.name}"))
    position = pl.col("position")
    checks.append(
        (
            (position < 0) | (position > MAX_POSITION),
            pl.format("position {} is outside 0..32767", position),
        )
    )
    for name in ("price", "value"):
        money = pl.col(name)
        # NaN compares as larger than every number in polars, infinities by themselves.
        checks.append(((money < 0) | (money > MAX_MONEY), pl.format(name + " {} is outside 0..1e12", money)))
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
    missing = [c for c in ("event", "event_time", "impression_id", "user_id", "item_id") if c not in have]
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


def _long(name: str) -> tuple[pl.Expr, pl.Expr]:
    column = pl.col(name)
    # Bytes bound characters from above and need no decoding; only a long text is counted exactly.
    too_long = (column.str.len_bytes() > MAX_ID) & (column.str.len_chars() > MAX_ID)
    return too_long, _text(f"{name} is longer than {MAX_ID} characters")
