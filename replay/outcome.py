"""What becomes of a replay in the workers: said before it begins, followed when it is over, told in words."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from contracts.scenario import Times
from replay.workers import Reports, WorkerReport

#: How long a replay waits without any worker getting on.
STUCK_S = 60.0
#: How long, once everything is read, the newest weights and the last labels may take.
CLOSING_S = 15.0
_LOOK_EVERY_S = 0.3
#: Weights are published every second; older ones are of workers that do not run.
_SILENT_MS = 60_000


class Lag(Protocol):
    """``replay.lag.LagProbe``."""

    answered: bool

    async def now(self) -> int | None:
        """Records that the workers have not done; None where none has committed anything."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a replay, as far as it is known.

    ``behind``: records that the workers have not done; None where none has committed anything. ``late``,
    ``older_logs`` and ``duplicates`` are what the workers counted meanwhile. ``versions``: the first weights
    that know the whole log, by worker; empty before there are any. ``labels_ms``: what a stamp's label
    watermark has to reach. ``newest_ms``: when the newest weights were made. ``gave_up``: nobody got on for
    a minute; ``stopped``: by Ctrl-C.
    """

    behind: int | None
    labels_ms: int
    newest_ms: int | None = None
    late: int = 0
    older_logs: int = 0
    duplicates: int = 0
    versions: dict[str, int] = field(default_factory=dict)
    gave_up: bool = False
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class Watch:
    """Whether a replay looks at the workers: ``say`` gets a line before it begins where that is needed, and
    afterwards it waits for them for ``patience_s`` (None: as long as they get on)."""

    say: Callable[[str], object]
    patience_s: float | None


async def follow(
    lag: Lag,
    read: Callable[[], Awaitable[Reports]],
    before: Reports,
    last_ms: int,
    patience_s: float | None,
    stop: asyncio.Event,
    on_lag: Callable[[int | None], None] = lambda _: None,
) -> Outcome | None:
    """Wait until the workers have learned what was sent, for ``patience_s`` (None: as long as they get on).

    ``before``: the workers' reports of before the replay; ``read`` brings the newest; ``last_ms``: the newest
    event time that was sent. Returns None where the broker does not say how far the workers are.
    """
    begun = moved = time.monotonic()
    last: int | None = -1
    while True:
        behind = await lag.now()
        now = time.monotonic()
        on_lag(behind)
        if behind != last:
            last, moved = behind, now
        over = patience_s is not None and now - begun >= patience_s
        if behind == 0 or over or stop.is_set() or now - moved >= STUCK_S:
            break
        await _sleep(stop)
    if not lag.answered:
        return None
    first = reports = await read()
    if behind == 0:
        # Weights follow the commit within a tick: those that come next know everything.
        deadline = time.monotonic() + (CLOSING_S if patience_s is None else patience_s)
        while not _through(first, reports, last_ms) and time.monotonic() < deadline and not stop.is_set():
            await _sleep(stop)
            reports = await read()
    newer = _all_newer(first, reports) if behind == 0 else False
    return Outcome(
        behind=behind,
        labels_ms=last_ms,
        newest_ms=max((one.created_at for one in reports.values()), default=None),
        late=_grown(before, reports, lambda one: one.late),
        older_logs=_grown(before, reports, lambda one: one.older_logs),
        duplicates=_grown(before, reports, lambda one: one.duplicates),
        versions={name: one.version for name, one in sorted(reports.items())} if newer else {},
        gave_up=behind != 0 and patience_s is None and not stop.is_set(),
        stopped=stop.is_set(),
    )


async def _sleep(stop: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(stop.wait(), _LOOK_EVERY_S)
    except TimeoutError:
        return


def _all_newer(first: Reports, reports: Reports) -> bool:
    """Whether every worker has published since ``first``."""
    return bool(reports) and all(
        name not in first or one.version > first[name].version for name, one in reports.items()
    )


def _through(first: Reports, reports: Reports, last_ms: int) -> bool:
    """Whether every worker has published since, and closed its labels; one without events has none."""
    return _all_newer(first, reports) and all(
        one.watermarks.labels >= last_ms for one in reports.values() if one.watermarks.features
    )


def _grown(before: Reports, after: Reports, count: Callable[[WorkerReport], int]) -> int:
    """By how much the workers' counts grew; one that began anew counts from 0."""
    total = 0
    for name, one in after.items():
        had = count(before[name]) if name in before else 0
        total += count(one) - had if count(one) >= had else count(one)
    return total


