"""From a predictions file to figures: everything here can be computed again from that file alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from contracts.errors import SurgelineError
from contracts.weights import LearnerMetrics
from replay.report.schema import (
    Bootstrap,
    CadenceArm,
    Difference,
    ExpertWeights,
    Figures,
    HotItem,
    LearnerRow,
    Lists,
    ReliabilityBin,
    Segment,
    SegmentRow,
    TimeLine,
)
from surgeline.evaluation.figures import Codes, Scored
from surgeline.evaluation.groups import (
    COARSE_BUCKETS,
    MOST_BUCKETS,
    TRUTH_FLAGS,
    Buckets,
    Grouping,
    buckets,
    coarse,
    groupings,
    lists,
)
from surgeline.evaluation.mixture import expert_weights
from surgeline.evaluation.predictions import CADENCE, LEARNER
from surgeline.evaluation.resample import Draws, Resampler, estimate

#: The true click probability as a learner among learners: what nobody can beat on average.
TRUTH = "truth"
FROZEN, CHAMPION = "frozen", "last_layer"
RELIABILITY_BINS = 12
HOT_ITEMS = 10
#: AUC and log loss over time are shown in buckets with about this many clicks, on average, at least.
CLICKS_A_BUCKET = 25


class AnalysisError(SurgelineError, ValueError):
    """The figures cannot be made; the message says what is missing."""


class Analysis(NamedTuple):
    """The parts of an evaluation that come from rows."""

    rows: int
    positives: int
    users: int
    items: int
    first_ms: int | None
    last_ms: int | None
    learners: list[LearnerRow]
    lists: Lists | None
    segments: list[Segment]
    timeline: TimeLine
    reliability: dict[str, list[ReliabilityBin]]
    hot_items: list[HotItem]
    cadence: list[CadenceArm]
    bootstrap: Bootstrap | None
    expert_weights: list[ExpertWeights]
    quality: TimeLine
    times: npt.NDArray[np.int64]

    def shown_after(self, ms: int) -> int:
        """Rows later than ``ms``."""
        return int((self.times > ms).sum())

    def shown_within(self, first_ms: int, last_ms: int) -> int:
        """Rows from ``first_ms`` to ``last_ms``, both included."""
        return int(((self.times >= first_ms) & (self.times <= last_ms)).sum())


def analyse(
    path: Path,
    learners: Sequence[str],
    cadences: Sequence[tuple[str, float | None]] = (),
    truth: Path | None = None,
    binned: dict[str, LearnerMetrics] | None = None,
    seed: int = 0,
) -> Analysis:
    """Read the predictions in ``path``; ``truth`` is a simulation's side file.

    Memory: the ids and labels of all rows, and one learner's predictions at a time.
    """
    rows = _rows(path, truth)
    clicked = (rows["label"] > 0).to_numpy()
    times = rows["event_time"].to_numpy()
    line, cuts, thirds = buckets(times), groupings(rows), coarse(times)
    user_ids = rows["user_id"].rank("dense").to_numpy().astype(np.int64) - 1
    users = int(user_ids.max(initial=-1)) + 1
    resampler = Resampler(user_ids, users, clicked, seed)
    list_codes, listed, list_count = lists(rows)
    wide = buckets(times, min(max(int(clicked.sum()) // CLICKS_A_BUCKET, 2), MOST_BUCKETS))
    timeline, quality = _timeline(line, clicked), _timeline(wide, clicked)
    segments = [_segment(cut, clicked) for cut in cuts]
    table: list[LearnerRow] = []
    losses: dict[str, npt.NDArray[np.float64]] = {}
    reliability: dict[str, list[ReliabilityBin]] = {}
    reference: tuple[Scored, Draws | None] | None = None
    names = [*learners, *([TRUTH] if truth is not None else [])]
    for name in names:
        scored = Scored(_column(path, rows, name), clicked)
        draws = resampler.draws(scored) if resampler.usable else None
        if name == FROZEN:
            reference = (scored, draws)
        against = reference if name not in (FROZEN, TRUTH) else None
        figures = scored.figures()
        table.append(
            LearnerRow(
                name=name,
                estimate=estimate(
                    figures,
                    draws,
                    against[0].figures() if against else None,
                    against[1] if against else None,
                ),
                mrr=_mrr(scored, list_codes, listed, list_count),
                binned_auc=binned[name].auc if binned and name in binned else None,
            )
        )
        reliability[name] = _reliability(scored)
        _add_to_timeline(timeline, line, name, scored)
        _add_to_timeline(quality, wide, name, scored)
        if name != TRUTH:
            losses[name] = scored.loss_sums(line.codes, len(line.start_ms))
        for segment, cut in zip(segments, cuts, strict=True):
            _add_to_segment(segment, cut, thirds, name, scored)
    return Analysis(
        rows=rows.height,
        positives=int(clicked.sum()),
        users=users,
        items=rows["item_id"].n_unique() if rows.height else 0,
        first_ms=int(times.min()) if rows.height else None,
        last_ms=int(times.max()) if rows.height else None,
        learners=table,
        lists=_lists(rows, clicked, list_codes, listed, list_count),
        segments=segments,
        timeline=timeline,
        reliability=reliability,
        hot_items=_hot_items(rows, line),
        cadence=_cadence(path, cadences, clicked, resampler, reference),
        bootstrap=resampler.meta if resampler.usable else None,
        expert_weights=expert_weights(line.start_ms, losses),
        quality=quality,
        times=times,
    )


def open_truth(truth: Path) -> pl.LazyFrame:
    """A truth file's ids, click probabilities and flags. Raises ``AnalysisError`` where it is none."""
    try:
        side = pl.scan_parquet(truth)
        names = set(side.collect_schema().names())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise AnalysisError(f"{truth}: cannot be read as a truth file: {error}") from error
    if not {"impression_id", "p_click"} <= names:
        raise AnalysisError(f"{truth}: not a truth file: it needs impression_id and p_click")
    flags = [name for name in TRUTH_FLAGS if name in names]
    return side.select("impression_id", pl.col("p_click").cast(pl.Float32), *flags)


