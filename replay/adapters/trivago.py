"""Trivago hotel lists: real impressions with prices, positions and clicks.

Source: RecSys Challenge 2019 sessions, lists expanded to one shown hotel a row in ``impressions.parquet``:
imp_id, timestamp (s), user_id, session_id, step, platform, city, device, current_filters, item_id, price,
position, clicked. One imp_id is one list of up to 25 hotels.

- ``impression_id`` is ``<imp_id>-<position>``, ``request_id`` the list. The click has the list's time: the
  log times the click-out only, and shows the list at that time.
- A list always has exactly one click; lists without one were never logged. It measures ranking, not the
  absolute click rate.
- ``actions.parquet`` (the sessions) is not read: its ``interaction item`` rows name a hotel but no list that
  was shown, so there is no impression that they could belong to.
- ``current_filters`` is cut to 256 characters, the contract's bound for a context text.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from contracts.limits import MAX_ID
from replay.adapters.tables import batches, find_file, require_file, time_ordered
from replay.errors import LogError
from replay.source import Label, TableLog, Tally, label_events

TITLE = "Trivago hotel lists (RecSys 2019): impressions with prices, positions, clicks"
MISSING = "put impressions.parquet (expanded RecSys Challenge 2019 lists) into data/trivago"

_FILES = ("impressions.parquet",)
_CONTEXT = ("platform", "city", "device")


def find() -> Path | None:
    """The file where it is found."""
    return find_file("trivago", _FILES)


def open_path(path: Path | None = None) -> TableLog:
    """The log in ``path``, else where it is found; streamed, in time order already."""
    file = require_file("trivago", _FILES, path)

    def source(rows: int, tally: Tally) -> Iterator[pl.DataFrame]:
        try:
            table = pl.scan_parquet(file, row_index_name="_row", row_index_offset=1)
            table = time_ordered(table, pl.col("timestamp"))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise LogError(f"{file}: cannot be read as trivago impressions: {error}") from error
        for part in batches(table.select(_columns()), rows):
            yield label_events(part, [Label("click", pl.col("clicked") == 1)])

    return TableLog("trivago", source, delayed=True, files=[file])


def _columns() -> list[pl.Expr]:
    return [
        pl.col("_row"),
        (pl.col("timestamp") * 1000).alias("event_time"),
        pl.format("{}-{}", "imp_id", "position").alias("impression_id"),
        pl.col("imp_id").cast(pl.String).alias("request_id"),
        pl.col("user_id", "item_id", "position", "price", "clicked"),
        pl.struct(*_CONTEXT, pl.col("current_filters").str.head(MAX_ID)).alias("context"),
    ]
