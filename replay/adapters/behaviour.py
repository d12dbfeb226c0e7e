"""Behaviour logs: page views, carts, favourites and purchases, without impression ids.

These logs say that a user looked at an item's page, not what was shown in a list. A page view is therefore
taken as the impression: one item in front of one user. It gets no click of its own, because a label that is
always 1 teaches nothing; carts, favourites and purchases are the labels. An action belongs to the latest
earlier page view of the same user and item; where there is none, the action's own row makes an implicit
impression at the same time, so that no action is lost and the counts of actions stay exact.

A page view is what the user did, too: it is a behaviour of type ``view`` beside its impression, for what
looks at a user's path. Rows that are neither (`BEHAVIOUR`) are behaviours alone.

Attribution looks back over the whole log: the columns that are used are held in memory, about 100 bytes an
event (100 million events: 10 GB). A log that is not in time order is sorted in memory as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import polars as pl

from contracts.events import ACTION, BEHAVIOUR, IMPRESSION
from contracts.limits import MAX_RECORDED_TIME, MIN_EVENT_TIME
from replay.source import Tally

IMPLICIT = "impressions for actions that have no earlier page view"
VIEW = "view"
_OF_BEHAVIOURS = (
    *("event_time", "user_id", "item_id", "category_id", "shop_id"),
    *("type", "query", "value", "context"),
)


def kinds(column: str, names: Mapping[str, str]) -> tuple[pl.Expr, pl.Expr, pl.Expr]:
    """(kind, type, reason): the source's words in ``column`` as `IMPRESSION`, an action or `BEHAVIOUR`, the
    type of the row's behaviour, and why it is none of them."""
    kind = pl.col(column).replace_strict(dict(names), default=None, return_dtype=pl.String)
    allowed = ", ".join(names)
    reason = pl.when(kind.is_null()).then(
        pl.format("{} {} is not one of {}", pl.lit(column), pl.col(column).fill_null("''"), pl.lit(allowed))
    )
    told = pl.when(kind == IMPRESSION).then(pl.lit(VIEW)).when(kind == BEHAVIOUR).then(pl.col(column))
    return kind.alias("kind"), told.alias("type"), reason.alias("_reason")


def attributed(name: str, table: pl.DataFrame, rows: int, tally: Tally) -> Iterator[pl.DataFrame]:
    """Canonical batches of behaviour rows in time order.

    ``table``: ``_row``, ``event_time`` (ms), ``user_id``, ``item_id``, ``kind`` and ``_reason`` as `kinds`
    makes them, and any further canonical columns of an impression; ``value`` is for actions and rows that are
    behaviours alone. A row with a ``type`` makes a behaviour of it. A row with a reason is refused and takes
    no part.

    >>> rows = pl.DataFrame({"_row": [1, 2, 3], "event_time": [1_700_000_000_000] * 3, "user_id": ["u"] * 3,
    ...     "item_id": ["a", "a", "b"], "kind": ["impression", "cart", "purchase"], "_reason": [None] * 3})
    >>> list(attributed("log", rows, 10, Tally()))[0]["impression_id"].to_list()
    ['log-1', 'log-3', 'log-1', 'log-3']
    """
    pair = ["user_id", "item_id"]
    told = pl.col("kind") == BEHAVIOUR
    # A behaviour may be of no item.
    item = told | ((pl.col("item_id") != "") & pl.col("item_id").is_not_null())
    known = pl.all_horizontal(
        pl.col("user_id", "kind", "event_time").is_not_null(), pl.col("user_id") != "", item
    )
    in_time = pl.col("event_time").is_between(MIN_EVENT_TIME, MAX_RECORDED_TIME)
    usable = known & in_time & pl.col("_reason").is_null()
    mark = table.select(usable.alias("usable"))["usable"]
    if not mark.all():
        # They cannot be attributed; the check that follows refuses and reports them.
        yield (
            table.filter(~mark)
            .select("_row", "_reason", "event_time", "user_id", "item_id", "kind")
            .with_columns(
                event=pl.when(told).then(pl.lit(BEHAVIOUR)).otherwise(pl.lit(IMPRESSION)),
                type=pl.when(told).then(pl.lit(VIEW)),
                impression_id=pl.format("{}-{}", pl.lit(name), pl.col("_row")),
            )
            .drop("kind")
        )
        table = table.filter(mark)
    opens = (pl.col("kind") == IMPRESSION) | (~told & pl.struct(*pair, told).is_first_distinct())
    table = table.with_columns(opens.alias("opens")).with_columns(
        pl.when("opens").then("_row").forward_fill().over(pair).alias("shown")
    )
    for part in table.iter_slices(rows):
        yield _events(name, part, tally)


def _events(name: str, part: pl.DataFrame, tally: Tally) -> pl.DataFrame:
    ids = pl.format("{}-{}", pl.lit(name), pl.col("shown")).alias("impression_id")
    part = part.with_columns(ids)
    impressions = part.filter("opens")
    tally.make_up(IMPLICIT, impressions.filter(pl.col("kind") != IMPRESSION).height)
    drop = [
        column for column in ("kind", "opens", "shown", "value", "type", "query") if column in part.columns
    ]
    columns = ["_row", "event_time", "impression_id", "user_id", "item_id"]
    columns += [column for column in ("value",) if column in part.columns]
    actions = part.filter(~pl.col("kind").is_in([IMPRESSION, BEHAVIOUR]))
    events = [
        impressions.drop(drop).with_columns(event=pl.lit(IMPRESSION)),
        actions.select(*columns, pl.col("kind").alias("action"), pl.lit(ACTION).alias("event")),
    ]
    if "type" in part.columns:
        own = ["_row", *(name for name in _OF_BEHAVIOURS if name in part.columns)]
        told = part.filter(pl.col("type").is_not_null()).select(own)
        if "value" in told.columns:
            told = told.with_columns(pl.when(pl.col("type") != VIEW).then("value").alias("value"))
        events.append(told.with_columns(event=pl.lit(BEHAVIOUR)))
    return pl.concat(events, how="diagonal")
