"""Avazu: 40 million mobile ad impressions with clicks, to the hour.

Source: "Click-Through Rate Prediction" (Kaggle 2014), 2014-10-21 to 10-30 UTC. ``train`` or ``train.csv`` (or
``.gz``): id, click, hour (YYMMDDHH), C1, banner_pos, site_id, site_domain, site_category, app_id,
app_domain, app_category, device_id, device_ip, device_model, device_type, device_conn_type, C14..C21.

- ``user_id``: device_id, except for the one id that stands for an unknown device (a99f214a, four rows in
  five): there ip and model, as the competition's solutions did.
- ``item_id``: C14, the finest of the anonymous ad columns. ``shop_id`` and ``category_id``: the site's, or
  the app's where the impression was inside one (app_id is not ecad2386, which stands for none).
- ``position``: banner_pos. Every other column goes into the context.
- The log knows hours only: an hour's rows are spread evenly over it in file order. A click has the time of
  its impression.

The file is in time order and is streamed, twice (the first pass counts the hours).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from replay.adapters.tables import batches, find_file, flag, require_file, scan_text, time_ordered, whole
from replay.source import Label, TableLog, Tally, label_events

TITLE = "Avazu: mobile ad impressions with clicks to the hour"
MISSING = "put train.gz or train.csv (Kaggle avazu-ctr-prediction) into data/avazu"

_FILES = ("train", "train.csv")
_CONTEXT = (
    *("C1", "site_domain", "app_domain", "device_model", "device_type", "device_conn_type"),
    *(f"C{k}" for k in range(15, 22)),
)
_REQUIRED = (
    *("id", "click", "hour", "banner_pos", "site_id", "site_category", "app_id", "app_category"),
    *("device_id", "device_ip", "C14", *_CONTEXT),
)
_NO_DEVICE = "a99f214a"
_NO_APP = "ecad2386"
_HOUR_MS = 3_600_000


def find() -> Path | None:
    """The file where it is found."""
    return find_file("avazu", _FILES)


def open_path(path: Path | None = None) -> TableLog:
    """The log in ``path``, else where it is found."""
    file = require_file("avazu", _FILES, path)

    def source(rows: int, tally: Tally) -> Iterator[pl.DataFrame]:
        table = time_ordered(scan_text(file, quote=None, required=_REQUIRED), whole("hour"))
        counts = table.group_by("hour").agg(pl.len().alias("count")).collect(engine="streaming")
        seen = dict.fromkeys(counts["hour"].to_list(), 0)
        for part in batches(table, rows):
            # How many rows of the same hour came before: in earlier batches, and in this one.
            before = pl.col("hour").replace_strict(seen, return_dtype=pl.Int64)
            part = part.join(
                counts, on="hour", how="left", nulls_equal=True, maintain_order="left"
            ).with_columns((before + pl.int_range(pl.len()).over("hour")).alias("index"))
            for hour, count in part["hour"].value_counts().iter_rows():
                seen[hour] += count
            yield label_events(part.with_columns(_columns()), [Label("click", flag("click"))])

    return TableLog("avazu", source, delayed=True, files=[file])


def _columns() -> list[pl.Expr]:
    hour = ("20" + pl.col("hour") + "00").str.to_datetime("%Y%m%d%H%M", strict=False).dt.epoch("ms")
    in_app = pl.col("app_id") != _NO_APP
    known = pl.col("device_id") != _NO_DEVICE
    return [
        (hour + pl.col("index") * _HOUR_MS // pl.col("count")).alias("event_time"),
        pl.col("id").alias("impression_id"),
        pl.when(known)
        .then("device_id")
        .otherwise(pl.format("{}-{}", "device_ip", "device_model"))
        .alias("user_id"),
        pl.col("C14").alias("item_id"),
        pl.when(in_app).then("app_category").otherwise("site_category").alias("category_id"),
        pl.when(in_app).then("app_id").otherwise("site_id").alias("shop_id"),
        whole("banner_pos").alias("position"),
        pl.struct(*_CONTEXT).alias("context"),
    ]
