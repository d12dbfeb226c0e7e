"""Ali-CCP: Taobao recommendation impressions with clicks and conversions, without a clock.

Source: "Alibaba Click and Conversion Prediction" (Tianchi 408; Ma et al., "Entire Space Multi-Task Model",
SIGIR 2018). ``sample_skeleton_*.csv`` without header: sample_id, click, conversion, common_feature_index,
feature_num, feature_list; ``common_features_*.csv`` beside it: common_feature_index, feature_num,
feature_list. A feature list separates features by \\x01, and in each ``field \\x02 feature \\x03 value``.

- Fields: 101 user, 205 item, 206 category, 207 shop; 216 brand and 301 (a categorical position) go into the
  context with the user's profile, 121 to 129.
- There is no time: rows come one a millisecond in file order from 2017-01-01 UTC, 1,000 a second. Clicks and
  conversions have the time of their impression.
- A conversion without a click contradicts the data set's own definition: such a row is refused.

The skeleton is streamed; of the common features a user and a profile per index are held in memory (730,000
in the training part).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from replay.adapters.tables import batches, find_file, flag, matches, require_file, scan_text
from replay.errors import LogNotFoundError
from replay.source import Label, TableLog, Tally, label_events

TITLE = "Ali-CCP: recommendation impressions with clicks and conversions, without a clock"
MISSING = "put sample_skeleton_train.csv and common_features_train.csv (Tianchi 408) into data/aliccp"

#: 2017-01-01 00:00 UTC in ms.
BASE_MS = 1_483_228_800_000
#: The training part where both are there.
_FILES = ("sample_skeleton_train.csv", "sample_skeleton*.csv")
_SKELETON = ("sample_id", "click", "conversion", "common_feature_index", "feature_num", "feature_list")
_COMMON = ("common_feature_index", "feature_num", "feature_list")
_PROFILE = ("121", "122", "124", "125", "126", "127", "128", "129")


def find() -> Path | None:
    """The skeleton file where it is found."""
    return find_file("aliccp", _FILES)


def open_path(path: Path | None = None) -> TableLog:
    """The log in ``path``, else where it is found."""
    skeleton = require_file("aliccp", _FILES, path)
    needed = skeleton.name.removesuffix(".gz").replace("sample_skeleton", "common_features")
    beside = matches(skeleton.parent, [needed])
    if not beside:
        raise LogNotFoundError(f"aliccp: {skeleton} needs {needed} beside it, for its users")
    common = beside[0]

    def source(rows: int, tally: Tally) -> Iterator[pl.DataFrame]:
        users = _users(common)
        labels = [Label("click", flag("click")), Label("purchase", flag("conversion"))]
        for part in batches(scan_text(skeleton, _SKELETON, quote=None), rows):
            joined = part.join(users, on="common_feature_index", how="left", maintain_order="left")
            yield label_events(joined.with_columns(_columns()), labels)

    return TableLog("aliccp", source, delayed=True, files=[skeleton, common])


def feature(field: str) -> pl.Expr:
    """The feature id of ``field`` in ``feature_list``, null where it has none."""
    return pl.col("feature_list").str.extract(f"(?:^|\\x01){field}\\x02([^\\x01\\x02\\x03]+)")


def _users(common: Path) -> pl.DataFrame:
    table = scan_text(common, _COMMON, quote=None)
    profile = [feature(field).alias(f"field_{field}") for field in _PROFILE]
    users = table.select("common_feature_index", feature("101").alias("user_id"), *profile)
    return users.collect(engine="streaming").unique("common_feature_index", keep="first", maintain_order=True)


def _columns() -> list[pl.Expr]:
    contradiction = flag("conversion") & ~flag("click")
    return [
        (BASE_MS + pl.col("_row").cast(pl.Int64) - 1).alias("event_time"),
        pl.format("aliccp-{}", "sample_id").alias("impression_id"),
        feature("205").alias("item_id"),
        feature("206").alias("category_id"),
        feature("207").alias("shop_id"),
        pl.struct(
            feature("216").alias("brand"),
            feature("301").alias("position"),
            *(f"field_{field}" for field in _PROFILE),
        ).alias("context"),
        pl.when(contradiction).then(pl.lit("conversion is 1 where click is 0")).alias("_reason"),
    ]
