"""From arrays to the canonical log frame and the truth frame."""

from __future__ import annotations

from itertools import product

import numpy as np
import polars as pl

from contracts.events import ACTIONS
from replay.columns import ACTION, BEHAVIOUR, COLUMNS, IMPRESSION
from replay.simulate.catalog import CHANNELS, DEVICES
from replay.simulate.pending import BEHAVIOURS, ORDER

#: Larger families get their names written out instead of looked up, so that memory stays bounded.
TABLE_LIMIT = 2_000_000

TRUTH_SCHEMA: dict[str, pl.DataType] = {
    "impression_id": pl.String(),
    "p_click": pl.Float32(),
    "p_cart": pl.Float32(),
    "p_favourite": pl.Float32(),
    "p_purchase": pl.Float32(),
    "p_refund": pl.Float32(),
    "p_click_item": pl.Float32(),
    "hot": pl.Boolean(),
    "sold_out": pl.Boolean(),
    "bot": pl.Boolean(),
    "new_item": pl.Boolean(),
    "shifted": pl.Boolean(),
    "intent": pl.Boolean(),
}


class Names:
    """Names such as ``u123`` of ``n`` things; index -1 is null.

    >>> frame = pl.DataFrame({"item": [2, -1]})
    >>> frame.select(Names("i", 3).of("item"))["item"].to_list()
    ['i2', None]
    """

    def __init__(self, prefix: str, n: int) -> None:
        self._prefix = prefix
        self._table = table(prefix, np.arange(n)) if n <= TABLE_LIMIT else None

    def of(self, column: str) -> pl.Expr:
        """The names of the indices in ``column``, String."""
        index = pl.col(column)
        if self._table is not None:
            # The table ends with a null, and -1 counts from the end.
            return pl.lit(self._table).gather(index).alias(column)
        return pl.when(index >= 0).then(numbered(self._prefix, column)).alias(column)


def numbered(prefix: str, column: str) -> pl.Expr:
    """``prefix`` followed by each of the numbers in ``column``, String."""
    return pl.concat_str(pl.lit(prefix), pl.col(column).cast(pl.String)).alias(column)


def table(prefix: str, numbers: np.ndarray) -> pl.Series:
    """Names of ``numbers`` (m,) and a null at the end, String (m + 1,)."""
    names = pl.DataFrame({"n": numbers}).select(numbered(prefix, "n"))["n"]
    return pl.concat([names, pl.Series("n", [None], dtype=pl.String)]).rechunk()


class FrameMaker:
    """Writes blocks of one stream as frames; ``seed`` is part of the ids, so that streams do not collide."""

    def __init__(self, seed: int, users: int, items: int, categories: int, shops: int) -> None:
        self._seed = seed
        self._names = {
            "user_id": Names("u", users),
            "item_id": Names("i", items),
            "category_id": Names("c", categories),
            "shop_id": Names("s", shops),
        }
        # Row 0: an impression; then the actions in their order, and the behaviours.
        self._event = pl.Series([IMPRESSION, *[ACTION] * len(ACTIONS), *[BEHAVIOUR] * len(BEHAVIOURS)])
        self._action = pl.Series([None, *ACTIONS, *[None] * len(BEHAVIOURS)])
        self._type = pl.Series([*[None] * (1 + len(ACTIONS)), *BEHAVIOURS])
        self._first_behaviour = 1 + len(ACTIONS)
        rows: list[dict[str, str] | None] = [
            {"device": device, "channel": channel} for device, channel in product(DEVICES, CHANNELS)
        ]
        kind = pl.Struct({"device": pl.String(), "channel": pl.String()})
        self._context = pl.Series([*rows, None], dtype=kind)

    def log(self, events: dict[str, np.ndarray]) -> pl.DataFrame:
        """The canonical frame of n events in their order.

        ``events``: arrays (n,) under the canonical names; ids are indices, ``impression_id`` and
        ``request_id`` running numbers, ``event`` the index in ``ORDER``. What is -1 is null, and so are
        ``position`` and ``price`` of all but impressions and ``value`` of all but actions. A search's query
        is the name of its category.
        """
        request = events["request_id"]
        # Requests are numbered in order, so the names of a block's are a short table.
        first = int(request[request >= 0].min(initial=2**62))
        last = int(request.max(initial=-1))
        requests = table(f"r{self._seed}-", np.arange(first, last + 1))
        frame = pl.DataFrame(events | {"request_id": np.where(request < 0, -1, request - first)})
        shown = pl.col("event") == 0
        joined = pl.col("event") < self._first_behaviour
        searched = pl.col("event") == ORDER.index("search")
        return frame.select(
            pl.lit(self._event).gather(pl.col("event")).alias("event"),
            "event_time",
            pl.when(joined).then(numbered(f"{self._seed}-", "impression_id")),
            *(names.of(column) for column, names in self._names.items()),
            pl.when(shown).then(pl.col("position")),
            pl.when(shown).then(pl.col("price")),
            pl.lit(requests).gather(pl.col("request_id")).alias("request_id"),
            pl.lit(self._context).gather(pl.col("context")).alias("context"),
            pl.lit(self._action).gather(pl.col("event")).alias("action"),
            pl.when(joined & ~shown).then(pl.col("value")),
            pl.when(shown & (pl.col("stock") >= 0)).then(pl.col("stock").cast(pl.Float64)),
            pl.lit(self._type).gather(pl.col("event")).alias("type"),
            pl.when(searched).then(self._names["category_id"].of("category_id")).alias("query"),
        ).select(COLUMNS)

    def truth(self, columns: dict[str, np.ndarray]) -> pl.DataFrame:
        """The truth frame of n impressions in the log's order; ``impression_id`` is a running number."""
        frame = pl.DataFrame(columns)
        named = frame.with_columns(numbered(f"{self._seed}-", "impression_id"))
        return named.cast(pl.Schema(TRUTH_SCHEMA)).select(list(TRUTH_SCHEMA))
