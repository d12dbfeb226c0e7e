"""The recorded log: what every adapter gives, and everything that reads a log takes.

A log yields canonical frames (`replay.columns`) in event-time order; at equal times impressions come
before actions, and these before behaviours. `replay.open_log` opens one by name or by path,
`replay.files.write_log` writes one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import polars as pl

from replay.columns import ACTION, BEHAVIOUR, COLUMNS, IMPRESSION, SCHEMA
from replay.records import Records, to_records

__all__ = [
    "ACTION",
    "BEHAVIOUR",
    "COLUMNS",
    "IMPRESSION",
    "SCHEMA",
    "LogInfo",
    "RecordedLog",
    "Records",
    "summarise",
    "to_records",
]

CHUNK_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class LogInfo:
    """Exact counts of a log. ``first_ms``, ``last_ms``: event times (ms UTC), ``None`` for an empty log.

    ``by_action`` counts actions, ``by_type`` behaviours by type, ``refused`` rows that could not be mapped,
    ``left_out`` rows that the source has and the event contract does not, by what they are.
    """

    impressions: int
    actions: int
    clicks: int
    first_ms: int | None
    last_ms: int | None
    by_action: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    behaviours: int = 0
    by_type: dict[str, int] = field(default_factory=dict)

    @property
    def events(self) -> int:
        return self.impressions + self.actions + self.behaviours


@runtime_checkable
class RecordedLog(Protocol):
    """A named sequence of events that can be read any number of times."""

    name: str

    def info(self) -> LogInfo:
        """Count the log; reads all of it."""
        ...

    def chunks(self, rows: int = CHUNK_ROWS) -> Iterator[pl.DataFrame]:
        """Canonical frames of at most ``rows`` rows, ordered within and across frames."""
        ...


def summarise(log: RecordedLog) -> LogInfo:
    """Counts over the chunks of ``log``, with what a pass refused or left out where the log tells it."""
    impressions = 0
    by_action: Counter[str] = Counter()
    by_type: Counter[str] = Counter()
    first: int | None = None
    last: int | None = None
    for chunk in log.chunks():
        impressions += chunk.height
        for kind, column, counts in ((ACTION, "action", by_action), (BEHAVIOUR, "type", by_type)):
            if column in chunk.columns:
                some = chunk.filter(pl.col("event") == kind)[column]
                counts.update(dict(some.value_counts().iter_rows()))
                impressions -= some.len()
        if chunk.height:
            first = chunk["event_time"][0] if first is None else first
            last = chunk["event_time"][-1]
    tally = getattr(log, "tally", None)
    return LogInfo(
        impressions=impressions,
        actions=sum(by_action.values()),
        clicks=by_action.get("click", 0),
        first_ms=first,
        last_ms=last,
        by_action=dict(sorted(by_action.items())),
        refused=tally.refused if tally is not None else 0,
        left_out=dict(tally.left_out) if tally is not None else {},
        behaviours=by_type.total(),
        by_type=dict(sorted(by_type.items())),
    )
