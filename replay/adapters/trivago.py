"""Trivago hotel lists and sessions: real impressions with prices, positions, clicks, and what came before.

Source: RecSys Challenge 2019 sessions. ``impressions.parquet`` has the lists expanded to one shown hotel a
row: imp_id, timestamp (s), user_id, session_id, step, platform, city, device, current_filters, item_id,
price, position, clicked. One imp_id is one list of up to 25 hotels. ``actions.parquet`` beside it has the
sessions: user_id, session_id, timestamp, step, action_type, reference, and platform to current_filters.

- ``impression_id`` is ``<imp_id>-<position>``, ``request_id`` the list. The click has the list's time: the
  log times the click-out only, and shows the list at that time.
- A list always has exactly one click; lists without one were never logged. It measures ranking, not the
  absolute click rate.
- Every session row is a behaviour of its ``action_type``, except the click-outs that are the lists. A
  ``reference`` of digits is the item that was meant, any other one what was chosen or searched (``query``).
- Times are whole seconds. The rank of a step among those of the same user and second (999 at most) is taken
  for its milliseconds, so that a session keeps its order by ``step``.
- Texts are cut to 256 characters, the contract's bound. ``session_id`` and ``step`` stand in the context.
- Without ``actions.parquet`` there are no behaviours. Its rows are counted on from the impressions' last.

Impressions are streamed; the keys of all steps and the behaviours are in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from contracts.events import BEHAVIOUR
from contracts.limits import MAX_ID
from replay.adapters.tables import batches, find_file, require_file, time_ordered
from replay.errors import LogError
from replay.source import Label, TableLog, Tally, label_events

TITLE = "Trivago hotel lists (RecSys 2019): impressions with prices, positions, clicks; sessions"
MISSING = (
    "put impressions.parquet (expanded RecSys Challenge 2019 lists) and actions.parquet into data/trivago"
)

_FILES = ("impressions.parquet",)
_SESSIONS = "actions.parquet"
_CONTEXT = ("platform", "city", "device")
_STEP = ["user_id", "session_id", "timestamp", "step"]
#: A second has room for so many steps of a user.
_LAST_MS = 999


def find() -> Path | None:
    """The file where it is found."""
    return find_file("trivago", _FILES)


def open_path(path: Path | None = None) -> TableLog:
    """The log in ``path``, a folder or its impressions, else where it is found."""
    file = require_file("trivago", _FILES, path)
    sessions = file.with_name(_SESSIONS)
    files = [file, sessions] if sessions.is_file() else [file]

    def source(rows: int, tally: Tally) -> Iterator[pl.DataFrame]:
        try:
            yield from _merged(files, rows)
        except (pl.exceptions.PolarsError, OSError) as error:
            where = " and ".join(map(str, files))
            raise LogError(f"{where}: cannot be read as trivago lists and sessions: {error}") from error

    return TableLog("trivago", source, delayed=True, files=files)


def _merged(files: list[Path], rows: int) -> Iterator[pl.DataFrame]:
    """Canonical batches, each of whole seconds."""
    lists = pl.scan_parquet(files[0], row_index_name="_row", row_index_offset=1)
    shown = lists.select(pl.len()).collect().item()
    sessions = [
        pl.scan_parquet(file, row_index_name="_row", row_index_offset=shown + 1) for file in files[1:]
    ]
    places = _places([table.select(_STEP) for table in (lists, *sessions)])
    looks = _behaviours(sessions[0], lists, places) if sessions else None
    held: pl.DataFrame | None = None
    for part in batches(time_ordered(lists, pl.col("timestamp")), rows):
        held = part if held is None else pl.concat([held, part])
        # More of the last second may come with the next batch.
        last = held["timestamp"].max()
        over = held["timestamp"] < last
        if over.any():
            looks, due = _split(looks, last)
            yield _events(held.filter(over), due, places)
            held = held.filter(~over | over.is_null())
    if held is not None:
        yield _events(held, looks, places)
    elif looks is not None:
        yield looks.drop("timestamp")


def _split(looks: pl.DataFrame | None, second: object) -> tuple[pl.DataFrame | None, pl.DataFrame | None]:
    """Behaviours from ``second`` on, and those before it."""
    if looks is None or not isinstance(second, int):
        return looks, None
    cut = looks["timestamp"].search_sorted(second, side="left")
    return looks.slice(cut), looks.head(cut)


def _places(tables: list[pl.LazyFrame]) -> pl.DataFrame:
    """Every step once, with ``at_ms``: its time with its place among its user's in that second."""
    place = pl.struct("step", "session_id").rank("ordinal").over("user_id", "timestamp").cast(pl.Int64) - 1
    at = pl.col("timestamp") * 1000 + place.clip(0, _LAST_MS)
    steps = pl.concat(tables).unique(_STEP).sort("timestamp")
    return steps.with_columns(at.alias("at_ms")).collect()


def _events(part: pl.DataFrame, looks: pl.DataFrame | None, places: pl.DataFrame) -> pl.DataFrame:
    """Lists with their clicks, and behaviours."""
    first, last = part["timestamp"].min(), part["timestamp"].max()
    near = places.filter(pl.col("timestamp").is_between(first, last))
    timed = part.join(near, on=_STEP, how="left", maintain_order="left", nulls_equal=True)
    lists = timed.sort("at_ms", maintain_order=True).select(_columns())
    events = label_events(lists, [Label("click", pl.col("clicked") == 1)])
    if looks is None or not looks.height:
        return events
    return pl.concat([events, looks.drop("timestamp")], how="diagonal")


def _columns() -> list[pl.Expr]:
    return [
        pl.col("_row"),
        pl.col("at_ms").alias("event_time"),
        pl.format("{}-{}", "imp_id", "position").alias("impression_id"),
        pl.col("imp_id").cast(pl.String).alias("request_id"),
        pl.col("user_id", "item_id").cast(pl.String),
        pl.col("position", "price", "clicked"),
        _context(),
    ]


def _context() -> pl.Expr:
    return pl.struct(
        *_CONTEXT,
        pl.col("current_filters").cast(pl.String).str.head(MAX_ID),
        "session_id",
        pl.col("step").cast(pl.String),
    ).alias("context")


def _behaviours(sessions: pl.LazyFrame, lists: pl.LazyFrame, places: pl.DataFrame) -> pl.DataFrame:
    """Canonical behaviours in order of time, with ``timestamp``."""
    is_list = lists.select(*_STEP, pl.lit("clickout item").alias("action_type")).unique()
    own = sessions.join(is_list, on=[*_STEP, "action_type"], how="anti")
    timed = own.join(places.lazy(), on=_STEP, how="left", nulls_equal=True)
    item = pl.col("reference").str.contains(r"^\d+$")
    columns = [
        pl.col("_row", "timestamp"),
        pl.lit(BEHAVIOUR).alias("event"),
        pl.col("at_ms").alias("event_time"),
        pl.col("user_id"),
        pl.col("action_type").alias("type"),
        pl.when(item).then("reference").alias("item_id"),
        pl.when(~item).then(pl.col("reference").str.head(MAX_ID)).alias("query"),
        _context(),
    ]
    return timed.sort("timestamp", "at_ms", "_row").select(columns).collect()
