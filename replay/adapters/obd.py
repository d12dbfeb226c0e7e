"""Open Bandit Data: 60,000 real fashion impressions, 287 clicks, out of the PyPI package obp.

Source: Saito et al., "Open Bandit Dataset and Pipeline" (NeurIPS 2021 datasets track); the small version
ships inside ``obp==0.4.1``: two policies (``random``, ``bts``) times three campaigns (``all``, ``men``,
``women``), 10,000 rows each, 2019-11-24 to 11-30 UTC. It is fetched on first use with pip, checked
against a digest, and kept in ``<home>/data/obd``; ``SURGELINE_OBD`` names another folder that holds
``<policy>/<campaign>/<campaign>.csv``.

What becomes what:
- ``user_id``: a digest of the four user features. The log has no users: this is a user segment.
- ``item_id``: ``<campaign>-<item>``. Item numbers count from 0 in each campaign and no two campaigns share
  an item context, so ``men-14`` and ``all-14`` are different things.
- ``category_id``: item feature 1 (a hash). The two policies hash with different salts, so both take the
  table of ``bts``; feature 0, which is not hashed, shows that the items are the same.
- ``position``: 1 to 3, as logged. ``context``: policy, campaign, propensity, user and item features.
- ``request_id``: policy, campaign and microsecond. Lists showed three items, but the rows are a sample:
  nearly all stand alone.
- A click has the time of its impression: the log has no click times.

All 60,000 rows are merged in time order in memory (a few megabytes).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from replay.adapters.obd_fetch import CAMPAIGNS, POLICIES, fetch, is_complete
from replay.adapters.tables import flag, folders, scan_text, whole
from replay.errors import LogNotFoundError
from replay.source import Label, TableLog, Tally, label_events

TITLE = "Open Bandit Data: fashion impressions with propensities (PyPI obp 0.4.1)"
MISSING = "fetched on first use"

_FEATURES = [f"user_feature_{k}" for k in range(4)]
_REQUIRED = ("timestamp", "item_id", "position", "click", "propensity_score", *_FEATURES)
#: Hashes are cut to this many hex digits: 48 bits keep a few thousand values apart.
_DIGITS = 12


def find() -> Path | None:
    """The folder of the logs where it is complete."""
    return next((folder for folder in folders("obd") if is_complete(folder)), None)


def open_path(path: Path | None = None) -> TableLog:
    """The log in ``path``, else where it is found, else fetched."""
    if path is not None and not is_complete(path):
        raise LogNotFoundError(f"obd: {path} does not hold all six <policy>/<campaign>/<campaign>.csv")
    folder = path or find() or fetch(folders("obd")[-1])
    files = [folder / policy / name / f"{name}.csv" for policy in POLICIES for name in CAMPAIGNS]

    def source(rows: int, tally: Tally) -> Iterator[pl.DataFrame]:
        table = _impressions(folder)
        for part in table.iter_slices(rows):
            yield label_events(part, [Label("click", flag("click"))])

    return TableLog("obd", source, delayed=True, files=files)


def _impressions(folder: Path) -> pl.DataFrame:
    """All six logs, one impression a row, in time order; ``_row`` counts through the six files."""
    parts = [_campaign(folder, policy, name) for policy in POLICIES for name in CAMPAIGNS]
    table = pl.concat(parts).with_columns(pl.int_range(1, pl.len() + 1).alias("_row"))
    table = table.join(_segments(table), on=_FEATURES, how="left", maintain_order="left")
    hashes = [pl.col(name).str.head(_DIGITS) for name in (*_FEATURES, "item_feature_3")]
    return table.sort("event_time", maintain_order=True).select(
        "_row",
        "event_time",
        "impression_id",
        "request_id",
        "user_id",
        pl.concat_str(pl.col("campaign"), pl.lit("-"), whole("item_id")).alias("item_id"),
        pl.col("item_feature_1").str.head(_DIGITS).alias("category_id"),
        whole("position").alias("position"),
        pl.struct("policy", "campaign", pl.col("propensity_score").alias("propensity"), *hashes).alias(
            "context"
        ),
        "click",
    )


def _campaign(folder: Path, policy: str, campaign: str) -> pl.DataFrame:
    log = scan_text(folder / policy / campaign / f"{campaign}.csv", required=_REQUIRED).with_columns(
        whole("item_id").alias("_item")
    )
    items = scan_text(folder / "bts" / campaign / "item_context.csv", required=("item_id", "item_feature_1"))
    items = items.select(whole("item_id").alias("_item"), "item_feature_1", "item_feature_3")
    time = pl.col("timestamp").str.to_datetime("%Y-%m-%d %H:%M:%S%.f%z", strict=False, time_zone="UTC")
    return (
        log.join(items, on="_item", how="left", maintain_order="left")
        .select(
            time.dt.epoch("ms").alias("event_time"),
            pl.format("obd-{}-{}-{}", pl.lit(policy), pl.lit(campaign), pl.col("_row") - 1).alias(
                "impression_id"
            ),
            pl.format("{}-{}-{}", pl.lit(policy), pl.lit(campaign), time.dt.epoch("us")).alias("request_id"),
            pl.lit(policy).alias("policy"),
            pl.lit(campaign).alias("campaign"),
            *_REQUIRED[1:],
            "item_feature_1",
            "item_feature_3",
        )
        .collect()
    )


def _segments(table: pl.DataFrame) -> pl.DataFrame:
    """User features -> segment id; a digest of our own, because polars' hash differs between versions."""
    unique = table.select(_FEATURES).unique(maintain_order=True).drop_nulls()
    digests = [
        hashlib.blake2b("|".join(row).encode(), digest_size=8).hexdigest() for row in unique.iter_rows()
    ]
    return unique.with_columns(pl.Series("user_id", digests, dtype=pl.String))
