"""The report: an evaluation as one HTML file that loads nothing and runs no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files

from replay.report import charts, tables
from replay.report.schema import Evaluation
from replay.report.text import colours, count, duration, moment, number, share, text

#: Nothing is loaded: a page that tried to would be blocked by itself.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def render(found: Evaluation) -> str:
    """The whole page."""
    colour = colours([row.name for row in found.learners])
    style = files("replay.report").joinpath("report.css").read_text(encoding="utf-8")
    body = [_header(found), _hero(found), _notes(found), _traffic(found, colour), _learners(found, colour)]
    if found.cadence:
        body.append(_cadence(found))
    body.append(_quality(found, colour))
    if found.expert_weights:
        body.append(_experts(found, colour))
    body.append(_items(found, colour))
    if found.segments:
        body.append(_segments(found, colour))
    if found.features:
        body.append(_features(found))
    body.append(_run(found))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<title>{text(found.run.log)} · Surgeline</title>\n<link rel="icon" href="data:,">\n'
        f"<style>{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def _header(found: Evaluation) -> str:
    run, counts = found.run, found.counts
    ctr = share(counts.row_positives / counts.rows) if counts.rows else number(None)
    words = (
        f"{count(counts.rows)} impressions by {count(counts.users)} users of {count(counts.items)} items, "
        f"{ctr} clicked; {moment(run.first_ms)} to {moment(run.last_ms)} UTC. "
        "Every prediction was made before its label was learned."
    )
    title = f'<div class="brand">Surgeline evaluation</div><h1>{text(run.log)}</h1>'
    return f"<header>{title}<p>{words}</p></header>"


def _hero(found: Evaluation) -> str:
    by_name = {row.name: row for row in found.learners}
    frozen, best = by_name.get("frozen"), by_name.get(found.champion)
    if frozen is None or best is None:
        return ""
    estimate, before = best.estimate, frozen.estimate.figures
    figures = estimate.figures
    gain = tables.chip(estimate.auc_difference, estimate.auc_difference_interval, 4)
    loss = tables.chip(
        estimate.log_loss_difference, estimate.log_loss_difference_interval, 4, more_is_better=False
    )
    stats = [
        ("AUC", number(before.auc, 3), number(figures.auc, 3), gain),
        ("log loss", number(before.log_loss, 3), number(figures.log_loss, 3), loss),
        ("predicted / observed clicks", number(before.pcoc, 2), number(figures.pcoc, 2), "1 is calibrated"),
    ]
    if found.lists is not None:
        place = f"logged order {number(found.lists.mrr_by_position, 3)}"
        stats.append(("MRR of the click in its list", number(frozen.mrr, 3), number(best.mrr, 3), place))
    else:
        rate = found.counts.events / max(found.run.seconds, 1e-9)
        stats.append(("events", "", count(found.counts.events), f"{count(rate)} a second with figures"))
    cards = "".join(
        f'<div class="stat"><div class="what">{what}</div><div class="value">'
        f'{f"<small>{old} →</small> " if old else ""}{new}</div><div class="more">{more}</div></div>'
        for what, old, new, more in stats
    )
    return f'<section class="hero" aria-label="Frozen head to learned head">{cards}</section>'


def _card(title: str, body: str, words: str = "") -> str:
    said = f"<p>{words}</p>" if words else ""
    return f'<section class="card"><h2>{title}</h2>{said}{body}</section>'


def _legend(names: Sequence[str], colour: Mapping[str, str], observed: bool = False) -> str:
    first = '<li class="key box observed-key"><i></i>observed</li>' if observed else ""
    keys = "".join(f'<li class="key {colour[n]}"><i></i>{text(n)}</li>' for n in names)
    return f'<ul class="legend">{first}{keys}</ul>'


def _traffic(found: Evaluation, colour: Mapping[str, str]) -> str:
    line = found.timeline
    names = [n for n in ("frozen", found.champion) if n in line.predicted]
    bucket = duration(line.bucket_s)
    return (
        '<div class="pair">'
        + _card("Arrivals", charts.arrivals(line), f"Impressions a second, in steps of {bucket}.")
        + _card("Click rate", _legend(names, colour, observed=True) + charts.click_rate(line, names, colour))
        + "</div>"
    )


def _learners(found: Evaluation, colour: Mapping[str, str]) -> str:
    words = "AUC is exact, ties count half. PCOC: predicted over observed clicks. " + text(
        tables.bootstrap_words(found.bootstrap)
    )
    if any(row.name == "truth" for row in found.learners):
        words += " Truth: the simulation's own click probability; no learner sees it."
    return _card("Learners", tables.learners(found, colour), words)


def _cadence(found: Evaluation) -> str:
    words = (
        "The same learned head, but the weights that predict are refreshed only every so often (at multiples "
        "of that time, UTC). Real-time features are equally fresh in every arm; frozen never uses them. "
        "What a faster cadence adds is its paired difference to the row above; the intervals of single rows "
        "overlap even where that is certain."
    )
    auc, loss = charts.cadence(found.cadence, "auc"), charts.cadence(found.cadence, "log_loss")
    named = (("AUC over the frozen head", auc), ("Log loss under the frozen head", loss))
    drawn = "".join(f"<div><h3>{title}</h3>{chart}</div>" for title, chart in named if chart)
    pair = f'<div class="pair">{drawn}</div>' if drawn else ""
    return _card("What fresh weights are worth", pair + tables.cadences(found), words)


def _features(found: Evaluation) -> str:
    words = (
        "The head's gain: how much its log loss grows where it gets a feature's mean instead, as a share of "
        "what all these growths add up to. Features that stand in for each other share little each, and what "
        "the hidden layer makes of them is not in it. AUC alone is from binned values; below 0.5, clicks go "
        "with small ones. Known: not the neutral value."
    )
    return _card("What features are worth", tables.features(found), words)


def _quality(found: Evaluation, colour: Mapping[str, str]) -> str:
    line = found.quality or found.timeline
    names = [row.name for row in found.learners]
    step = duration(line.bucket_s)
    few = f"Steps of {step}; those with fewer than {charts.FEWEST_CLICKS} clicks are left open."
    legend = _legend(names, colour)
    return (
        '<div class="pair">'
        + _card("AUC over time", legend + charts.over_time(line, line.auc, colour, "AUC over time"), few)
        + _card(
            "Log loss over time",
            legend + charts.over_time(line, line.log_loss, colour, "Log loss over time"),
            few,
        )
        + "</div>"
    )


def _experts(found: Evaluation, colour: Mapping[str, str]) -> str:
    known = found.expert_weights[0].weights
    names = [row.name for row in found.learners if row.name in known]
    words = (
        "The weights that a Bayesian mixture of the learners would have; nothing is served with them yet. "
        f"They are updated once a step of {duration(found.timeline.bucket_s)} with its summed log loss, from "
        "earlier steps alone; fixed share lets a learner come back."
    )
    chart = charts.expert_weights(found.timeline, found.expert_weights, names, colour)
    pair = f'<div class="pair"><div>{chart}</div><div>{tables.experts(found, names, colour)}</div></div>'
    return _card("Expert weights", pair, words)


def _items(found: Evaluation, colour: Mapping[str, str]) -> str:
    shown = {n: bins for n, bins in found.reliability.items() if n in ("frozen", found.champion, "truth")}
    words = (
        "Impressions in groups of equal size by prediction. Above the diagonal: clicked more than predicted."
    )
    if any(not group.observed for groups in shown.values() for group in groups):
        words += " Groups without a click stand on the lower edge."
    reliability = _card(
        "Calibration", _legend(list(shown), colour) + charts.reliability(shown, colour), words
    )
    if not found.hot_items:
        return f'<div class="pair">{reliability}</div>'
    items = _card(
        "Hot items",
        charts.hot_items(found.hot_items, found.timeline),
        "The most clicked items. The stronger the colour, the more clicks in that step.",
    )
    return f'<div class="pair">{reliability}{items}</div>'


def _segments(found: Evaluation, colour: Mapping[str, str]) -> str:
    parts = []
    for k, part in enumerate(found.segments):
        shown = tables.segment(part, found.champion, colour, found.counts.rows)
        state = " open" if k < 2 else ""
        title = f"<summary>{text(part.name)} <span>· {text(part.meaning)}</span></summary>"
        parts.append(f"<details{state}>{title}{shown}</details>")
    names = [n for n in ("frozen", found.champion) if n in colour]
    return _card("Segments", _legend(names, colour) + "".join(parts))


def _notes(found: Evaluation) -> str:
    notes = "".join(f"<li>{text(note)}</li>" for note in found.notes)
    return (
        f'<section class="card"><h2>To keep in mind</h2><ul class="notes">{notes}</ul></section>'
        if notes
        else ""
    )


def _run(found: Evaluation) -> str:
    return _card("How this was made", tables.run(found))
