"""RetailRocket: views, carts and transactions of a web shop, to the millisecond.

Source: "Retailrocket recommender system dataset" (Kaggle), 2015-05 to 09, 2.76 million events.
``events.csv``: timestamp (ms), visitorid, event (``view``, ``addtocart``, ``transaction``), itemid,
transactionid. A view is an impression without a click; see `behaviour`. The file is not in time order and
is sorted in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from replay.adapters.behaviour import attributed, kinds
from replay.adapters.tables import find_file, require_file, scan_text, time_ordered, whole
from replay.source import TableLog, Tally

TITLE = "RetailRocket: views, carts, transactions of a web shop to the millisecond"
MISSING = "put events.csv (Kaggle retailrocket/ecommerce-dataset) into data/retailrocket"

_FILES = ("events.csv",)
_REQUIRED = ("timestamp", "visitorid", "event", "itemid")
_KINDS = {"view": "impression", "addtocart": "cart", "transaction": "purchase"}


def find() -> Path | None:
    """The file where it is found."""
    return find_file("retailrocket", _FILES)


def open_path(path: Path | None = None) -> TableLog:
    """The log in ``path``, else where it is found."""
    file = require_file("retailrocket", _FILES, path)

    def source(rows: int, tally: Tally) -> Iterator[pl.DataFrame]:
        table = time_ordered(scan_text(file, required=_REQUIRED), whole("timestamp"))
        columns = [
            "_row",
            whole("timestamp").alias("event_time"),
            pl.col("visitorid").alias("user_id"),
            pl.col("itemid").alias("item_id"),
            *kinds("event", _KINDS),
        ]
        yield from attributed("retailrocket", table.select(columns).collect(engine="streaming"), rows, tally)

    return TableLog("retailrocket", source, delayed=False, files=[file])
