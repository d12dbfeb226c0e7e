"""Row-level predictions: one Parquet row a sample, written as samples close, in bounded memory.

The engine's samples carry ids, labels and predictions; what else the log says about an impression waits
here until its sample closes, which is the label window at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import polars as pl

from replay.columns import IMPRESSION, context_type
from replay.simulate.parquet import RowGroupWriter
from state.joins.join import Closed

#: Prefix of a learner's column, of a cadence's, and of a context field's.
LEARNER, CADENCE, CONTEXT = "p_", "cadence_", "context_"
#: Rows that are joined and written at once.
FLUSH_ROWS = 65_536
_TEXTS = ("user_id", "item_id", "category_id", "shop_id", "request_id")

Float32Array = npt.NDArray[np.float32]


class Predictions:
    """Writes ``path``: ids, event_time (ms), label, mask (bits of ``contracts.events.ACTIONS``),
    tick_learned (number of the tick), item_seen (earlier impressions of the item in the log), context
    fields, and one float32 column a learner (``p_<name>``) and a cadence (``cadence_<name>``).

    Rows with ``event_time`` before ``from_ms`` are left out.
    """

    def __init__(
        self, path: Path, learners: Sequence[str], cadences: Sequence[str] = (), from_ms: int = 0
    ) -> None:
        self.path = path
        self.rows = 0
        self.learners, self.cadences = list(learners), list(cadences)
        self._from_ms = from_ms
        self._writer = RowGroupWriter(path)
        self._context: list[str] | None = None
        self._waiting: list[pl.DataFrame] = []
        self._closed: list[tuple[int, Closed, Float32Array]] = []
        self._closed_rows = 0
        self._seen: dict[str, int] = {}

    def see(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Count a canonical frame's impressions by item; returns them with ``item_seen``."""
        shown = frame.filter(pl.col("event") == IMPRESSION)
        counts = shown["item_id"].value_counts()
        before = pl.Series([self._seen.get(item, 0) for item in counts["item_id"].to_list()], dtype=pl.Int64)
        for item, count in counts.iter_rows():
            self._seen[item] = self._seen.get(item, 0) + count
        within = pl.int_range(pl.len()).over("item_id")
        return shown.join(
            counts.select("item_id", before.alias("before")), on="item_id", how="left", maintain_order="left"
        ).with_columns((within + pl.col("before")).cast(pl.Int64).alias("item_seen"))

    def offer(self, frame: pl.DataFrame) -> None:
        """Remember what a canonical frame says about its impressions. Call before the engine has it."""
        shown = self.see(frame)
        kind = context_type(frame)
        have = {field.name for field in kind.fields} if kind is not None else set()
        if self._context is None:
            # The columns of a Parquet file are fixed by its first rows.
            self._context = sorted(have)
        self._waiting.append(
            shown.select(
                pl.col("impression_id").cast(pl.String),
                pl.col("event_time").cast(pl.Int64),
                *(_text(name, name in frame.columns) for name in _TEXTS),
                _number("position", pl.Int32(), frame),
                _number("price", pl.Float64(), frame),
                pl.col("item_seen"),
                *(
                    (pl.col("context").struct.field(name) if name in have else pl.lit(None, dtype=pl.String))
                    .fill_null("")
                    .alias(CONTEXT + name)
                    for name in self._context
                ),
            )
        )

    def add(self, tick: int, closed: Closed, cadences: Float32Array) -> None:
        """Samples that tick ``tick`` learns, with the predictions of each cadence (n, arms)."""
        # Not the inputs: they are the largest part, and nothing here needs them.
        slim = Closed(
            np.empty((0, 0), dtype=np.float32),
            closed.predictions,
            closed.labels,
            closed.masks,
            closed.shown,
            closed.ticks,
        )
        self._closed.append((tick, slim, cadences))
        self._closed_rows += len(closed.labels)

    def settle(self, labels_until: int) -> None:
        """Write what has closed; impressions before ``labels_until`` (ms) wait no longer."""
        if self._closed_rows >= FLUSH_ROWS:
            self._flush()
            waiting = pl.concat(self._waiting)
            self._waiting = [waiting.filter(pl.col("event_time") >= labels_until)]

    def close(self) -> None:
        """Write the rest and finish the file; it exists with its columns where there were no rows too."""
        self._flush()
        self._writer.close()

    def __enter__(self) -> Predictions:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._writer.discard()

    def _flush(self) -> None:
        closed, self._closed, self._closed_rows = self._closed, [], 0
        if not self._waiting:
            self.offer(pl.DataFrame(schema={"event": pl.String, **_EMPTY}))
        known = pl.concat(self._waiting).unique("impression_id", keep="first", maintain_order=True)
        self._waiting = [known]
        rows = self._frame(closed).join(known, on="impression_id", how="left", maintain_order="left")
        first = ["impression_id", "event_time", "label", "mask", "tick_learned"]
        scores = [name for name in rows.columns if name.startswith((LEARNER, CADENCE))]
        rest = [name for name in rows.columns if name not in first and name not in scores]
        rows = rows.select(*first, *rest, *scores).filter(pl.col("event_time") >= self._from_ms)
        self.rows += rows.height
        self._writer.write(rows)

    def _frame(self, closed: list[tuple[int, Closed, Float32Array]]) -> pl.DataFrame:
        ids = [name for _, part, _ in closed for name in part.shown.ids]
        sizes = [len(part.labels) for _, part, _ in closed]
        ticks = np.repeat(np.array([tick for tick, _, _ in closed], dtype=np.int64), sizes)
        columns: dict[str, pl.Series] = {
            "impression_id": pl.Series(ids, dtype=pl.String),
            "label": _joined([part.labels for _, part, _ in closed], np.uint8),
            "mask": _joined([part.masks for _, part, _ in closed], np.uint8),
            "tick_learned": pl.Series(ticks),
        }
        for k, name in enumerate(self.learners):
            columns[LEARNER + name] = _joined([part.predictions[:, k] for _, part, _ in closed], np.float32)
        for k, name in enumerate(self.cadences):
            columns[CADENCE + name] = _joined([arms[:, k] for _, _, arms in closed], np.float32)
        return pl.DataFrame(columns)


_EMPTY = {
    "impression_id": pl.String,
    "event_time": pl.Int64,
    **dict.fromkeys(_TEXTS, pl.String),
    "position": pl.Int64,
    "price": pl.Float64,
}


def _joined(parts: list[npt.NDArray[np.generic]], dtype: type) -> pl.Series:
    return pl.Series(np.concatenate([np.empty(0, dtype), *parts]).astype(dtype))


def _text(name: str, there: bool) -> pl.Expr:
    column = pl.col(name).cast(pl.String) if there else pl.lit(None, dtype=pl.String)
    return column.fill_null("").alias(name)


def _number(name: str, dtype: pl.DataType, frame: pl.DataFrame) -> pl.Expr:
    column = pl.col(name) if name in frame.columns else pl.lit(None)
    return column.cast(dtype).fill_null(0).alias(name)
