"""The recorded log: what it is, and how to open one by name or by path.

A log yields canonical frames (`replay.columns`) in event-time order; at equal times impressions come
before actions, and these before behaviours. `open_log` knows the adapters by name, reads canonical Parquet or
JSONL or CSV files, and any other table through a TOML column mapping.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import polars as pl

from replay.columns import ACTION, BEHAVIOUR, COLUMNS, IMPRESSION, SCHEMA
from replay.errors import LogNotFoundError
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
    "open_log",
    "summarise",
    "to_records",
    "write_log",
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


def open_log(
    name_or_path: str | os.PathLike[str], mapping: str | os.PathLike[str] | None = None
) -> RecordedLog:
    """Open a log by adapter name (``obd``), ``name:path``, canonical file, or table with a ``mapping``.

    Raises ``LogNotFoundError`` that lists the known names where nothing fits, ``MappingError`` for a
    wrong mapping, ``LogError`` for a file that cannot be read.
    """
    # Imported here: adapters are built on this module.
    from replay.adapters import ADAPTERS, open_adapter
    from replay.files import CANONICAL_SUFFIXES, FileLog

    text = os.fspath(name_or_path)
    if mapping is not None:
        from replay.adapters.mapping import open_mapped

        return open_mapped(Path(text), Path(mapping))
    name, _, rest = text.partition(":")
    if name in ADAPTERS:
        return open_adapter(name, Path(rest) if rest else None)
    path = Path(text)
    if path.is_file():
        if path.suffix not in CANONICAL_SUFFIXES:
            raise LogNotFoundError(
                f"{text}: a canonical log ends in {', '.join(CANONICAL_SUFFIXES)}; "
                "for any other file give --mapping M.toml"
            )
        return FileLog(path)
    known = ", ".join(ADAPTERS)
    raise LogNotFoundError(f"{text}: neither a file nor a known log; known are: {known}")


def write_log(frames: Iterator[pl.DataFrame], path: str | os.PathLike[str]) -> int:
    """Write canonical frames to ``path`` (.parquet or .jsonl) and return the number of events."""
    from replay.files import write_frames

    return write_frames(frames, Path(path))