def older_than_done(first_ms: int, reports: Reports, times: Times) -> str | None:
    """What will happen to a log that begins at ``first_ms``; None where no worker has gone further."""
    done = max((one.watermarks.features for one in reports.values()), default=0)
    if first_ms >= done:
        return None
    where = (
        f"this log begins at {_utc(first_ms)}, {_span(done - first_ms)} before what the workers have done "
        f"({_utc(done)})"
    )
    if done - first_ms <= times.join_limit_s * 1000.0:
        return f"{where}: what is older than that is learned at once, as late events"
    return (
        f"{where}. They learn it all the same: time starts over for them with an older log. Where other "
        "events go on coming, time stays with those, and the log's events are late: learned at once, and "
        "counted. `--time now` sends the log as of now"
    )


def in_words(outcome: Outcome, group: str, times: Times) -> list[str]:
    """The outcome, a line each thing that a person should know."""
    lines = []
    if outcome.versions:
        known = " and ".join(f"version {v:,} of worker {name}" for name, v in outcome.versions.items())
        lines.append(f"the workers have learned all of it: weights know it from {known} on")
    elif outcome.behind == 0:
        lines.append(f"the workers have read all of it; {_how_to_see(outcome)}")
    elif outcome.behind is None:
        lines.append(
            f"no worker has done anything of it yet (group {group!r} has committed nothing): start one, it "
            "will find it in the topics"
        )
    else:
        lines.append(f"the workers are behind by {outcome.behind:,} records{_why(outcome)}")
    if outcome.older_logs:
        lines.append(
            "time started over in the workers, since the log is older than what they had done; "
            f"{outcome.late:,} events count as late"
        )
    elif outcome.late:
        lines.append(f"{outcome.late:,} events came late to the workers and were learned at once")
    if outcome.duplicates:
        lines.append(
            f"{outcome.duplicates:,} events were dropped as duplicates: the workers had seen their ids "
            f"within {times.join_limit_s:g} s (times.join_limit_s); `--new-ids` makes them new ones; "
            "behaviours have no ids and count again"
        )
    return lines


def _why(outcome: Outcome) -> str:
    if outcome.newest_ms is None or time.time() * 1000 - outcome.newest_ms > _SILENT_MS:
        newest = "there are no weights"
        if outcome.newest_ms is not None:
            newest = f"the newest weights are of {_utc(outcome.newest_ms)}"
        return f", and none seems to run: {newest}"
    if outcome.gave_up:
        return f", and did not get on for {STUCK_S:g} s"
    return f": `--wait` waits for them; {_how_to_see(outcome)}"


def _how_to_see(outcome: Outcome) -> str:
    return (
        f"an answer of serving knows all of it once watermarks.labels in its stamp is {outcome.labels_ms} "
        f"({_utc(outcome.labels_ms)}) or later"
    )


def _utc(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _span(ms: int) -> str:
    """A length of time in words.

    >>> _span(90_000), _span(7_200_000), _span(6 * 365 * 86_400_000)
    ('90 s', '2.0 hours', '2,190.0 days')
    """
    for unit, size in (("days", 86_400_000), ("hours", 3_600_000)):
        if ms >= 2 * size or (unit == "hours" and ms >= size):
            return f"{ms / size:,.1f} {unit}"
    return f"{ms / 1000:,.0f} s"