def _rows(path: Path, truth: Path | None) -> pl.DataFrame:
    table = pl.scan_parquet(path)
    scores = [n for n in table.collect_schema().names() if n.startswith((LEARNER, CADENCE))]
    rows = table.drop(scores).collect()
    if truth is None:
        return rows
    side = open_truth(truth)
    try:
        side_rows = side.collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise AnalysisError(f"{truth}: cannot be read as a truth file: {error}") from error
    joined = rows.join(
        side_rows.unique("impression_id", keep="first"),
        on="impression_id",
        how="left",
        maintain_order="left",
    )
    unknown = joined["p_click"].null_count()
    if unknown:
        raise AnalysisError(
            f"{truth}: knows {rows.height - unknown:,} of the {rows.height:,} impressions; is it of this log?"
        )
    return joined


def _column(path: Path, rows: pl.DataFrame, name: str) -> npt.NDArray[np.float32]:
    if name == TRUTH:
        return rows["p_click"].to_numpy()
    return pl.read_parquet(path, columns=[LEARNER + name]).to_series().to_numpy()


def _mrr(scored: Scored, codes: Codes, listed: npt.NDArray[np.bool_], count: int) -> float | None:
    if not count:
        return None
    part = scored if listed.all() else Scored(scored.scores[listed], scored.clicked[listed])
    return part.mrr(codes, count)


def _lists(
    rows: pl.DataFrame,
    clicked: npt.NDArray[np.bool_],
    codes: Codes,
    listed: npt.NDArray[np.bool_],
    count: int,
) -> Lists | None:
    long = np.bincount(codes, minlength=count) > 1
    if not long.any():
        return None
    clicks = np.bincount(codes, weights=clicked[listed], minlength=count)
    # Places from the top: the higher the score the better.
    order = Scored(-rows["position"].to_numpy()[listed].astype(np.float32), clicked[listed])
    return Lists(
        lists=int(long.sum()),
        lists_with_click=int((long & (clicks > 0)).sum()),
        mrr_by_position=order.mrr(codes, count),
    )


def _timeline(line: Buckets, clicked: npt.NDArray[np.bool_]) -> TimeLine:
    count = len(line.start_ms)
    return TimeLine(
        bucket_s=line.width_s,
        start_ms=line.start_ms,
        impressions=np.bincount(line.codes, minlength=count).tolist(),
        clicks=np.bincount(line.codes[clicked], minlength=count).tolist(),
        predicted={},
        auc={},
        log_loss={},
    )


def _add_to_timeline(timeline: TimeLine, line: Buckets, name: str, scored: Scored) -> None:
    count = len(line.start_ms)
    figures = scored.by(line.codes, count)
    timeline.predicted[name] = scored.predicted(line.codes, count).tolist()
    timeline.auc[name] = [f.auc for f in figures]
    timeline.log_loss[name] = [f.log_loss for f in figures]


