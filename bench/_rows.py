"""The impressions that a figure of accuracy is about, and the order in which peers predict and learn them.

A peer learns like the engine: what it predicts it has not learned, and it learns a label when that is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from bench._registry import BenchError
from replay.columns import ACTION, IMPRESSION, context_type
from replay.errors import LogError
from replay.log import RecordedLog

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

#: Prefix of the columns that hold the fields of an impression's context.
CONTEXT = "context_"


class Step(NamedTuple):
    """Rows ``begin`` to ``end`` are predicted together, after rows 0 to ``learned`` have been learned."""

    learned: int
    begin: int
    end: int


def events_of(log: RecordedLog) -> pl.DataFrame:
    """All events of ``log`` in its order. Raises ``BenchError`` where it cannot be read or has none."""
    try:
        frames = list(log.chunks())
    except LogError as error:
        raise BenchError(str(error)) from error
    if not frames or not any((frame["event"] == IMPRESSION).any() for frame in frames):
        raise BenchError(f"{log.name} has no impressions")
    return pl.concat(frames, how="diagonal")


def impressions_of(events: pl.DataFrame) -> pl.DataFrame:
    """Impressions by time, each list in one piece, an id once; context fields as ``context_<name>``."""
    shown = events.filter(pl.col("event") == IMPRESSION).unique(
        "impression_id", keep="first", maintain_order=True
    )
    kind = context_type(shown)
    if kind is not None:
        fields = [
            pl.col("context").struct.field(field.name).fill_null("").alias(CONTEXT + field.name)
            for field in kind.fields
        ]
        shown = shown.with_columns(fields)
    shown = shown.with_columns(
        pl.col("item_id", "category_id", "shop_id").fill_null(""),
        pl.coalesce("request_id", "impression_id").alias("request_id"),
        pl.col("position").fill_null(0),
        pl.col("price").fill_null(0.0),
    )
    return (
        shown.with_row_index("_row")
        .with_columns(pl.col("_row").min().over("event_time", "request_id").alias("_list"))
        .sort("event_time", "_list", "_row")
        .drop("_row", "_list", "event", "action", "value")
    )


def codes(values: pl.Series) -> IntArray:
    """Numbers 0 .. count - 1 for equal values, in the order of their first appearance."""
    return values.cast(pl.String).rank("dense").to_numpy().astype(np.int64) - 1


def steps_by_list(lists: Sequence[int] | IntArray) -> list[Step]:
    """One step a list, (n,) its code by row: whatever precedes a list has been learned."""
    each = np.asarray(lists)
    if not len(each):
        return []
    begins = np.flatnonzero(np.r_[True, each[1:] != each[:-1]]).tolist()
    return [Step(a, a, b) for a, b in zip(begins, [*begins[1:], len(each)], strict=True)]


def steps_by_tick(times: IntArray, tick_ms: int, window_ms: int) -> list[Step]:
    """One step a tick of ``times`` (n,) ms; a label is known ``window_ms`` after its impression."""
    if not len(times):
        return []
    ticks = times // tick_ms
    begins = np.flatnonzero(np.r_[True, ticks[1:] != ticks[:-1]])
    learned = np.searchsorted(times + window_ms, ticks[begins] * tick_ms, side="right")
    ends = np.r_[begins[1:], len(times)]
    learned = np.minimum(learned, begins)  # without a window nothing is known before it is predicted, either
    return [Step(*row) for row in np.stack([learned, begins, ends], axis=1).tolist()]


def past_clicks(items: Sequence[str], clicked: BoolArray, steps: list[Step]) -> IntArray:
    """Clicks on each row's item (n,) among the rows that were learned before the row's step."""
    found = np.zeros(len(items), dtype=np.int64)
    counts: dict[str, int] = {}
    done = 0
    for step in steps:
        for row in range(done, step.learned):
            if clicked[row]:
                counts[items[row]] = counts.get(items[row], 0) + 1
        done = max(done, step.learned)
        for row in range(step.begin, step.end):
            found[row] = counts.get(items[row], 0)
    return found


def touches_of(events: pl.DataFrame) -> pl.DataFrame:
    """What users did with items as the log tells it: ``user_id``, ``item_id``, ``event_time``."""
    shown = events.filter((pl.col("event") != IMPRESSION) & pl.col("item_id").is_not_null())
    return shown.select("user_id", "item_id", "event_time")


def clicks_of(events: pl.DataFrame) -> pl.DataFrame:
    """``impression_id`` and ``click_time`` (ms) of the first click on each impression."""
    clicks = events.filter((pl.col("event") == ACTION) & (pl.col("action") == "click"))
    return clicks.group_by("impression_id").agg(pl.col("event_time").min().alias("click_time"))


def touched(shown: pl.DataFrame, touches: pl.DataFrame, keys: Sequence[str]) -> tuple[IntArray, IntArray]:
    """How often the ``keys`` of each impression (n,) were touched before, and how many ms ago (-1: never)."""
    asked = shown.with_row_index("_row")
    before = pl.col("event_time_touch") < pl.col("event_time")
    columns = [*keys, "event_time"]
    others = touches.select(
        *keys, *(pl.col(name).alias(f"{name}_touch") for name in columns if name not in keys)
    )
    found = (
        asked.select("_row", *columns)
        .join(others, on=list(keys), how="inner")
        .filter(before)
        .group_by("_row")
        .agg(
            pl.len().alias("count"),
            (pl.col("event_time") - pl.col("event_time_touch").max()).min().alias("ago"),
        )
    )
    rows = asked.select("_row").join(found, on="_row", how="left", maintain_order="left")
    count = rows["count"].fill_null(0).to_numpy().astype(np.int64)
    return count, rows["ago"].fill_null(-1).to_numpy().astype(np.int64)


def log2_bucket(values: IntArray) -> IntArray:
    """0 for 0, then one bucket a power of two; -1 for what is negative."""
    buckets: IntArray = np.where(values < 0, -1, np.ceil(np.log2(np.maximum(values, 0) + 1.0)))
    return buckets.astype(np.int64)
