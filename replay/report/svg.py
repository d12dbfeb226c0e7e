"""Inline SVG: scales, axes and lines. Colours are classes, so that the page's theme decides.

A chart is ``WIDTH`` units wide and scales with its card, so that its text is readable on a phone, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from replay.report.text import text

WIDTH, HEIGHT = 480.0, 210.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 10.0, 12.0, 26.0


class Scale(NamedTuple):
    """Maps values to units; ``log`` scales by decades."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        low, high, value = (
            (math.log(self.low), math.log(self.high), math.log(max(value, self.low)))
            if self.log
            else (self.low, self.high, value)
        )
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round values between ``low`` and ``high``.

    >>> ticks(0.61, 0.79)
    [0.65, 0.7, 0.75]
    """
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(k * power for k in (1, 2, 2.5, 5, 10) if k * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within the bounds; fewer where there are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [f * 10.0**p for p in powers for f in factors if low <= f * 10.0**p <= high]
        if len(found) <= 7:
            break
    return found


def padded(values: Sequence[float], zero: bool = False) -> tuple[float, float]:
    """Bounds for values with a little room."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if zero:
        return 0.0, (high or 1.0) * 1.06
    room = 0.07 * (high - low) or abs(high) * 0.05 or 0.5
    return low - room, high + room


def axes(
    x: Scale,
    y: Scale,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
) -> str:
    """Grid lines and labels."""
    parts = []
    for value in y_ticks:
        at = y.at(value)
        parts.append(f'<path class="grid" d="M{x.start:.1f} {at:.1f}H{x.end:.1f}"/>')
        parts.append(
            f'<text class="tick end" x="{x.start - 6:.1f}" y="{at + 4:.1f}">{text(y_text(value))}</text>'
        )
    for value in x_ticks:
        at = x.at(value)
        # Labels at the edges stay inside.
        anchor = "end" if at > x.end - 16 else "begin" if at < x.start + 8 else "middle"
        parts.append(
            f'<text class="tick {anchor}" x="{at:.1f}" y="{y.start + 17:.1f}">{text(x_text(value))}</text>'
        )
    parts.append(f'<path class="axis" d="M{x.start:.1f} {y.start:.1f}H{x.end:.1f}"/>')
    return "".join(parts)


def line(points: Sequence[tuple[float, float | None]], kind: str) -> str:
    """A line that breaks where a value is undefined; a lonely point becomes a dot."""
    path: list[str] = []
    dots: list[str] = []
    run: list[tuple[float, float]] = []
    for px, py in [*points, (0.0, None)]:
        if py is not None:
            run.append((px, py))
            continue
        if len(run) == 1:
            dots.append(f'<circle class="dot {kind}" cx="{run[0][0]:.1f}" cy="{run[0][1]:.1f}" r="2"/>')
        elif run:
            path.append("M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in run))
        run = []
    drawn = f'<path class="line {kind}" d="{"".join(path)}"/>' if path else ""
    return drawn + "".join(dots)


def area(points: Sequence[tuple[float, float]], base: float, kind: str) -> str:
    """A filled area down to ``base``."""
    if not points:
        return ""
    outline = "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
    first, last = points[0][0], points[-1][0]
    return f'<path class="fill {kind}" d="M{first:.1f} {base:.1f}L{outline}L{last:.1f} {base:.1f}Z"/>'


def band(lower: Sequence[tuple[float, float]], upper: Sequence[float], kind: str) -> str:
    """A filled band between two curves over the same places: ``lower`` as (x, y), ``upper`` as y."""
    if not lower:
        return ""
    above = [(x, y) for (x, _), y in zip(lower, upper, strict=True)]
    outline = "L".join(f"{x:.1f} {y:.1f}" for x, y in [*above, *reversed(lower)])
    return f'<path class="fill {kind}" d="M{outline}Z"/>'


def hover(x: float, width: float, top: float, bottom: float, words: str) -> str:
    """An invisible strip that says ``words`` when the pointer rests on it."""
    return (
        f'<rect class="hover" x="{x:.1f}" y="{top:.1f}" width="{max(width, 1.0):.1f}" '
        f'height="{bottom - top:.1f}"><title>{text(words)}</title></rect>'
    )


def drawing(body: str, label: str, height: float = HEIGHT, width: float = WIDTH, kind: str = "chart") -> str:
    """The SVG element."""
    return (
        f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{text(label)}">'
        f"{body}</svg>"
    )
