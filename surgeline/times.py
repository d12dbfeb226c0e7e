"""Times on the command line."""

from __future__ import annotations

from datetime import UTC, datetime

from contracts.errors import SurgelineError


class TimeError(SurgelineError, ValueError):
    """A text is no time; the message says what is."""


def parse_time(text: str) -> int:
    """Milliseconds UTC from digits (ms) or ISO 8601; without an offset it is UTC.

    >>> parse_time("2018-11-08"), parse_time("1541635200000")
    (1541635200000, 1541635200000)
    """
    if text.isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise TimeError(f"{text!r} is neither milliseconds nor an ISO time such as 2018-11-08") from error
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def stamp(ms: int) -> str:
    """ISO 8601, UTC, to the second."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
