"""KuaiRand: short-video impressions with clicks, likes, and randomly exposed items.

Source: Gao et al., "KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos"
(CIKM 2022), 2022-04-08 to 05-08. Files ``log_*.csv``: user_id, video_id, date, hourmin, time_ms, is_click,
is_like, is_follow, is_comment, is_forward, is_hate, long_view, play_time_ms, duration_ms,
profile_stay_time, comment_stay_time, is_profile_enter, is_rand, tab.

- ``is_click`` is a click (in the one-column feed: a valid play), ``is_like`` a favourite. Follows, comments,
  forwards and hates have no counterpart in the event contract: they are left out and counted.
- Actions have the time of their impression: the log has no other.
- Context: tab (the scenario), is_rand (randomly exposed), duration_ms.

The files overlap in time and are sorted by user: they are sorted together in memory (KuaiRand-Pure and 1K
fit a laptop; 27K takes about 100 GB). Row numbers count through the files in the order of their names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from replay.adapters.tables import batches, find_file, flag, require_files, scan_text, time_ordered, whole
from replay.source import Label, TableLog, Tally, label_events

TITLE = "KuaiRand: short-video impressions with clicks, likes, random exposure"
MISSING = "put the log_*.csv files (kuairand.com) into data/kuairand"

_FILES = ("log_*.csv", "data/log_*.csv")
_LEFT_OUT = ("is_follow", "is_comment", "is_forward", "is_hate")
_CONTEXT = ("tab", "is_rand", "duration_ms")
_REQUIRED = ("user_id", "video_id", "time_ms", "is_click", "is_like", *_LEFT_OUT, *_CONTEXT)


def find() -> Path | None:
    """The first of the files where they are found."""
    return find_file("kuairand", _FILES)


def open_path(path: Path | None = None) -> TableLog:
    """The log in ``path`` (a file, or a folder of files), else where it is found."""
    files = require_files("kuairand", _FILES, path)
    labels = [Label("click", flag("is_click")), Label("favourite", flag("is_like"))]

    def source(rows: int, tally: Tally) -> Iterator[pl.DataFrame]:
        table = time_ordered(scan_text(files, required=_REQUIRED), whole("time_ms"))
        columns = [
            "_row",
            whole("time_ms").alias("event_time"),
            pl.format("kuairand-{}", "_row").alias("impression_id"),
            "user_id",
            pl.col("video_id").alias("item_id"),
            pl.struct(*_CONTEXT).alias("context"),
            "is_click",
            "is_like",
            *_LEFT_OUT,
        ]
        for part in batches(table.select(columns), rows):
            for name, count in (
                part.select(flag(name).sum().alias(name) for name in _LEFT_OUT).row(0, named=True).items()
            ):
                tally.leave_out(name, count)
            yield label_events(part, labels)

    return TableLog("kuairand", source, delayed=True, files=files)
