"""The report's tables: learners, cadences, segments, and what was run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from replay.report.charts import spark
from replay.report.schema import Bootstrap, Difference, Estimate, Evaluation, Interval, Segment
from replay.report.svg import padded
from replay.report.text import between, count, duration, moment, number, share, signed, text


def table(head: Sequence[str], rows: Iterable[str], kind: str = "") -> str:
    """A table that scrolls sideways inside its card where it must."""
    cells = "".join(f"<th>{text(h)}</th>" for h in head)
    head_row, body = f"<thead><tr>{cells}</tr></thead>", "".join(rows)
    return f'<div class="scroll"><table class="{kind}">{head_row}<tbody>{body}</tbody></table></div>'


def chip(value: float | None, interval: Interval | None, digits: int, more_is_better: bool = True) -> str:
    """A difference, green or red where its interval leaves zero out."""
    if value is None:
        return ""
    sure = interval is not None and (interval.low > 0 or interval.high < 0)
    kind = "same" if not sure else "better" if (value > 0) == more_is_better else "worse"
    return f'<span class="chip {kind}">{signed(value, digits)}</span>'


def _figure(value: float | None, interval: Interval | None, digits: int) -> str:
    return f"<td>{number(value, digits)}<small>{between(interval, digits)}</small></td>"


def _estimate(estimate: Estimate) -> str:
    figures = estimate.figures
    gain = chip(estimate.auc_difference, estimate.auc_difference_interval, 4)
    loss = chip(estimate.log_loss_difference, estimate.log_loss_difference_interval, 5, more_is_better=False)
    return (
        _figure(figures.auc, estimate.auc, 4)
        + f"<td>{gain}<small>{between(estimate.auc_difference_interval, 4, sign=True)}</small></td>"
        + _figure(figures.log_loss, estimate.log_loss, 4)
        + f"<td>{loss}<small>{between(estimate.log_loss_difference_interval, 4, sign=True)}</small></td>"
        + _figure(figures.pcoc, estimate.pcoc, 3)
    )


def learners(found: Evaluation, colour: Mapping[str, str]) -> str:
    """One row a learner; the champion stands out."""
    rows = []
    for row in found.learners:
        kind = ' class="best"' if row.name == found.champion else ""
        mrr = f"<td>{number(row.mrr, 4)}</td>" if found.lists is not None else ""
        rows.append(
            f'<tr{kind}><td class="name"><i class="key {colour[row.name]}"></i>{text(row.name)}</td>'
            f"{_estimate(row.estimate)}{mrr}</tr>"
        )
    head = ["", "AUC", "over frozen", "log loss", "over frozen", "PCOC"]
    if found.lists is not None:
        head.append("MRR")
        place = number(found.lists.mrr_by_position, 4)
        rows.append(f'<tr><td class="name">logged order</td>{"<td></td>" * 5}<td>{place}</td></tr>')
    return table(head, rows)


def experts(found: Evaluation, names: Sequence[str], colour: Mapping[str, str]) -> str:
    """One row a learner: its weight on average over the steps and in the last one, and how often it leads."""
    entries = [entry.weights for entry in found.expert_weights]
    # At even weights nobody leads.
    leads = [max(row, key=row.__getitem__) for row in entries if max(row.values()) > min(row.values())]
    rows = (
        f'<tr><td class="name"><i class="key {colour[name]}"></i>{text(name)}</td>'
        f"<td>{number(sum(row[name] for row in entries) / len(entries), 3)}</td>"
        f"<td>{number(entries[-1][name], 3)}</td><td>{leads.count(name)}</td></tr>"
        for name in names
    )
    return table(["", "mean weight", "in the last step", "steps in the lead"], rows)


def cadences(found: Evaluation) -> str:
    """One row a cadence."""
    rows = (
        f'<tr><td class="name">{text(arm.name)}</td>{_estimate(arm.estimate)}{_step(arm.step)}</tr>'
        for arm in found.cadence
    )
    head = ["weights every", "AUC", "over frozen", "log loss", "over frozen", "PCOC"]
    return table([*head, "AUC over the row above", "log loss"], rows)


def _step(step: Difference | None) -> str:
    if step is None:
        return "<td></td><td></td>"
    auc = chip(step.auc, step.auc_interval, 4)
    loss = chip(step.log_loss, step.log_loss_interval, 5, more_is_better=False)
    return (
        f"<td>{auc}<small>{between(step.auc_interval, 4, sign=True)}</small></td>"
        f"<td>{loss}<small>{between(step.log_loss_interval, 5, sign=True)}</small></td>"
    )


def segment(part: Segment, champion: str, colour: Mapping[str, str], total: int) -> str:
    """One row a value: frozen head and champion side by side, with AUC through the log."""
    lines = [v for row in part.rows for column in row.auc_over_time.values() for v in column if v is not None]
    bounds = padded(sorted(lines)[len(lines) // 50 : -(len(lines) // 50) or None])
    rows = []
    for row in part.rows:
        frozen, best = row.learners.get("frozen"), row.learners.get(champion)
        if frozen is None or best is None:
            continue
        gain = best.auc - frozen.auc if best.auc is not None and frozen.auc is not None else None
        rate = share(row.positives / row.samples) if row.samples else number(None)
        cells = [
            f"{count(row.samples)}<small>{share(row.samples / max(total, 1))}</small>",
            rate,
            *(number(frozen.auc, 3), number(best.auc, 3), f"<strong>{signed(gain, 3)}</strong>"),
            *(number(frozen.pcoc, 2), number(best.pcoc, 2)),
            spark(row.auc_over_time, colour, bounds),
        ]
        values = "".join(f"<td>{cell}</td>" for cell in cells)
        name = text(row.value)
        rows.append(f'<tr><td class="name" title="{name}">{name}</td>{values}</tr>')
    head = [
        "",
        "impressions",
        "clicked",
        "AUC frozen",
        "AUC learned",
        "gain",
        "PCOC frozen",
        "learned",
        "AUC over time",
    ]
    return table(head, rows, "slim")


def features(found: Evaluation) -> str:
    """One row a real-time feature, the most worth first."""
    rows = (
        f'<tr><td class="name">{text(one.name)}</td><td>{_share(one.gain_share)}</td>'
        f"<td>{number(one.auc, 3)}</td><td>{_share(one.known)}</td></tr>"
        for one in sorted(found.features, key=lambda one: -(one.gain_share or 0.0))
    )
    return table(["", "share of the head's gain", "AUC alone", "known"], rows, "slim")


def _share(value: float | None) -> str:
    return number(None) if value is None else share(value)


def bootstrap_words(bootstrap: Bootstrap | None) -> str:
    """How the intervals came about."""
    if bootstrap is None:
        return "Too few users for confidence intervals."
    return (
        f"Intervals: {bootstrap.level:.0%}, bootstrap over {bootstrap.units:,} {bootstrap.unit}s "
        f"({bootstrap.replicates:,} draws of {bootstrap.groups} groups of whole users, seed "
        f"{bootstrap.seed}); differences are paired. They speak about other users in the "
        "same stretch of time."
    )


def run(found: Evaluation) -> str:
    """Everything needed to run it again, and what the engine counted."""
    about, counts = found.run, found.counts
    actions = ", ".join(f"{name} {n:,}" for name, n in counts.actions.items() if n) or "none"
    rows: list[tuple[str, str]] = [
        ("command", f"<code>{text(about.command)}</code>"),
        ("log", text(about.log)),
        ("span", f"{moment(about.first_ms)} to {moment(about.last_ms)} UTC"),
        ("scenario", f"{text(about.scenario)} <code>sha256 {text(about.scenario_sha256)}</code>"),
        ("trunk", f"<code>{text(about.trunk_hash)}</code><br>{text(about.trunk_trained_on)}"),
        ("weights digest", f"<code>{text(about.weights_digest)}</code>"),
        (
            "engine",
            f"{counts.events:,} events, {counts.impressions:,} impressions, actions: {text(actions)}; "
            f"{counts.behaviours:,} behaviours",
        ),
        ("ticks", f"{counts.ticks:,} of event time with events; {counts.late:,} late events"),
        ("left out", _left_out(found)),
        ("took", duration(about.seconds) + _trained(about.training_seconds)),
        ("version", f"surgeline {text(about.version)}, Python {text(about.python)}"),
    ]
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows) + "</dl>"


def _trained(seconds: float) -> str:
    return f", training {duration(seconds)}" if seconds >= 0.1 else ""


def _left_out(found: Evaluation) -> str:
    counts = found.counts
    parts = {
        "rows that are no events": counts.refused_rows,
        "events refused": counts.refused_events,
        "duplicates": counts.duplicates,
        "actions without their impression": counts.orphans_waiting + counts.orphans_expired,
        "actions after their label closed": counts.actions_after_label,
    }
    return ", ".join(f"{n:,} {name}" for name, n in parts.items() if n) or "nothing"
