"""An evaluation in a few lines of text; ``–`` stands where a figure is undefined."""

from __future__ import annotations

from collections.abc import Iterator

from replay.report.schema import Difference, Estimate, Evaluation, Interval

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
        head = f"{'weights every':<18}{'AUC':>8}{'log loss':>10}{'PCOC':>8}  {'AUC against frozen':<28}"
        yield f"{head}log loss against the row above"
        for arm in found.cadence:
            line = f"{arm.name:<18}{_figures(arm.estimate)}  {_gain(arm.estimate):<28}{_step(arm.step)}"
            yield line.rstrip()
    yield ""
    yield from found.notes
    yield f"{run.seconds:.1f} s: {counts.events / max(run.seconds, 1e-9):,.0f} events/s with figures"


def _figures(estimate: Estimate) -> str:
    figures = estimate.figures
    return f"{_number(figures.auc, 4):>8}{_number(figures.log_loss, 5):>10}{_number(figures.pcoc, 3):>8}"


def _gain(estimate: Estimate) -> str:
    if estimate.auc_difference is None:
        return ""
    return f"{estimate.auc_difference:+z.4f}{_interval(estimate.auc_difference_interval)}"


def _step(step: Difference | None) -> str:
    if step is None or step.log_loss is None:
        return ""
    return f"{step.log_loss:+z.5f}{_interval(step.log_loss_interval, 5)}"


def _interval(interval: Interval | None, digits: int = 4) -> str:
    return "" if interval is None else f" [{interval.low:+z.{digits}f}, {interval.high:+z.{digits}f}]"


def _number(value: float | None, digits: int) -> str:
    return UNDEFINED if value is None else f"{value:.{digits}f}"
