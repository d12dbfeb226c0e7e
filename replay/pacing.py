"""When to send what: open-loop pacing, time shifts, and re-timing by another log's arrival curve.

Open loop: the schedule comes from the log alone and is never slowed by the engine that is measured, so
queueing shows where it happens (Schroeder et al., "Open Versus Closed", NSDI 2006). How late the player
itself was is counted and reported.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from contracts.limits import MAX_RECORDED_TIME, MIN_EVENT_TIME
from replay.errors import LogError, PaceError
from replay.log import CHUNK_ROWS, LogInfo, RecordedLog, summarise
from replay.order import in_order, in_slices

TimeMode = Literal["keep", "now"]
TIME_MODES: tuple[TimeMode, ...] = ("keep", "now")

#: Events that fall due within one slice leave together, when the last of them is due: none is early.
SLICE_S = 0.01
_WEEK_MS = 7 * 86_400_000
_SPEED = re.compile(r"^([0-9]*\.?[0-9]+)x$")


@dataclass(frozen=True, slots=True)
class Pace:
    """The schedule: ``speed`` in event seconds per second, or ``rate`` in events/s; neither = at once.

    >>> Pace.parse("10x").speed
    10.0
    """

    speed: float | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("speed", self.speed), ("rate", self.rate)):
            if value is not None and not (np.isfinite(value) and value > 0):
                raise PaceError(f"{name} must be a positive number, not {value:g}")
        if self.speed is not None and self.rate is not None:
            raise PaceError("give a speed or a rate, not both")

    @classmethod
    def parse(cls, speed: str = "max", rate: float | None = None) -> Pace:
        """From the command line's words: ``max``, ``1x``, ``2.5x``; a ``rate`` goes with ``max`` only."""
        text = speed.strip().lower()
        if text == "max":
            return cls(rate=rate)
        match = _SPEED.match(text)
        if not match:
            raise PaceError(f"speed is 'max' or a factor such as '1x', '10x', '0.5x', not {speed!r}")
        return cls(speed=float(match[1]), rate=rate)

    @property
    def immediate(self) -> bool:
        return self.speed is None and self.rate is None

    def due_s(self, times: np.ndarray, first_ms: int, index: int) -> np.ndarray:
        """Seconds after the start at which events are due; float64 (n,), never falling.

        ``times``: event times (ms) in order; ``first_ms``: of the log's first event; ``index``: how many
        events came before.
        """
        if self.speed is not None:
            return (times - first_ms) / (1000.0 * self.speed)
        if self.rate is not None:
            return (index + np.arange(times.size)) / self.rate
        return np.zeros(times.size)


def slices(due: np.ndarray, width_s: float = SLICE_S) -> Iterator[tuple[int, int]]:
    """Index ranges of events that leave together: due within ``width_s`` of the first of them.

    >>> list(slices(np.array([0.0, 0.004, 0.02, 5.0])))
    [(0, 2), (2, 3), (3, 4)]
    """
    start = 0
    while start < due.size:
        stop = int(np.searchsorted(due, due[start] + width_s, side="left"))
        stop = max(stop, start + 1)
        yield start, stop
        start = stop


@dataclass(slots=True)
class Shift:
    """Event times as they are sent: kept, or moved so that the stream looks live.

    With a speed or a rate, ``ts' = start_wall + due``: intervals are compressed as the sending is. At full
    speed there is no schedule, so a batch takes the wall clock of its making; times never fall, so an
    action, which comes after its impression in the log, is not before it.
    """

    mode: TimeMode
    start_wall_ms: int = 0
    _last: int = 0

    def __post_init__(self) -> None:
        if self.mode not in TIME_MODES:
            raise PaceError(f"time is one of {', '.join(TIME_MODES)}, not {self.mode!r}")

    def apply(self, times: np.ndarray, due: np.ndarray | None, wall_ms: int) -> np.ndarray:
        """Sent times (int64, ms UTC) of events; ``due`` (s) is ``None`` where nothing is scheduled."""
        if self.mode == "keep":
            return times
        if due is not None:
            return self.start_wall_ms + np.floor(due * 1000.0).astype(np.int64)
        self._last = max(self._last, wall_ms)
        return np.full(times.size, self._last, dtype=np.int64)


@dataclass(slots=True)
class Lateness:
    """How late batches left, in seconds after they were due; a histogram with 1 ms bins up to 60 s."""

    worst_s: float = 0.0
    batches: int = 0
    _bins: np.ndarray = field(default_factory=lambda: np.zeros(60_001, dtype=np.int64))

    def add(self, late_s: float) -> None:
        late = max(0.0, late_s)
        self.worst_s = max(self.worst_s, late)
        self.batches += 1
        self._bins[min(int(late * 1000.0), 60_000)] += 1

    def quantile(self, q: float) -> float:
        """Upper edge of the bin that holds quantile ``q``, at most the worst; 0 without batches."""
        if not self.batches:
            return 0.0
        bin_ = int(np.searchsorted(np.cumsum(self._bins), q * self.batches, side="left"))
        return min((bin_ + 1) / 1000.0, self.worst_s) if bin_ < 60_000 else self.worst_s


