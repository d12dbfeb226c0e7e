"""What the hashed peers see of an impression: plain columns, counts and recencies in buckets, as text."""

from __future__ import annotations

import polars as pl

from bench._rows import CONTEXT, BoolArray, IntArray, Step, log2_bucket, past_clicks, touched

#: More touches than this count as this many.
MOST_TOUCHES = 8


def plain(
    shown: pl.DataFrame, clicked: BoolArray, steps: list[Step], ids: list[str], touches: IntArray
) -> pl.DataFrame:
    """Columns ``ids``, the context's fields, price rank in the list, position, clicks on the item so far, and
    how often the user touched it before."""
    clicks = past_clicks(shown["item_id"].to_list(), clicked, steps)
    return shown.select(
        *ids,
        *(name for name in shown.columns if name.startswith(CONTEXT) and name != f"{CONTEXT}current_filters"),
        pl.col("price").rank("min").over("request_id").cast(pl.Int64).alias("price_rank"),
        "position",
        pl.Series("clicks", log2_bucket(clicks)),
        pl.Series("touches", touches.clip(max=MOST_TOUCHES)),
    )


def hour(shown: pl.DataFrame) -> pl.Series:
    """Hour of the day, UTC."""
    return (shown["event_time"] // 3_600_000 % 24).alias("hour")


def recency(shown: pl.DataFrame, touches: pl.DataFrame, keys: list[str], name: str) -> pl.Series:
    """Since the last touch of ``keys``: its power of two in seconds, -1 for never."""
    ago = touched(shown, touches, keys)[1]
    seconds = ago // 1000
    return pl.Series(name, log2_bucket(seconds))
