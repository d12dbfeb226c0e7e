"""Tmall before and on Double 11, 2014: clicks, carts, purchases and favourites, to the day.

Source: IJCAI-15 "Repeat Buyers Prediction" (Tianchi 47), 2014-05-11 to 11-12. Two layouts are read:
``user_log*.csv`` with user_id, item_id, cat_id, seller_id, brand_id, time_stamp (mmdd), action_type; and
``events.csv`` with user_id, merchant_id, item_id, cat_id, brand_id, mmdd, action. Actions: 0 click, 1 cart,
2 purchase, 3 favourite.

A click is a page view, and that is an impression without a click of its own; see `behaviour`.

The log knows days only. Days begin at midnight in China (UTC+8). Within a day the clock is made up: a
user's events with an item stay together where the first of them stands in the file, impressions before
actions, and the day's events are spread evenly over its 24 hours. Give it the rates of a real evening with
`replay.pacing.retime`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from replay.adapters.behaviour import attributed, kinds
from replay.adapters.tables import find_file, require_file, scan_text, whole
from replay.errors import LogError
from replay.source import TableLog, Tally

TITLE = "Tmall up to Double 11, 2014 (IJCAI-15): clicks, carts, purchases, favourites to the day"
MISSING = "put user_log_format1.csv or events.csv (Tianchi data set 47) into data/tmall"

_FILES = ("user_log*.csv", "events.csv")
_KINDS = {"0": "impression", "1": "cart", "2": "purchase", "3": "favourite"}
#: Other names of one column, as the two layouts have them.
_NAMES = {"time_stamp": "mmdd", "action_type": "action", "seller_id": "merchant_id"}
_NEEDED = ("user_id", "item_id", "cat_id", "merchant_id", "brand_id", "mmdd", "action")
_YEAR = "2014"
_CHINA_MS = 8 * 3_600_000
_DAY_MS = 86_400_000


def find() -> Path | None:
    """The file where it is found."""
    return find_file("tmall", _FILES)


def open_path(path: Path | None = None) -> TableLog:
    """The log in ``path``, else where it is found."""
    file = require_file("tmall", _FILES, path)

    def source(rows: int, tally: Tally) -> Iterator[pl.DataFrame]:
        yield from attributed("tmall", _table(file), rows, tally)

    return TableLog("tmall", source, delayed=False, files=[file])


def _table(file: Path) -> pl.DataFrame:
    table = scan_text(file)
    have = table.collect_schema().names()
    table = table.rename({old: new for old, new in _NAMES.items() if old in have})
    missing = [name for name in _NEEDED if name not in table.collect_schema().names()]
    if missing:
        raise LogError(f"{file}: no column {', '.join(missing)}; it has {', '.join(have[1:])}")
    mmdd = whole("mmdd").cast(pl.String).str.zfill(4)
    day = (pl.lit(_YEAR) + mmdd).str.to_date("%Y%m%d", strict=False)
    frame = table.select(
        "_row",
        (day.cast(pl.Datetime("ms")).dt.epoch("ms") - _CHINA_MS).alias("day"),
        "user_id",
        "item_id",
        pl.col("cat_id").alias("category_id"),
        pl.col("merchant_id").alias("shop_id"),
        pl.struct(pl.col("brand_id").alias("brand")).alias("context"),
        *kinds("action", _KINDS),
    ).collect(engine="streaming")
    first = pl.col("_row").min().over("day", "user_id", "item_id")
    frame = frame.sort("day", first, pl.col("kind") != "impression", "_row", nulls_last=False)
    spread = pl.int_range(pl.len()).over("day") * _DAY_MS // pl.len().over("day")
    return frame.with_columns((pl.col("day") + spread).alias("event_time")).drop("day")
