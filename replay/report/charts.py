"""The charts of the report, each from plain data to one SVG element."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Literal, TypeVar

from replay.report.schema import CadenceArm, Estimate, ExpertWeights, HotItem, ReliabilityBin, TimeLine
from replay.report.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    area,
    axes,
    band,
    decades,
    drawing,
    hover,
    line,
    padded,
    ticks,
)
from replay.report.text import clock, count, moment, share, short, shortened, signed, text

Figure = Literal["auc", "log_loss"]
#: (x, y) in units, y None where unknown.
Point = TypeVar("Point", bound=tuple[float, float | None])

#: A bucket's AUC and log loss are drawn from this many clicks on; fewer say nothing.
FEWEST_CLICKS = 10
#: Steps of a time axis, seconds.
_STEPS_S = (
    10,
    30,
    60,
    120,
    300,
    600,
    1200,
    1800,
    3600,
    7200,
    10_800,
    21_600,
    43_200,
    86_400,
    172_800,
    604_800,
)


def time_scale(timeline: TimeLine, left: float = LEFT) -> Scale:
    """From the first bucket's start to the last one's end."""
    starts = timeline.start_ms or [0]
    return Scale(starts[0], starts[-1] + timeline.bucket_s * 1000, left, WIDTH - RIGHT)


def _time_ticks(x: Scale) -> list[float]:
    span_s = (x.high - x.low) / 1000
    step = next((s for s in _STEPS_S if span_s / s <= 5), round(span_s / 4)) * 1000
    first = -(-int(x.low) // step) * step
    return [float(t) for t in range(first, int(x.high) + 1, step)]


def _frame(
    timeline: TimeLine,
    bounds: tuple[float, float],
    body: Callable[[Scale, Scale, list[float]], str],
    y_text: Callable[[float], str],
    words: Sequence[str],
    label: str,
) -> str:
    """A chart over time: axes, ``body(x, y, middles)``, and a strip a bucket that says ``words``."""
    x = time_scale(timeline)
    y = Scale(*bounds, HEIGHT - BOTTOM, TOP)
    half = timeline.bucket_s * 500
    middles = [x.at(start + half) for start in timeline.start_ms]
    span = x.high - x.low
    parts = [axes(x, y, _time_ticks(x), ticks(*bounds, 4), lambda ms: clock(ms, span), y_text)]
    parts.append(body(x, y, middles))
    for start, said in zip(timeline.start_ms, words, strict=True):
        left, right = x.at(start), x.at(start + 2 * half)
        parts.append(hover(left, right - left, TOP, HEIGHT - BOTTOM, f"{moment(start)}\n{said}"))
    return drawing("".join(parts), label)


def _after_pauses(timeline: TimeLine) -> set[int]:
    """Buckets whose predecessor in time had no impressions, and so is not in the timeline."""
    width = timeline.bucket_s * 1000
    starts = enumerate(pairwise(timeline.start_ms), start=1)
    return {k for k, (before, start) in starts if start > before + width}


def _runs(timeline: TimeLine, points: Sequence[Point]) -> list[list[Point]]:
    """``points``, one a bucket, cut at pauses: nothing is known there, so nothing is drawn."""
    cuts = [0, *sorted(_after_pauses(timeline)), len(points)]
    return [list(points[a:b]) for a, b in pairwise(cuts) if b > a]


def arrivals(timeline: TimeLine) -> str:
    """Impressions a second; a pause is a rate of zero."""
    rates = [n / timeline.bucket_s for n in timeline.impressions]
    pauses = _after_pauses(timeline)

    def body(x: Scale, y: Scale, middles: list[float]) -> str:
        points = []
        half = timeline.bucket_s * 500
        for k, (at, rate) in enumerate(zip(middles, rates, strict=True)):
            if k in pauses:
                ends = timeline.start_ms[k - 1] + 3 * half, timeline.start_ms[k] - half
                points += [(x.at(ms), y.at(0.0)) for ms in ends]
            points.append((at, y.at(rate)))
        return area(points, y.start, "flow") + line(points, "flow")

    words = [
        f"{count(n)} impressions, {short(r)} a second"
        for n, r in zip(timeline.impressions, rates, strict=True)
    ]
    return _frame(timeline, padded(rates, zero=True), body, short, words, "Impressions a second over time")


def click_rate(timeline: TimeLine, names: Sequence[str], colour: Mapping[str, str]) -> str:
    """Observed click rate as an area, each learner's mean prediction as a line."""
    shown = timeline.impressions
    observed = [k / n if n else 0.0 for k, n in zip(timeline.clicks, shown, strict=True)]
    predicted = {
        name: [p / n if n else 0.0 for p, n in zip(timeline.predicted[name], shown, strict=True)]
        for name in names
    }

    def body(x: Scale, y: Scale, middles: list[float]) -> str:
        def runs(rates: list[float]) -> list[list[tuple[float, float]]]:
            points = [(at, y.at(rate)) for at, rate in zip(middles, rates, strict=True)]
            return _runs(timeline, points)

        drawn = [area(run, y.start, "observed") + line(run, "observed") for run in runs(observed)]
        drawn += [line(run, colour[name]) for name in names for run in runs(predicted[name])]
        return "".join(drawn)

    words = [
        "\n".join([f"clicked {share(observed[i])}", *(f"{n} {share(predicted[n][i])}" for n in names)])
        for i in range(len(shown))
    ]
    highest = [*observed, *(r for rates in predicted.values() for r in rates)]
    return _frame(
        timeline, padded(highest, zero=True), body, share, words, "Click rate, observed and predicted"
    )


