"""An evaluation in a few lines of text; ``–`` stands where a figure is undefined."""

from __future__ import annotations

from collections.abc import Iterator

from replay.report.schema import Estimate, Evaluation, Interval

UNDEFINED = "–"


def lines(found: Evaluation) -> Iterator[str]:
    """What the command prints."""
    run, counts = found.run, found.counts
    ctr = counts.row_positives / counts.rows if counts.rows else 0.0
    yield (
        f"{run.log}: {counts.rows:,} impressions, {counts.row_positives:,} clicked ({ctr:.2%}), "
        f"{counts.users:,} users, {counts.items:,} items; {counts.events:,} events in {counts.ticks:,} ticks"
    )
    trained = f" in {run.training_seconds:.1f} s" if run.training_seconds >= 0.1 else ""
    yield f"trunk   {run.trunk_hash[:12]} ({run.trunk_trained_on}{trained})"
    yield f"weights {run.weights_digest}"
    yield ""
    yield f"{'learner':<18}{'AUC':>8}{'log loss':>10}{'PCOC':>8}{'MRR':>8}  AUC against frozen"
    for row in found.learners:
        yield f"{row.name:<18}{_figures(row.estimate)}{_number(row.mrr, 4):>8}  {_gain(row.estimate)}"
    if found.lists is not None:
        place = _number(found.lists.mrr_by_position, 4)
        yield f"{'logged order':<18}{'':>26}{place:>8}  ({found.lists.lists_with_click:,} lists with a click)"
    if found.cadence:
        yield ""
        yield f"{'weights every':<18}{'AUC':>8}{'log loss':>10}{'PCOC':>8}{'':>8}  AUC against frozen"
        for arm in found.cadence:
            yield f"{arm.name:<18}{_figures(arm.estimate)}{'':>8}  {_gain(arm.estimate)}"
    yield ""
    yield from found.notes
    yield f"{run.seconds:.1f} s: {counts.events / max(run.seconds, 1e-9):,.0f} events/s with figures"


def _figures(estimate: Estimate) -> str:
    figures = estimate.figures
    return f"{_number(figures.auc, 4):>8}{_number(figures.log_loss, 5):>10}{_number(figures.pcoc, 3):>8}"


def _gain(estimate: Estimate) -> str:
    if estimate.auc_difference is None:
        return ""
    return f"{estimate.auc_difference:+.4f}{_interval(estimate.auc_difference_interval)}"


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f" [{interval.low:+.4f}, {interval.high:+.4f}]"


def _number(value: float | None, digits: int) -> str:
    return UNDEFINED if value is None else f"{value:.{digits}f}"
