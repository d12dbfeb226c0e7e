"""Logs that come from tables: refuse bad rows loudly, order the rest, count both.

An adapter maps batches of source rows to canonical rows with their row number in ``_row`` (1 is the first
data row). `TableLog` does what all of them need: it checks every row, refuses a source row as a whole,
orders, slices and counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from replay.adapters.tables import unreadable
from replay.columns import ACTION, IMPRESSION, conform, context_type, flattened, refusals
from replay.log import CHUNK_ROWS, LogInfo, summarise
from replay.order import in_order, in_slices

EXAMPLES = 5
_IMPRESSION_COLUMNS = (
    *("event_time", "impression_id", "user_id", "item_id", "category_id", "shop_id"),
    *("position", "price", "stock", "request_id", "context"),
)


@dataclass(slots=True)
class Tally:
    """What the latest pass over a log did not turn into events.

    ``examples``: the first few refused rows, (row number, reason). ``left_out``: rows that are fine but
    have no counterpart in the event contract, ``made_up``: events that the source implies only; both by
    what they are.
    """

    refused: int = 0
    examples: list[tuple[int, str]] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    made_up: dict[str, int] = field(default_factory=dict)

    def refuse(self, rows: pl.DataFrame) -> None:
        """Count refused rows; columns ``_row`` and ``_reason``, one row a source row."""
        self.refused += rows.height
        room = EXAMPLES - len(self.examples)
        if room > 0:
            self.examples += rows.select("_row", "_reason").head(room).rows()

    def leave_out(self, what: str, count: int) -> None:
        if count:
            self.left_out[what] = self.left_out.get(what, 0) + count

    def make_up(self, what: str, count: int) -> None:
        if count:
            self.made_up[what] = self.made_up.get(what, 0) + count

    def text(self) -> str:
        """One line for people, empty where everything became an event."""
        parts = []
        if self.refused:
            rows = "; ".join(f"row {row}: {reason}" for row, reason in self.examples)
            more = ", ..." if self.refused > len(self.examples) else ""
            parts.append(f"{self.refused:,} rows refused ({rows}{more})")
        if self.left_out:
            what = ", ".join(f"{count:,} {name}" for name, count in sorted(self.left_out.items()))
            parts.append(f"left out, no such event: {what}")
        if self.made_up:
            what = ", ".join(f"{count:,} {name}" for name, count in sorted(self.made_up.items()))
            parts.append(f"made up: {what}")
        return "; ".join(parts)


#: Yields canonical batches with ``_row``, and ``_reason`` where the adapter itself refuses a row; counts into
#: the tally what it leaves out.
Source = Callable[[int, Tally], Iterable[pl.DataFrame]]


class TableLog:
    """A recorded log over mapped batches of source rows.

    ``delayed``: the source's impressions are in time order and actions may lie ahead (one source row is
    an impression with its labels); otherwise all events are in time order. ``files``: what is read, for
    a guess at the size.
    """

    def __init__(self, name: str, source: Source, *, delayed: bool, files: Sequence[Path] = ()) -> None:
        self.name = name
        self.files = tuple(files)
        self.tally = Tally()
        self._source = source
        self._delayed = delayed

    def info(self) -> LogInfo:
        """Count the log; reads all of it."""
        return summarise(self)

    def chunks(self, rows: int = CHUNK_ROWS) -> Iterator[pl.DataFrame]:
        """Canonical frames of at most ``rows`` rows in event-time order; ``tally`` is of this pass."""
        tally = self.tally = Tally()
        good = (_checked(batch, tally) for batch in self._source(rows, tally))
        try:
            yield from in_slices(in_order(good, delayed=self._delayed), rows)
        except (pl.exceptions.PolarsError, OSError) as error:
            # Tables are read lazily: what is wrong inside a file shows here, in whatever pass comes first.
            raise unreadable(", ".join(map(str, self.files)) or self.name, error) from error


def _checked(batch: pl.DataFrame, tally: Tally) -> pl.DataFrame:
    context = context_type(batch)
    frame = conform(batch, context)
    reasons = flattened(frame).select(refusals(context).alias("_reason"))["_reason"]
    if "_reason" in batch.columns:
        reasons = batch.select(pl.coalesce("_reason", reasons))["_reason"]
    if reasons.null_count() == frame.height:
        return frame
    refused = pl.DataFrame({"_row": batch["_row"], "_reason": reasons}).drop_nulls("_reason")
    # A source row that makes an impression and a click is refused as a whole: half of it would be a
    # click without an impression, or an impression that looks unclicked.
    refused = refused.unique("_row", keep="first", maintain_order=True).sort("_row")
    tally.refuse(refused)
    return frame.filter(~batch["_row"].is_in(refused["_row"].implode()))


@dataclass(frozen=True, slots=True)
class Label:
    """How a column of an impression row makes an action.

    ``when``: Boolean expression. ``time``: ms UTC, the impression's own where ``None``. ``value``: money.
    """

    action: str
    when: pl.Expr
    time: pl.Expr | None = None
    value: pl.Expr | None = None


def label_events(impressions: pl.DataFrame, labels: Sequence[Label]) -> pl.DataFrame:
    """Long canonical rows of ``impressions`` (canonical columns, ``_row`` and what ``labels`` read).

    >>> rows = pl.DataFrame({"_row": [1, 2], "event_time": [10, 20], "impression_id": ["a", "b"],
    ...     "user_id": ["u", "u"], "item_id": ["x", "y"], "hit": [0, 1]})
    >>> label_events(rows, [Label("click", pl.col("hit") == 1)])["event"].to_list()
    ['impression', 'impression', 'action']
    """
    have = [name for name in _IMPRESSION_COLUMNS if name in impressions.columns]
    own = [name for name in ("_reason",) if name in impressions.columns]
    parts = [impressions.select("_row", *own, pl.lit(IMPRESSION).alias("event"), *have)]
    for label in labels:
        time = label.time if label.time is not None else pl.col("event_time")
        wrong = (
            pl.when(time.is_null())
            .then(pl.lit(f"{label.action} has no time"))
            .when(time < pl.col("event_time"))
            .then(pl.lit(f"{label.action} is earlier than its impression"))
        )
        value = label.value if label.value is not None else pl.lit(None, dtype=pl.Float64)
        parts.append(
            impressions.filter(label.when).select(
                "_row",
                pl.lit(ACTION).alias("event"),
                time.cast(pl.Int64).alias("event_time"),
                "impression_id",
                "user_id",
                "item_id",
                pl.lit(label.action).alias("action"),
                value.cast(pl.Float64).alias("value"),
                wrong.alias("_reason"),
            )
        )
    return pl.concat(parts, how="diagonal")