def over_time(
    timeline: TimeLine,
    figures: Mapping[str, Sequence[float | None]],
    colour: Mapping[str, str],
    label: str,
) -> str:
    """One line a learner; buckets with fewer than FEWEST_CLICKS clicks are left open."""
    enough = [k >= FEWEST_CLICKS for k in timeline.clicks]
    kept = {
        name: [v if good else None for v, good in zip(values, enough, strict=True)]
        for name, values in figures.items()
    }
    values = [v for column in kept.values() for v in column if v is not None]

    def body(x: Scale, y: Scale, middles: list[float]) -> str:
        return "".join(
            line(run, colour[name])
            for name, column in sorted(kept.items(), key=lambda entry: colour[entry[0]] == "l0")
            for run in _runs(
                timeline,
                [(at, None if v is None else y.at(v)) for at, v in zip(middles, column, strict=True)],
            )
        )

    words = [
        "\n".join(f"{name} {values[i]:.4f}" for name, values in kept.items() if values[i] is not None)
        or f"{timeline.clicks[i]} clicks: too few"
        for i in range(len(enough))
    ]
    return _frame(timeline, padded(values), body, short, words, label)


def expert_weights(
    timeline: TimeLine, found: Sequence[ExpertWeights], names: Sequence[str], colour: Mapping[str, str]
) -> str:
    """Weights stacked to 1, the first of ``names`` at the bottom; level within a bucket."""
    by_start = {entry.at: entry.weights for entry in found}
    shown = [by_start.get(start, {}) for start in timeline.start_ms]

    def body(x: Scale, y: Scale, middles: list[float]) -> str:
        # A step a bucket; over a pause, weights stand until the next one.
        edges = [x.at(start) for start in timeline.start_ms] + [x.end]
        places = [at for left, right in pairwise(edges) for at in (left, right)]
        total = [0.0] * len(shown)
        parts = []
        for name in names:
            lower = [y.at(value) for value in total for _ in range(2)]
            total = [value + row.get(name, 0.0) for value, row in zip(total, shown, strict=True)]
            upper = [y.at(value) for value in total for _ in range(2)]
            parts.append(band(list(zip(places, lower, strict=True)), upper, f"expert {colour[name]}"))
        return "".join(parts)

    words = ["\n".join(f"{name} {row.get(name, 0.0):.3f}" for name in names) for row in shown]
    label = "Weights of a mixture of the learners over time"
    return _frame(timeline, (0.0, 1.0), body, short, words, label)


def reliability(bins: Mapping[str, Sequence[ReliabilityBin]], colour: Mapping[str, str]) -> str:
    """Predicted against observed click rate on logarithmic axes; on the diagonal is calibrated."""
    found = [
        rate for column in bins.values() for b in column for rate in (b.predicted, b.observed) if rate > 0
    ]
    low, high = min(found, default=0.01), max(found, default=1.0)
    low, high = low / 1.25, min(high * 1.25, 1.0)
    size = 300.0
    x = Scale(low, high, LEFT, WIDTH - RIGHT, log=True)
    y = Scale(low, high, size - BOTTOM - 12, TOP, log=True)
    marks = decades(low, high)
    parts = [axes(x, y, marks, marks, share, share)]
    parts.append(f'<path class="diagonal" d="M{x.start:.1f} {y.start:.1f}L{x.end:.1f} {y.end:.1f}"/>')
    for name, column in bins.items():
        points = [(x.at(b.predicted), y.at(b.observed)) for b in column if b.predicted > 0]
        parts.append(line([*points], colour[name]))
        for b, (px, py) in zip([b for b in column if b.predicted > 0], points, strict=True):
            rates = f"predicted {share(b.predicted)}\nclicked {share(b.observed)}"
            said = f"{name}\n{rates}\n{count(b.samples)} impressions"
            parts.append(
                f'<circle class="dot {colour[name]}" cx="{px:.1f}" cy="{py:.1f}" r="3.2">'
                f"<title>{text(said)}</title></circle>"
            )
    parts.append(f'<text class="tick end" x="{x.end:.1f}" y="{size - 3:.1f}">predicted click rate</text>')
    return drawing("".join(parts), "Reliability: predicted against observed click rate", size)


