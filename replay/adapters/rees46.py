"""REES46: views, carts and purchases of multi-category and cosmetics shops, to the second, with prices.

Source: "eCommerce behavior data from multi category store" (Kaggle, REES46 Open CDP), 2019-10 on; one file
a month. Columns: event_time (``YYYY-mm-dd HH:MM:SS UTC``), event_type (``view``, ``cart``,
``remove_from_cart``, ``purchase``), product_id, category_id, category_code, brand, price, user_id,
user_session.

A view is an impression without a click; see `behaviour`. A purchase's value is the price. A removal from a
cart is a behaviour. Row numbers count through the files in the order of their names; months whose names do
not sort by time are sorted in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from replay.adapters.behaviour import attributed, kinds
from replay.adapters.tables import find_file, number, require_files, scan_text, time_ordered
from replay.source import TableLog, Tally

TITLE = "REES46: views, carts, purchases of shops to the second, with prices"
MISSING = "put the monthly files such as 2019-Nov.csv (Kaggle mkechinov) into data/rees46"

_FILES = ("*.csv",)
_REQUIRED = (
    *("event_time", "event_type", "product_id", "category_id", "category_code"),
    *("brand", "price", "user_id", "user_session"),
)
_KINDS = {
    "view": "impression",
    "cart": "cart",
    "purchase": "purchase",
    "remove_from_cart": "behaviour",
}


def find() -> Path | None:
    """The first of the files where they are found."""
    return find_file("rees46", _FILES)


def open_path(path: Path | None = None) -> TableLog:
    """The log in ``path`` (a file, or a folder of files), else where it is found."""
    files = require_files("rees46", _FILES, path)

    def source(rows: int, tally: Tally) -> Iterator[pl.DataFrame]:
        time = pl.col("event_time").str.to_datetime("%Y-%m-%d %H:%M:%S UTC", strict=False).dt.epoch("ms")
        table = time_ordered(scan_text(files, required=_REQUIRED), time)
        columns = [
            "_row",
            time.alias("event_time"),
            "user_id",
            pl.col("product_id").alias("item_id"),
            "category_id",
            number("price").alias("price"),
            pl.when(pl.col("event_type") == "purchase").then(number("price")).alias("value"),
            pl.struct("category_code", "brand", pl.col("user_session").alias("session")).alias("context"),
            *kinds("event_type", _KINDS),
        ]
        yield from attributed("rees46", table.select(columns).collect(engine="streaming"), rows, tally)

    return TableLog("rees46", source, delayed=False, files=files)
