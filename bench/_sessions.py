"""What trivago's users did with hotels besides lists: ``actions.parquet`` beside the impressions."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from bench._registry import BenchError
from bench._rows import touches_of
from replay.log import RecordedLog

#: Rows of the sessions that name a hotel in ``reference``.
ABOUT_ITEMS = ("clickout item", "search for item")
INTERACTION = "interaction item"


def touches_and_lists(
    log: RecordedLog, events: pl.DataFrame, shown: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Touches of items (``user_id``, ``item_id``, ``event_time``), and ``shown`` for them to be joined to.

    Both have ``session_id`` and ``step`` where the sessions lie beside the log, so that what happened in one
    second keeps its order; else the log's own actions are the touches.
    """
    folder = next((file.parent for file in getattr(log, "files", ())), None)
    if folder is None or not (folder / "actions.parquet").is_file():
        return touches_of(events), shown
    try:
        return _touches(folder / "actions.parquet"), _with_steps(shown, folder)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BenchError(f"{folder}: cannot be read as trivago's sessions: {error}") from error


def _touches(file: Path) -> pl.DataFrame:
    kind = pl.col("action_type")
    return (
        pl.scan_parquet(file)
        .filter(kind.is_in(ABOUT_ITEMS) | kind.str.starts_with(INTERACTION))
        .select(
            "user_id",
            pl.col("reference").cast(pl.String).alias("item_id"),
            (pl.col("timestamp").cast(pl.Int64) * 1000).alias("event_time"),
            "session_id",
            pl.col("step").cast(pl.Int64),
        )
        .collect()
    )


def _with_steps(shown: pl.DataFrame, folder: Path) -> pl.DataFrame:
    lists = (
        pl.scan_parquet(folder / "impressions.parquet")
        .select(
            pl.col("imp_id").cast(pl.String).alias("request_id"),
            "session_id",
            pl.col("step").cast(pl.Int64),
        )
        .unique("request_id")
        .collect()
    )
    return shown.join(lists, on="request_id", how="left", maintain_order="left")