def hot_items(items: Sequence[HotItem], timeline: TimeLine) -> str:
    """A row an item: the darker, the more clicks in that bucket."""
    left, row, top = 112.0, 22.0, 6.0
    height = top + row * len(items) + BOTTOM
    x = time_scale(timeline, left)
    span = x.high - x.low
    parts = []
    peak = max((max(item.clicks, default=0) for item in items), default=0) or 1
    for k, item in enumerate(items):
        y = top + k * row
        name = text(shortened(item.item_id, 13))
        parts.append(f'<text class="tick end" x="{left - 8:.1f}" y="{y + 15:.1f}">{name}</text>')
        box = f'y="{y + 1:.1f}" height="{row - 3:.1f}"'
        parts.append(f'<rect class="lane" x="{left:.1f}" width="{x.end - left:.1f}" {box}/>')
        for start, clicks, shown in zip(timeline.start_ms, item.clicks, item.impressions, strict=True):
            if not shown:
                continue
            at, end = x.at(start), x.at(start + timeline.bucket_s * 1000)
            said = f"{item.item_id}\n{moment(start)}\n{clicks} clicks of {shown} impressions"
            # Square root: the eye should see the small ones, too.
            strength = 0.06 + 0.94 * (clicks / peak) ** 0.5
            parts.append(
                f'<rect class="cell" x="{at:.1f}" width="{max(end - at, 1.2):.1f}" {box} '
                f'opacity="{strength:.2f}"><title>{text(said)}</title></rect>'
            )
    for value in _time_ticks(x):
        at = x.at(value)
        anchor = "end" if at > x.end - 16 else "begin" if at < left + 8 else "middle"
        parts.append(
            f'<text class="tick {anchor}" x="{at:.1f}" y="{height - 8:.1f}">{clock(value, span)}</text>'
        )
    return drawing("".join(parts), "Clicks on the most clicked items over time", height)


def cadence(arms: Sequence[CadenceArm], figure: Figure) -> str:
    """What each cadence gains over the frozen head, with intervals; to the right is better.

    Empty where the figure is undefined.
    """
    gains = [(arm.name, *_gain(arm.estimate, figure)) for arm in arms if arm.every_s is not None]
    shown = [(name, gain, interval) for name, gain, interval in gains if gain is not None]
    if not shown:
        return ""
    left, row, top = 58.0, 34.0, 8.0
    height = top + row * len(shown) + BOTTOM
    low, high = padded([0.0, *(v for _, gain, (a, b) in shown for v in (gain, a, b))])
    x = Scale(low, high, left, WIDTH - 70)
    parts = []
    for value in ticks(low, high, 4):
        at = x.at(value)
        kind = "grid" if value else "axis"
        parts.append(f'<path class="{kind}" d="M{at:.1f} {height - BOTTOM:.1f}V{top:.1f}"/>')
        label = text(signed(value, 3) if value else "0")
        parts.append(f'<text class="tick middle" x="{at:.1f}" y="{height - 8:.1f}">{label}</text>')
    for k, (name, gain, (worst, best)) in enumerate(shown):
        at = top + (k + 0.5) * row
        a, b, middle = x.at(worst), x.at(best), x.at(gain)
        whisker = f"M{a:.1f} {at:.1f}H{b:.1f}M{a:.1f} {at - 5:.1f}v10M{b:.1f} {at - 5:.1f}v10"
        parts.append(f'<text class="name end" x="{left - 10:.1f}" y="{at + 4:.1f}">{text(name)}</text>')
        parts.append(f'<path class="bar" d="M{x.at(0):.1f} {at:.1f}H{middle:.1f}"/>')
        parts.append(f'<path class="whisker" d="{whisker}"/>')
        parts.append(f'<circle class="dot l0" cx="{middle:.1f}" cy="{at:.1f}" r="4.5"/>')
        parts.append(f'<text class="name" x="{WIDTH - 62:.1f}" y="{at + 4:.1f}">{text(signed(gain))}</text>')
    return drawing("".join(parts), f"{figure} gained over the frozen head, by cadence", height)


def _gain(estimate: Estimate, figure: Figure) -> tuple[float | None, tuple[float, float]]:
    """The gain and its interval, positive for better; without an interval just the gain."""
    if figure == "auc":
        value, interval, sign = estimate.auc_difference, estimate.auc_difference_interval, 1.0
    else:
        value, interval, sign = estimate.log_loss_difference, estimate.log_loss_difference_interval, -1.0
    if value is None:
        return None, (0.0, 0.0)
    gain = sign * value
    ends = (sign * interval.low, sign * interval.high) if interval is not None else (gain, gain)
    return gain, (min(ends), max(ends))


def spark(
    values: Mapping[str, Sequence[float | None]], colour: Mapping[str, str], bounds: tuple[float, float]
) -> str:
    """A line a learner, no axes; ``bounds`` are shared within a table."""
    width, height = 120.0, 26.0
    y = Scale(*bounds, height - 3, 3)
    parts = []
    for name, column in values.items():
        step = (width - 6) / max(len(column) - 1, 1)
        parts.append(
            line([(3 + i * step, None if v is None else y.at(v)) for i, v in enumerate(column)], colour[name])
        )
    return drawing("".join(parts), "AUC over time", height, width, "spark")
