"""Faults as words: ``late=0.02:30s`` names a fault of the simulator and its parameters.

A fault is ``NAME=VALUE[:VALUE...]``, its values in the order of its usage line. Durations are written
``500ms``, ``30s``, ``5m``, ``1h``, ``1d``; a plain number is seconds. A start counts from the log's first
event.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from replay.simulate.faults import WHOSE, FaultError
from replay.simulate.record_faults import CHANGES

_DURATION = re.compile(r"^([+-]?[0-9]*\.?[0-9]+)(ms|s|m|h|d|)$")
#: The longest duration, a century: a place in any log, and far from where times in 64 bits end.
_LONGEST_MS = 36_525 * 86_400_000
#: Each impression of the flood stands in memory this often.
_MOST_COPIES = 10_000
_UNIT_MS = {"ms": 1, "": 1_000, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class _Wrong(Exception):  # noqa: N818 - carries what would have been right
    """A value that cannot be read; the message says what is allowed."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault as it was asked for. ``values`` by parameter; durations in ms."""

    name: str
    values: dict[str, Any]
    text: str


class _Parameter(NamedTuple):
    name: str
    read: Callable[[str], Any]
    default: Any = None
    required: bool = False


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0.0 <= share <= 1.0:
        raise _Wrong("a share between 0 and 1")
    return share


def _signed(text: str) -> int:
    found = _DURATION.match(text.strip())
    if not found:
        raise _Wrong("a duration such as 500ms, 30s, 5m, 1h or -2s")
    length = float(found[1]) * _UNIT_MS[found[2]]
    if abs(length) > _LONGEST_MS:
        raise _Wrong("a duration of at most 36525d")
    return round(length)


def _duration(text: str) -> int:
    found = _DURATION.match(text.strip())
    if not found or found[1].startswith("-"):
        raise _Wrong("a duration such as 500ms, 30s, 5m or 1h")
    return _signed(text)


def _length(text: str) -> int:
    length = _duration(text)
    if not length:
        raise _Wrong("a duration above 0 such as 500ms, 30s, 5m or 1h")
    return length


def _moment(text: str) -> tuple[int, int]:
    """A place in the log, or the first and last of those between which it is drawn."""
    low, dash, high = text.partition("-")
    try:
        first = _duration(low)
        last = _duration(high) if dash else first
    except _Wrong:
        last = -1
    if last < 0 or last < first:
        raise _Wrong("a duration such as 30s, or two such as 20s-40s between which it is drawn")
    return first, last


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise _Wrong("a whole number of at least 1")
    return int(text)


def _copies(text: str) -> int:
    copies = _positive(text)
    if copies > _MOST_COPIES:
        raise _Wrong(f"a whole number of at most {_MOST_COPIES}")
    return copies


def _text(text: str) -> str:
    if not text:
        raise _Wrong("a name")
    return text


def _one_of(*allowed: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in allowed:
            raise _Wrong(f"one of {', '.join(allowed)}")
        return text

    return read


#: Fault -> its parameters in the order in which they are written.
FAULTS: dict[str, tuple[_Parameter, ...]] = {
    "hot_key": (
        _Parameter("start", _duration, required=True),
        _Parameter("length", _length, required=True),
        _Parameter("copies", _copies, required=True),
        _Parameter("item", _text, default=""),
    ),
    "label_outage": (
        _Parameter("start", _duration, required=True),
        _Parameter("length", _length, required=True),
        _Parameter("how", _one_of("delayed", "lost"), default="delayed"),
    ),
    "late": (
        _Parameter("share", _share, required=True),
        _Parameter("most", _duration, default=10_000),
        _Parameter("least", _duration),
    ),
    "duplicates": (_Parameter("share", _share, required=True), _Parameter("within", _duration, default=0)),
    "clock_skew": (
        _Parameter("share", _share, required=True),
        _Parameter("skew", _signed, required=True),
        _Parameter("whose", _one_of(*WHOSE), default="all"),
    ),
    "schema_change": (
        _Parameter("kind", _one_of(*CHANGES), required=True),
        _Parameter("field", _text, default="item_id"),
        _Parameter("start", _duration, default=0),
    ),
    "malformed": (_Parameter("share", _share, required=True),),
    "broker_pause": (
        _Parameter("start", _moment, required=True),
        _Parameter("length", _duration, required=True),
        _Parameter("pid", _positive),
    ),
    "worker_kill": (_Parameter("start", _moment, required=True), _Parameter("pid", _positive)),
}
#: Faults of processes (`replay.process_faults`); all others are of the log.
OF_PROCESSES = ("broker_pause", "worker_kill")


def usage(name: str) -> str:
    """How a fault is written.

    >>> usage("late")
    'late=SHARE[:MOST[:LEAST]]'
    """
    parameters = FAULTS[name]
    needed = ":".join(p.name.upper() for p in parameters if p.required)
    optional = [p.name.upper() for p in parameters if not p.required]
    return f"{name}={needed}{''.join(f'[:{p}' for p in optional)}{']' * len(optional)}"


def parse_fault(text: str) -> Fault:
    """Read one fault. Raises ``FaultError`` that names the fault, the value and what is allowed.

    >>> parse_fault("late=0.02:30s").values
    {'share': 0.02, 'most': 30000, 'least': None}
    >>> parse_fault("late=2")
    Traceback (most recent call last):
    replay.simulate.faults.FaultError: fault late: SHARE is a share between 0 and 1, not '2'; \
write late=SHARE[:MOST[:LEAST]]
    """
    name, equals, rest = text.strip().partition("=")
    if name not in FAULTS:
        raise FaultError(f"unknown fault {name!r}; allowed are {', '.join(usage(known) for known in FAULTS)}")
    parameters = FAULTS[name]
    given = rest.split(":") if equals else []
    if len(given) > len(parameters) or len(given) < sum(p.required for p in parameters):
        raise FaultError(f"fault {name}: {len(given)} values in {text!r}; write {usage(name)}")
    values = {p.name: p.default for p in parameters}
    for parameter, value in zip(parameters, given, strict=False):
        try:
            values[parameter.name] = parameter.read(value)
        except _Wrong as allowed:
            raise FaultError(
                f"fault {name}: {parameter.name.upper()} is {allowed}, not {value!r}; write {usage(name)}"
            ) from None
    return Fault(name, values, text.strip())