@dataclass(frozen=True, slots=True)
class ArrivalCurve:
    """Cumulative arrivals over time: ``share[i]`` of the events came before ``edges_ms[i]``; both (m + 1,).

    Between edges arrivals are even.
    """

    edges_ms: np.ndarray
    share: np.ndarray

    @classmethod
    def from_counts(cls, start_ms: int, step_ms: int, counts: np.ndarray) -> ArrivalCurve:
        """From events a step, such as requests a minute."""
        counts = np.asarray(counts, dtype=np.float64)
        if not counts.size or step_ms <= 0 or (counts < 0).any() or not counts.sum() > 0:
            raise LogError("an arrival curve needs a positive step and counts with a positive sum")
        edges = start_ms + step_ms * np.arange(counts.size + 1, dtype=np.float64)
        total = np.cumsum(counts)
        return cls(edges, np.concatenate([[0.0], total / total[-1]]))

    @classmethod
    def of(cls, log: RecordedLog, step_ms: int = 1000) -> ArrivalCurve:
        """The curve of another log, in steps of ``step_ms``; reads all of it once."""
        counts: dict[int, int] = {}
        for chunk in log.chunks():
            steps, n = np.unique(chunk["event_time"].to_numpy() // step_ms, return_counts=True)
            for step, count in zip(steps.tolist(), n.tolist(), strict=True):
                counts[step] = counts.get(step, 0) + count
        if not counts:
            raise LogError(f"{log.name}: an empty log has no arrival curve")
        # Only steps with events have edges: one wrong clock in a log would else be decades of seconds.
        steps = np.fromiter(counts, np.int64)
        edges = np.unique(np.concatenate([steps, steps + 1]))
        arrivals = np.zeros(edges.size - 1)
        arrivals[np.searchsorted(edges, steps)] = np.fromiter(counts.values(), np.float64)
        total = np.cumsum(arrivals)
        return cls(edges * float(step_ms), np.concatenate([[0.0], total / total[-1]]))

    @classmethod
    def from_csv(cls, path: Path) -> ArrivalCurve:
        """From a table ``period,count``: starts of even steps (ISO 8601, UTC) and events in each.

        As requests a minute of the 1998 World Cup site are commonly passed on (M. Arlitt and T. Jin, "A
        workload characterization study of the 1998 World Cup Web site", IEEE Network 14(3), 2000). The step
        is the smallest distance of two periods; periods that are left out had no events.
        """
        try:
            table = pl.read_csv(path, columns=["period", "count"], schema_overrides={"period": pl.String})
            period = pl.col("period").str.strip_chars_end("Z").str.to_datetime(time_unit="ms")
            table = table.select(period.cast(pl.Int64), pl.col("count").cast(pl.Float64)).drop_nulls()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise LogError(f"{path}: cannot be read as period,count: {error}") from error
        starts, counts = table["period"].to_numpy(), table["count"].to_numpy()
        gaps = np.diff(np.unique(starts))
        if not gaps.size:
            raise LogError(f"{path}: an arrival curve needs at least two periods")
        first, step = int(starts.min()), int(gaps.min())
        if (gaps % step).any():
            raise LogError(f"{path}: periods are not multiples of their smallest distance, {step / 1000:g} s")
        return cls.from_counts(first, step, np.bincount((starts - first) // step, weights=counts))

    def times(self, quantiles: np.ndarray) -> np.ndarray:
        """Times (int64, ms) by which these shares, in [0, 1), have arrived; never falling."""
        # The last step that starts at or below a share is the one it falls into: an empty step starts
        # and ends at one share, and nothing falls into it.
        step = np.searchsorted(self.share, quantiles, side="right") - 1
        step = np.minimum(step, self.share.size - 2)
        low, width = self.share[step], self.share[step + 1] - self.share[step]
        start, end = self.edges_ms[step], self.edges_ms[step + 1]
        inside = start + (end - start) * (quantiles - low) / width
        return np.asarray(np.minimum(np.floor(inside), end - 1), dtype=np.int64)


class RetimedLog:
    """A log whose k-th of n events arrives where the curve has (k + 1/2) / n of its arrivals.

    Order stays; an action is never before its impression. Delays between the two are stretched as the
    curve is: the log's mix of events, at the other's rates.

    A curve of a time that no event can have, such as 1998, is moved by ``moved_ms``: whole weeks, so that
    weekdays and hours stay, to where the log begins.
    """

    def __init__(self, log: RecordedLog, curve: ArrivalCurve) -> None:
        info = log.info()
        self.name = f"{log.name}-retimed"
        self.moved_ms = _weeks_to_move(curve, info.first_ms) * _WEEK_MS
        self._log = log
        self._curve = curve if not self.moved_ms else replace(curve, edges_ms=curve.edges_ms + self.moved_ms)
        self._events = info.events

    def info(self) -> LogInfo:
        return summarise(self)

    def chunks(self, rows: int = CHUNK_ROWS) -> Iterator[pl.DataFrame]:
        return in_slices(in_order(self._retimed(rows), delayed=False), rows)

    def _retimed(self, rows: int) -> Iterator[pl.DataFrame]:
        index = 0
        for chunk in self._log.chunks(rows):
            shares = (index + np.arange(chunk.height) + 0.5) / max(self._events, 1)
            index += chunk.height
            yield chunk.with_columns(pl.Series("event_time", self._curve.times(shares)))


def _weeks_to_move(curve: ArrivalCurve, first_ms: int | None) -> int:
    first, last = float(curve.edges_ms[0]), float(curve.edges_ms[-1])
    if first_ms is None or (first >= MIN_EVENT_TIME and last <= MAX_RECORDED_TIME):
        return 0
    return math.ceil((first_ms - first) / _WEEK_MS)


def is_curve(name: str) -> bool:
    """Whether ``name`` is a CSV file of ``period,count``, which is no log."""
    path = Path(name)
    if path.suffix != ".csv" or not path.is_file():
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        header = {field.strip().strip('"') for field in lines.readline().split(",")}
    return {"period", "count"} <= header and "event_time" not in header


def retime(log: RecordedLog, curve: RecordedLog | ArrivalCurve) -> RetimedLog:
    """``log`` at the arrival rates of ``curve``: another log, or a curve."""
    return RetimedLog(log, curve if isinstance(curve, ArrivalCurve) else ArrivalCurve.of(curve))
