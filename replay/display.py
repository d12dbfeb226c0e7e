"""Progress of a replay: a live bar on a terminal, a line every few seconds anywhere else."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from replay.log import LogInfo
from replay.player import Progress

LINE_EVERY_S = 5.0


class Display:
    """Shows `Progress`; ``total`` (the log's counts) gives the time that is left where it is known."""

    def __init__(self, name: str, total: LogInfo | None, limit: int | None) -> None:
        self.name = name
        counts = [count for count in (total.events if total else None, limit) if count is not None]
        # A limit alone says how much comes only if the log has that much; with the counts it is exact.
        self._total = min(counts) if counts else None
        self._console = Console(file=sys.stderr)
        self._bar: Bar | None = None
        self._shown = time.monotonic()

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[line]}"))
            self._bar = Bar(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task(self.name, total=self._total, line="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, line: str) -> None:
        """One line that stays, above the bar."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def update(self, progress: Progress) -> None:
        """Show where the replay stands; cheap enough for every batch."""
        if self._bar is not None:
            self._bar.update(self._task, completed=progress.events, line=status(progress, self._total))
        elif time.monotonic() - self._shown >= LINE_EVERY_S:
            self._shown = time.monotonic()
            print(f"{self.name}: {status(progress, self._total)}", file=sys.stderr, flush=True)


def status(progress: Progress, total: int | None) -> str:
    """One line: events, rate, position in event time, time left, lateness, lag.

    >>> status(Progress(events=500, seconds=2.0, event_ms=1_574_553_617_004, lateness_s=0.0), 1000)
    '500 of 1,000 events, 250/s, at 2019-11-24 00:00:17, 2 s left'
    """
    rate = progress.events / progress.seconds if progress.seconds > 0 else 0.0
    at = datetime.fromtimestamp(progress.event_ms / 1000, UTC)
    parts = [
        f"{progress.events:,}{f' of {total:,}' if total else ''} events",
        f"{rate:,.0f}/s",
        f"at {at:%Y-%m-%d %H:%M:%S}",
    ]
    if total and rate > 0:
        parts.append(f"{(total - progress.events) / rate:,.0f} s left")
    if progress.lateness_s > 0:
        parts.append(f"late by at most {progress.lateness_s * 1000:,.0f} ms")
    if progress.lag is not None:
        parts.append(f"engine behind by {progress.lag:,} records")
    return ", ".join(parts)
