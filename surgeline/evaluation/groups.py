"""The columns by which an evaluation is cut: segments, buckets of time, lists."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from surgeline.evaluation.predictions import CONTEXT

#: Context fields with more values than this are ids, not segments.
MOST_VALUES = 64
#: Of a segment with many values the most frequent are shown, the rest together.
TOP = 8
OTHER = "other"
#: Time buckets are the narrowest of these with at most MOST_BUCKETS of them.
WIDTHS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)
MOST_BUCKETS = 90
COARSE_BUCKETS = 16

TRUTH_FLAGS = ("hot", "sold_out", "bot", "new_item", "shifted", "intent")

Codes = npt.NDArray[np.int64]


class Grouping(NamedTuple):
    """A cut of all rows: ``codes`` (n,) into ``values``."""

    name: str
    meaning: str
    values: list[str]
    codes: Codes


class Buckets(NamedTuple):
    """Buckets of event time; only those with rows. ``codes`` (n,) into ``start_ms``."""

    width_s: float
    start_ms: list[int]
    codes: Codes


def groupings(rows: pl.DataFrame) -> list[Grouping]:
    """Every segment that the columns of ``rows`` allow and that has more than one value."""
    found = [_positions(rows["position"]), _history(rows["item_seen"])]
    found.append(_top("category", "the item's category", rows["category_id"]))
    for name in rows.columns:
        if name.startswith(CONTEXT) and 1 < rows[name].n_unique() <= MOST_VALUES:
            field = name.removeprefix(CONTEXT)
            found.append(_top(field, f"context field {field}", rows[name]))
    for name in TRUTH_FLAGS:
        if name in rows.columns:
            flag = rows[name].cast(pl.Boolean).fill_null(False).to_numpy().astype(np.int64)
            found.append(Grouping(name, "truth of the simulation", ["no", "yes"], flag))
    return [group for group in found if len(np.unique(group.codes)) > 1]


def buckets(times: npt.NDArray[np.int64], most: int = MOST_BUCKETS) -> Buckets:
    """The narrowest nice width with at most ``most`` buckets over the span of ``times`` (ms)."""
    if not len(times):
        return Buckets(float(WIDTHS_S[0]), [], np.empty(0, dtype=np.int64))
    first, last = int(times.min()), int(times.max())
    width = next((w for w in WIDTHS_S if last // (w * 1000) - first // (w * 1000) < most), 0)
    if not width:
        width = -(-(last - first + 1) // (1000 * 86_400 * (most - 1))) * 86_400
    starts, codes = np.unique(times // (width * 1000), return_inverse=True)
    return Buckets(float(width), (starts * width * 1000).tolist(), codes.astype(np.int64))


def coarse(times: npt.NDArray[np.int64]) -> Codes:
    """Codes 0 .. COARSE_BUCKETS - 1 of equal stretches of time."""
    if not len(times):
        return np.empty(0, dtype=np.int64)
    first, last = int(times.min()), int(times.max())
    return (times - first) * COARSE_BUCKETS // (last - first + 1)


def lists(rows: pl.DataFrame) -> tuple[Codes, npt.NDArray[np.bool_], int]:
    """(list of each row that has one, which rows have one, number of lists) by ``request_id``."""
    has = (rows["request_id"] != "").to_numpy()
    codes = rows.filter(pl.Series(has))["request_id"].rank("dense").to_numpy().astype(np.int64) - 1
    return codes, has, int(codes.max(initial=-1)) + 1


def _positions(positions: pl.Series) -> Grouping:
    """Positions by themselves up to 12 of them, else in steps that widen."""
    values = positions.to_numpy()
    if len(np.unique(values)) <= 12:
        distinct, codes = np.unique(values, return_inverse=True)
        return Grouping("position", "place in the list", [str(v) for v in distinct], codes)
    edges = np.array([0, 1, 2, 3, 5, 10, 20, 50])
    names = ["0", "1", "2", "3-4", "5-9", "10-19", "20-49", "50+"]
    return _compact("position", "place in the list", names, np.searchsorted(edges, values, side="right") - 1)


def _history(seen: pl.Series) -> Grouping:
    edges = np.array([0, 1, 10, 100, 1000])
    names = ["0 (new)", "1-9", "10-99", "100-999", "1000+"]
    codes = np.searchsorted(edges, seen.to_numpy(), side="right") - 1
    meaning = "earlier impressions of the item in the log"
    return _compact("item history", meaning, names, codes)


def _top(name: str, meaning: str, column: pl.Series) -> Grouping:
    counts = column.value_counts(sort=True)
    # Equal counts by name, so that the cut does not depend on the order of threads.
    counts = counts.sort("count", column.name, descending=[True, False])
    values = counts[column.name].head(TOP if counts.height > TOP + 1 else TOP + 1).to_list()
    lookup = pl.DataFrame({"value": values, "code": np.arange(len(values))})
    codes = (
        pl.DataFrame({"value": column})
        .join(lookup, on="value", how="left", maintain_order="left")["code"]
        .fill_null(len(values))
        .to_numpy()
        .astype(np.int64)
    )
    if counts.height > len(values):
        values.append(f"{OTHER} ({counts.height - len(values):,})")
    return Grouping(name, meaning, [value or "(empty)" for value in values], codes)


def _compact(name: str, meaning: str, names: list[str], codes: Codes) -> Grouping:
    used, compacted = np.unique(codes, return_inverse=True)
    return Grouping(name, meaning, [names[k] for k in used.tolist()], compacted.astype(np.int64))
