"""Taobao user behaviour: page views, favourites, carts and purchases, to the second.

Source: Alibaba, "User Behavior Data from Taobao for Recommendation" (Tianchi 649), 2017-11-25 to 12-03.
``UserBehavior.csv`` without a header: user, item, category, behaviour (``pv``, ``fav``, ``cart``, ``buy``),
timestamp in seconds.

A ``pv`` is an impression without a click; see `behaviour` for what that means, how actions find their
impression, and the memory it takes. The published file is sorted by user and is sorted by time in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from replay.adapters.behaviour import attributed, kinds
from replay.adapters.tables import find_file, require_file, scan_text, time_ordered, whole
from replay.source import TableLog, Tally

TITLE = "Taobao user behaviour: views, favourites, carts, purchases to the second"
MISSING = "put UserBehavior.csv (Tianchi data set 649) into data/taobao"

_FILES = ("UserBehavior.csv",)
_COLUMNS = ("user", "item", "category", "behaviour", "timestamp")
_KINDS = {"pv": "impression", "fav": "favourite", "cart": "cart", "buy": "purchase"}


def find() -> Path | None:
    """The file where it is found."""
    return find_file("taobao", _FILES)


def open_path(path: Path | None = None) -> TableLog:
    """The log in ``path``, else where it is found."""
    file = require_file("taobao", _FILES, path)

    def source(rows: int, tally: Tally) -> Iterator[pl.DataFrame]:
        table = time_ordered(scan_text(file, _COLUMNS, quote=None), whole("timestamp"))
        columns = [
            "_row",
            (whole("timestamp") * 1000).alias("event_time"),
            pl.col("user").alias("user_id"),
            pl.col("item").alias("item_id"),
            pl.col("category").alias("category_id"),
            *kinds("behaviour", _KINDS),
        ]
        yield from attributed("taobao", table.select(columns).collect(engine="streaming"), rows, tally)

    return TableLog("taobao", source, delayed=False, files=[file])
