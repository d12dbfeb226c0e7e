"""Numbers, times and names as a reader wants them; everything that enters the page is escaped here."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape

from replay.report.schema import Interval

UNDEFINED = "–"
MINUS = "\u2212"

#: Colour classes of the learners (``style.py``); the champion is the brand's.
_COLOURS = {"last_layer": "l0", "frozen": "l5", "ftrl": "l1", "truth": "l3"}
_OTHERS = ("l2", "l4", "l6")


def text(value: object) -> str:
    """Escaped for elements and attributes."""
    return escape(str(value), quote=True)


def number(value: float | None, digits: int = 4) -> str:
    """With that many decimals; a dash where undefined."""
    return UNDEFINED if value is None else f"{value:z.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 4) -> str:
    """As ``number`` with its sign.

    >>> signed(0.0692), signed(None), signed(-0.00001)
    ('+0.0692', '–', '+0.0000')
    """
    return UNDEFINED if value is None else f"{value:+z.{digits}f}".replace("-", MINUS)


def between(interval: Interval | None, digits: int = 4, sign: bool = False) -> str:
    """An interval as "low to high"; empty where there is none."""
    if interval is None:
        return ""
    show = signed if sign else number
    return f"{show(interval.low, digits)} to {show(interval.high, digits)}"


def count(value: float) -> str:
    """Whole numbers with separators."""
    return f"{value:,.0f}"


def short(value: float) -> str:
    """For axes.

    >>> short(1500.0), short(0.25), short(2_000_000.0)
    ('1.5k', '0.25', '2M')
    """
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}".replace("-", MINUS)
    return f"{value:.3g}".replace("-", MINUS)


def shortened(name: str, most: int) -> str:
    """At most that many characters; of long names the end stays, as ids often differ there only.

    >>> shortened("sku-00000000004711", 13)
    'sku-00…004711'
    """
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-((most - 1) // 2) :]}"


def share(value: float) -> str:
    """As per cent."""
    return f"{value * 100:.3g} %"


def moment(ms: int | None) -> str:
    """Date and time, UTC."""
    if ms is None:
        return UNDEFINED
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def clock(ms: float, span_ms: float) -> str:
    """A time on an axis that spans ``span_ms``."""
    pattern = "%H:%M:%S" if span_ms < 300_000 else "%H:%M" if span_ms < 129_600_000 else "%d %b %Hh"
    if span_ms > 6 * 86_400_000:
        pattern = "%d %b" if span_ms < 300 * 86_400_000 else "%b %Y"
    return datetime.fromtimestamp(ms / 1000, UTC).strftime(pattern)


def duration(seconds: float) -> str:
    """
    >>> duration(1200), duration(7200), duration(10)
    ('20 min', '2 h', '10 s')
    """
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or seconds == size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def colours(names: list[str]) -> dict[str, str]:
    """The colour class of each learner, the same all over the page."""
    spare = iter(_OTHERS * (len(names) // len(_OTHERS) + 1))
    return {name: _COLOURS.get(name) or next(spare) for name in names}