def _segment(cut: Grouping, clicked: npt.NDArray[np.bool_]) -> Segment:
    count = len(cut.values)
    rows = np.bincount(cut.codes, minlength=count).tolist()
    clicks = np.bincount(cut.codes[clicked], minlength=count).tolist()
    return Segment(
        name=cut.name,
        meaning=cut.meaning,
        rows=[
            SegmentRow(
                value=value,
                samples=n,
                positives=k,
                learners={},
                auc_over_time={},
                log_loss_over_time={},
            )
            for value, n, k in zip(cut.values, rows, clicks, strict=True)
        ],
    )


def _add_to_segment(segment: Segment, cut: Grouping, thirds: Codes, name: str, scored: Scored) -> None:
    for row, figures in zip(segment.rows, scored.by(cut.codes, len(cut.values)), strict=True):
        row.learners[name] = figures
    if name not in (FROZEN, CHAMPION):
        return
    cells = scored.by(cut.codes * COARSE_BUCKETS + thirds, len(cut.values) * COARSE_BUCKETS)
    for k, row in enumerate(segment.rows):
        part = cells[k * COARSE_BUCKETS : (k + 1) * COARSE_BUCKETS]
        row.auc_over_time[name] = [f.auc for f in part]
        row.log_loss_over_time[name] = [f.log_loss for f in part]


def _reliability(scored: Scored) -> list[ReliabilityBin]:
    """Bins of about equally many rows, from the lowest predictions to the highest."""
    if not len(scored.scores):
        return []
    edges = np.unique(np.quantile(scored.scores, np.linspace(0.0, 1.0, RELIABILITY_BINS + 1)[1:-1]))
    codes = np.searchsorted(edges, scored.scores, side="left")
    n = np.bincount(codes)
    predicted, clicks = scored.predicted(codes, len(n)), np.bincount(codes, weights=scored.clicked)
    means, rates = predicted / np.maximum(n, 1), clicks / np.maximum(n, 1)
    return [
        ReliabilityBin(samples=int(n[k]), predicted=float(means[k]), observed=float(rates[k]))
        for k in np.flatnonzero(n).tolist()
    ]


def _hot_items(rows: pl.DataFrame, line: Buckets) -> list[HotItem]:
    """The items with the most clicks, with their traffic by bucket."""
    totals = rows.group_by("item_id").agg(pl.col("label").sum().cast(pl.Int64), pl.len())
    top = totals.filter(pl.col("label") > 0).sort("label", "len", "item_id", descending=[True, True, False])
    names = top["item_id"].head(HOT_ITEMS).to_list()
    frame = rows.select("item_id", "label").with_columns(pl.Series("bucket", line.codes))
    count = len(line.start_ms)
    hot = []
    for name in names:
        part = frame.filter(pl.col("item_id") == name)
        codes, label = part["bucket"].to_numpy(), part["label"].to_numpy()
        hot.append(
            HotItem(
                item_id=name,
                impressions=np.bincount(codes, minlength=count).tolist(),
                clicks=np.bincount(codes[label > 0], minlength=count).tolist(),
            )
        )
    return hot


def _cadence(
    path: Path,
    cadences: Sequence[tuple[str, float | None]],
    clicked: npt.NDArray[np.bool_],
    resampler: Resampler,
    reference: tuple[Scored, Draws | None] | None,
) -> list[CadenceArm]:
    frozen = None if reference is None else (reference[0].figures(), reference[1])
    arms: list[CadenceArm] = []
    before: tuple[Figures, Draws | None] | None = None
    for name, seconds in cadences:
        column = LEARNER + FROZEN if seconds is None else CADENCE + name
        scored = Scored(pl.read_parquet(path, columns=[column]).to_series().to_numpy(), clicked)
        figures, draws = scored.figures(), resampler.draws(scored) if resampler.usable else None
        against = (frozen or (None, None)) if seconds is not None else (None, None)
        step = None
        if before is not None:
            found = estimate(figures, draws, *before)
            step = Difference(
                to=arms[-1].name,
                auc=found.auc_difference,
                log_loss=found.log_loss_difference,
                auc_interval=found.auc_difference_interval,
                log_loss_interval=found.log_loss_difference_interval,
            )
        arms.append(
            CadenceArm(name=name, every_s=seconds, estimate=estimate(figures, draws, *against), step=step)
        )
        before = figures, draws
    return arms
