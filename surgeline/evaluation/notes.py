"""Notes of an evaluation, in words: what its figures leave out, and what they cannot say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from models.deep.trunk import EMPTY_BASE_RATE
from replay.report.schema import Counts, Fitted
from stream.engine import Engine
from surgeline.times import stamp


def notes(
    engine: Engine,
    counts: Counts,
    *,
    fitted: Fitted | None,
    intervals: bool,
    from_ms: int | None,
    warm: bool,
    bad_rows: Sequence[tuple[int, str]],
    refused_because: str,
    cut: int,
) -> Iterator[str]:
    """What a reader should know, the most important first.

    ``fitted``: which of the rows the trunk was fitted to. ``bad_rows``: (row number, reason) of the first
    rows that are no events; ``refused_because``: why the first event was refused; ``cut``: impressions whose
    label window reaches beyond the end that --limit made.
    """
    if engine.trunk.hash == "none":
        yield (
            f"Without a trunk, frozen predicts {EMPTY_BASE_RATE:.0%} for everything: gains over it are not "
            "gains over a model. --until-train or --trunk give it one."
        )
    if fitted is not None and fitted.rows:
        yield _seen(fitted, counts.rows)
    yield from _labels(engine, counts)
    if cut:
        yield (
            f"{cut:,} impressions came so late before the end that --limit made that clicks on them may be "
            "cut off, and missing from rates and PCOC."
        )
    if not intervals:
        yield "Too few users for confidence intervals."
    if counts.refused_rows:
        first = f"; the first: row {bad_rows[0][0]:,}, {bad_rows[0][1]}" if bad_rows else ""
        yield f"{counts.refused_rows:,} rows of the log are no events and were left out{first}."
    if counts.refused_events:
        yield f"{counts.refused_events:,} events were refused; the first: {refused_because}."
    orphans = counts.orphans_waiting + counts.orphans_expired
    if orphans:
        before = " (with --cold it may have come before the start)" if from_ms and not warm else ""
        yield f"{orphans:,} actions found no impression and count for nothing{before}."
    if counts.duplicates:
        yield f"{counts.duplicates:,} duplicates were dropped."
    for name, count in engine.panel.skipped.items():
        if count:
            limit = engine.scenario.learners.river_samples_per_tick
            river = name.startswith("river_")
            why = f"it learns at most {limit} a tick" if river else "a value is out of bounds"
            yield f"{name}: {count:,} samples were predicted and not learned from: {why}."
    if from_ms is not None:
        yield (
            "Real-time features know what the trunk was trained on; learners begin, and figures are of what "
            "comes, where the training data end."
            if warm
            else "Real-time features and learners start cold where the training data end (--cold): features "
            "of users and items that the training data have begin as unknown, as they never were in training."
        )


def _seen(fitted: Fitted, rows: int) -> str:
    """The trunk knows rows that it is judged on: its own figures flatter, and all that begin from them."""
    part = f"{fitted.rows:,} of {rows:,} evaluated impressions ({fitted.share:.1%})"
    when = f"from {stamp(fitted.first_ms)} to {stamp(fitted.last_ms)}"
    flatter = "figures are better than they will be on new ones. --until-train judges later rows only."
    if fitted.same_log:
        of_log = f"those of {fitted.log} {when}"
        return f"The trunk was fitted to {part}, {of_log}: it has seen their clicks, and {flatter}"
    return (
        f"{part} lie in the time that the trunk was fitted to ({fitted.log}, {when}). If that log has the "
        f"same rows, it has seen their clicks, and {flatter}"
    )


def _labels(engine: Engine, counts: Counts) -> Iterator[str]:
    """What the label window made of the clicks."""
    window = f"the label window of {engine.scenario.times.label_window_s:g} s (times.label_window_s)"
    clicks = counts.actions.get("click", 0)
    # An impression keeps one click: what did not make it positive came after its label had closed.
    later = clicks - counts.positives
    if not counts.row_positives:
        why = "" if clicks else " The log has no clicks, which are what is predicted."
        yield f"No impression was clicked within the label window: AUC and PCOC are undefined.{why}"
    elif counts.row_positives == counts.rows:
        yield "Every impression was clicked: AUC is undefined."
    if later > 0:
        yield f"{later:,} of {clicks:,} clicks came after {window}: their impressions count as not clicked."
