"""Criteo attribution: 16 million display impressions with clicks and delayed conversions.

Source: "Criteo Attribution Modeling for Bidding Dataset" (Diemert, Meynet, Galland, Lefortier; AdKDD 2017),
30 days. A tab-separated file with header: timestamp (s from 0), uid, campaign, conversion,
conversion_timestamp, conversion_id, attribution, click, click_pos, click_nb, cost, cpo,
time_since_last_click, cat1..cat9; -1 stands for none.

- The log counts seconds from 0: it is put at 2017-01-01 UTC, which only its first day knows to be untrue.
- ``item_id`` is the campaign, ``category_id`` cat1; cost and cat2..cat9 go into the context. The prices are
  transformed and of displays, so ``price`` stays empty.
- A click has the time of its impression: the log has no click times.
- One conversion stands on every impression of its user's last 30 days. It makes one purchase, at
  conversion_timestamp, of the last clicked impression of that conversion_id (last touch), or of the last
  impression where none was clicked. So purchases count conversions, not rows.

The file is in time order and is streamed, twice; memory holds converted impressions, and purchases that are
still to come.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from replay.adapters.tables import batches, find_file, flag, require_file, scan_text, time_ordered, whole
from replay.source import Label, TableLog, Tally, label_events

TITLE = "Criteo attribution: display impressions with clicks and delayed conversions"
MISSING = "put criteo_attribution_dataset.tsv.gz (Criteo AI Lab) into data/criteo"

#: 2017-01-01 00:00 UTC in ms.
BASE_MS = 1_483_228_800_000
_FILES = ("*attribution*.tsv",)
_CATEGORIES = tuple(f"cat{k}" for k in range(1, 10))
_REQUIRED = (
    *("timestamp", "uid", "campaign", "conversion", "conversion_timestamp", "conversion_id"),
    *("click", "cost", *_CATEGORIES),
)


def find() -> Path | None:
    """The file where it is found."""
    return find_file("criteo", _FILES)


def open_path(path: Path | None = None) -> TableLog:
    """The log in ``path``, else where it is found."""
    file = require_file("criteo", _FILES, path)

    def source(rows: int, tally: Tally) -> Iterator[pl.DataFrame]:
        table = scan_text(file, separator="\t", quote=None, required=_REQUIRED)
        touched = _last_touches(table).implode()
        labels = [
            Label("click", flag("click")),
            Label(
                "purchase", pl.col("_row").is_in(touched), time=BASE_MS + whole("conversion_timestamp") * 1000
            ),
        ]
        for part in batches(time_ordered(table, whole("timestamp")), rows):
            yield label_events(part.with_columns(_columns()), labels)

    return TableLog("criteo", source, delayed=True, files=[file])


def _last_touches(table: pl.LazyFrame) -> pl.Series:
    """Row numbers of the impressions that get the purchase of their conversion."""
    rank = pl.struct(flag("click").alias("clicked"), whole("timestamp").alias("at"), pl.col("_row"))
    chosen = (
        table.filter(flag("conversion") & (pl.col("conversion_id") != "-1"))
        .select("conversion_id", rank.alias("rank"))
        .collect(engine="streaming")
        .sort("rank")
        .unique("conversion_id", keep="last")
    )
    return chosen["rank"].struct.field("_row")


def _columns() -> list[pl.Expr]:
    return [
        (BASE_MS + whole("timestamp") * 1000).alias("event_time"),
        pl.format("criteo-{}", "_row").alias("impression_id"),
        pl.col("uid").alias("user_id"),
        pl.col("campaign").alias("item_id"),
        pl.col("cat1").alias("category_id"),
        pl.struct("cost", *_CATEGORIES[1:]).alias("context"),
    ]
