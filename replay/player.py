"""Play a recorded log into Kafka: paced, counted, and stopped cleanly.

Reading, making JSON and sending overlap: the next chunk is read and rendered in a thread while the current
one is on its way.
"""

from __future__ import annotations

import asyncio
import signal
import time as clock
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Protocol, runtime_checkable

import msgspec
import numpy as np
import polars as pl

from clients.connection import Connection, connection
from contracts.events import ACTION, BEHAVIOUR, IMPRESSION, KINDS, Watermark
from contracts.limits import MAX_ID
from contracts.scenario import Scenario
from replay.lag import LagProbe
from replay.log import CHUNK_ROWS, RecordedLog
from replay.outcome import Outcome, Watch, follow, older_than_done
from replay.pacing import Lateness, Pace, Shift, TimeMode, slices
from replay.process_faults import ProcessFaults
from replay.produce import Sender, check_broker, partitions_of
from replay.records import Records, to_records
from replay.workers import Reports, newest

#: Column of a log whose events come out of order: when each is delivered (ms, the log's time), never falling.
DELIVERED = "delivered_ms"
#: Rows a chunk where there is a schedule: the first must be rendered within `HEAD_START_S`.
PACED_ROWS = 8_192
#: How long after the log is open the first event of a paced replay is due.
HEAD_START_S = 0.5


@runtime_checkable
class DamagedLog(RecordedLog, Protocol):
    """A log that changes its records once more after they were rendered (`replay.faulty`)."""

    def damage(self, records: Records, times: np.ndarray) -> Records:
        """The records of the next chunk, whose event times in the log are ``times`` (int64 (n,), ms)."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a replay stands. ``event_ms``: time of the newest event sent, as it stands in the log."""

    events: int
    seconds: float
    event_ms: int
    lateness_s: float
    lag: int | None = None


@dataclass(slots=True)
class PlayReport:
    """What was sent, exactly. Times: event times in the log (ms UTC); lateness in seconds."""

    impressions: int = 0
    actions: int = 0
    behaviours: int = 0
    by_action: dict[str, int] = field(default_factory=dict)
    watermarks: int = 0
    watermark_ms: int | None = None
    sent_bytes: int = 0
    seconds: float = 0.0
    first_ms: int | None = None
    last_ms: int | None = None
    lateness_max_s: float = 0.0
    lateness_p99_s: float = 0.0
    interrupted: bool = False
    #: What became of it in the workers; None where that was not asked for or is not known.
    outcome: Outcome | None = None

    @property
    def events(self) -> int:
        return self.impressions + self.actions + self.behaviours

    @property
    def rate(self) -> float:
        """Events a second over the whole replay."""
        return self.events / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class _Portion:
    """Events that leave together; ``due_s`` after the start, ``None`` for at once. Times are the log's."""

    records: Records
    partitions: np.ndarray
    by_action: Counter[str]
    due_s: float | None
    first_ms: int
    event_ms: int


def play(
    log: RecordedLog,
    scenario: Scenario,
    bootstrap: str | None = None,
    speed: str = "max",
    *,
    rate: float | None = None,
    time: TimeMode = "keep",
    limit: int | None = None,
    watermark: bool = True,
    rows: int = CHUNK_ROWS,
    on_progress: Callable[[Progress], None] | None = None,
    processes: ProcessFaults | None = None,
    new_ids: bool = False,
    watch: Watch | None = None,
) -> PlayReport:
    """Send ``log`` to the scenario's topics, which are made where they are missing.

    ``speed``: ``max``, ``1x``, ``Nx``; ``rate``: events/s instead; ``time``: ``keep`` event times or shift
    them to ``now``; ``limit``: only the first events. At the end every partition of the source topics gets a
    watermark behind the last label window, unless ``watermark`` is false. Ctrl-C stops after the batch
    that is being sent and returns what was sent (``interrupted``); a second Ctrl-C raises. ``processes``:
    a broker to be paused, workers to be killed on the way. ``new_ids``: impression ids of this replay's own,
    so that the workers do not take them for those of the replay before. ``watch``: look at the workers before
    and after.
    """
    pace = Pace.parse(speed, rate)
    player = Player(log, scenario, bootstrap, pace, time, rows=rows, limit=limit, processes=processes)
    player.watch = watch
    if new_ids:
        player.id_suffix = f"~{round(clock.time() * 1000):x}"
    return asyncio.run(player.run(watermark=watermark, on_progress=on_progress))


class Player:
    """One replay; `play` runs it, a program with its own event loop awaits `run` and may call `stop`."""

    def __init__(
        self,
        log: RecordedLog,
        scenario: Scenario,
        bootstrap: str | None,
        pace: Pace,
        time: TimeMode = "keep",
        *,
        rows: int = CHUNK_ROWS,
        limit: int | None = None,
        processes: ProcessFaults | None = None,
    ) -> None:
        self.log = log
        self.scenario = scenario
        self.connection = connection(scenario.kafka, bootstrap)
        self.pace = pace
        self.shift = Shift(time)
        self.report = PlayReport()
        rows = rows if pace.immediate else min(rows, PACED_ROWS)
        self._rows = rows if limit is None else min(rows, limit)
        self._limit = limit
        self._processes = processes or ProcessFaults()
        self.watch: Watch | None = None
        #: What is added to each impression id.
        self.id_suffix = ""
        self._before: Reports = {}
        self._progress: Progress | None = None
        self._lateness = Lateness()
        self._last_sent_ms = 0
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Stop after the batch that is being sent."""
        self._stop.set()
        self._processes.release()

    async def run(
        self, *, watermark: bool = True, on_progress: Callable[[Progress], None] | None = None
    ) -> PlayReport:
        """Play to the end, or until `stop`; returns the report."""
        await asyncio.to_thread(prepare, self.connection, self.scenario)
        with _interrupts(self.stop):
            async with (
                Sender(self.connection, self.scenario.topics.sources) as sender,
                LagProbe(self.connection, self.scenario.name, sender.ends) as lag,
            ):
                # Within the sender: closing that waits for the broker, which must not be paused then.
                with self._processes:
                    if self.watch is not None:
                        self._before = await self._reports()
                    await self._play(sender, lag, on_progress)
                    if watermark and not self._stop.is_set() and self._last_sent_ms:
                        await self._send_watermark(sender)
                    await sender.flush()
                    await asyncio.to_thread(self._processes.finish)
                self.report.sent_bytes = sender.sent_bytes
                self.report.interrupted = self._stop.is_set()
                if self.watch is not None and self._last_sent_ms and not self.report.interrupted:
                    self.report.outcome = await self._follow(lag, self.watch, on_progress)
        self.report.lateness_max_s = self._lateness.worst_s
        self.report.lateness_p99_s = self._lateness.quantile(0.99)
        return self.report

    def _reports(self) -> Awaitable[Reports]:
        return newest(self.connection, self.scenario.topics.weights)

    async def _follow(
        self, lag: LagProbe, watch: Watch, on_progress: Callable[[Progress], None] | None
    ) -> Outcome | None:
        def show(behind: int | None) -> None:
            if on_progress is not None and self._progress is not None:
                on_progress(replace(self._progress, lag=behind))

        return await follow(
            lag, self._reports, self._before, self._last_sent_ms, watch.patience_s, self._stop, show
        )

    async def _play(
        self, sender: Sender, lag: LagProbe, on_progress: Callable[[Progress], None] | None
    ) -> None:
        chunks = self.log.chunks(self._rows)
        # Opening and sorting a log may take seconds: the clock starts when its first chunk is read.
        opening = await asyncio.to_thread(next, chunks, None)
        if opening is None:
            return
        if self.watch is not None and self.shift.mode == "keep":
            first_ms = int(opening["event_time"].to_numpy().min())
            if line := older_than_done(first_ms, self._before, self.scenario.times):
                self.watch.say(line)
        # The first chunk is rendered before the first event is due.
        ahead_s = 0.0 if self.pace.immediate else HEAD_START_S
        begin = clock.monotonic() + ahead_s
        self.shift.start_wall_ms = int((clock.time() + ahead_s) * 1000)
        async for portion in self._portions(chain([opening], chunks), sender.partitions):
            if portion.due_s is not None:
                await self._wait_until(begin + portion.due_s)
            if self._stop.is_set():
                break
            if portion.due_s is not None:
                self._lateness.add(clock.monotonic() - begin - portion.due_s)
            self._processes.reached(portion.first_ms, self.report.events)
            await sender.send(portion.records, portion.partitions)
            self._count(portion)
            self._progress = Progress(
                events=self.report.events,
                seconds=clock.monotonic() - begin,
                event_ms=portion.event_ms,
                lateness_s=self._lateness.worst_s,
                lag=lag.value,
            )
            if on_progress is not None:
                on_progress(self._progress)
        await sender.flush()
        # Stopped before the first event was due, nothing has lasted.
        self.report.seconds = max(0.0, clock.monotonic() - begin)

    async def _portions(self, chunks: Iterable[pl.DataFrame], partitions: int) -> AsyncIterator[_Portion]:
        """Portions; those of the next chunk are made in a thread of its own while these are sent."""
        source = self._make(chunks, partitions)
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="replay") as thread:
            ahead = loop.run_in_executor(thread, next, source, None)
            while (made := await ahead) is not None:
                ahead = loop.run_in_executor(thread, next, source, None)
                for portion in made:
                    yield portion

    def _make(self, chunks: Iterable[pl.DataFrame], partitions: int) -> Iterator[list[_Portion]]:
        index, first = 0, None
        for chunk in chunks:
            frame = chunk if self._limit is None else chunk.head(self._limit - index)
            if not frame.height:
                return
            times = frame[DELIVERED if DELIVERED in frame.columns else "event_time"].to_numpy()
            first = int(times[0]) if first is None else first
            due = None if self.pace.immediate else self.pace.due_s(times, first, index)
            index += frame.height
            yield list(self._portions_of(frame, times, due, partitions))
            if index == self._limit:
                # Asking for more would read, and count as refused or made up, what is not sent.
                return

    def _portions_of(
        self, frame: pl.DataFrame, times: np.ndarray, due: np.ndarray | None, partitions: int
    ) -> Iterator[_Portion]:
        # A whole chunk is rendered at once and then cut: rendering each slice would cost milliseconds.
        own = frame["event_time"].to_numpy()
        sent = self._sent_times(own, times, due)
        if sent is not own:
            frame = frame.with_columns(pl.Series("event_time", sent))
        if self.id_suffix:
            kept = pl.col("impression_id").str.tail(MAX_ID - len(self.id_suffix))
            frame = frame.with_columns(kept + self.id_suffix)
        records = to_records(frame)
        if isinstance(self.log, DamagedLog):
            records = self.log.damage(records, own)
        places = partitions_of(frame["user_id"], partitions)
        acting = np.flatnonzero(records.kinds == KINDS.index(ACTION))
        names = frame.filter(pl.col("event") == ACTION)["action"].to_list()
        bounds = [(0, frame.height)] if due is None else list(slices(due))
        for start, stop in self._processes.cut(times, bounds):
            low, high = np.searchsorted(acting, [start, stop]).tolist()
            yield _Portion(
                records=records.cut(start, stop),
                partitions=places[start:stop],
                by_action=Counter(names[low:high]),
                due_s=None if due is None else float(due[stop - 1]),
                first_ms=int(times[start]),
                event_ms=int(times[stop - 1]),
            )

    def _sent_times(self, own: np.ndarray, delivered: np.ndarray, due: np.ndarray | None) -> np.ndarray:
        """Event times as they are sent: the log's ``own``, or shifted so that what is on time is of now."""
        if self.shift.mode == "keep":
            return own
        sent = self.shift.apply(delivered, due, int(clock.time() * 1000))
        # What is late, or has a wrong clock, stays as far off, pressed together as the log is.
        off = (own - delivered) / (self.pace.speed or 1.0)
        return np.asarray(sent + off.astype(np.int64))

    async def _wait_until(self, when: float) -> None:
        left = when - clock.monotonic()
        if left > 0:
            try:
                await asyncio.wait_for(self._stop.wait(), timeout=left)
            except TimeoutError:
                return

    def _count(self, portion: _Portion) -> None:
        report = self.report
        counts = np.bincount(portion.records.kinds, minlength=len(KINDS)).tolist()
        report.impressions += counts[KINDS.index(IMPRESSION)]
        report.actions += counts[KINDS.index(ACTION)]
        report.behaviours += counts[KINDS.index(BEHAVIOUR)]
        for name, count in portion.by_action.items():
            report.by_action[name] = report.by_action.get(name, 0) + count
        if report.first_ms is None:
            report.first_ms = portion.first_ms
        report.last_ms = portion.event_ms
        # A time that the engine refuses as future must not carry the last watermark with it.
        latest = clock.time() * 1000 + self.scenario.times.max_future_s * 1000
        taken = portion.records.times[portion.records.times <= latest]
        self._last_sent_ms = max(self._last_sent_ms, int(taken.max(initial=0)))

    async def _send_watermark(self, sender: Sender) -> None:
        self.report.watermark_ms = self._last_sent_ms + self.scenario.times.closing_ms
        value = msgspec.json.encode(Watermark(watermark=self.report.watermark_ms))
        self.report.watermarks = await sender.send_everywhere(value)


def prepare(connection: Connection, scenario: Scenario) -> None:
    """Check that the broker answers and takes us, and make the topics that are missing."""
    # Imported here: `clients.topics` brings a second Kafka client, which reading logs does not need.
    from clients.topics import ensure_topics

    check_broker(connection)
    ensure_topics(connection, scenario)


class _interrupts:  # noqa: N801 - used as a verb
    """Within it the first SIGINT or SIGTERM calls ``stop``; a second one does what it did before."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        for name in (signal.SIGINT, signal.SIGTERM):
            before = signal.getsignal(name)
            try:
                loop.add_signal_handler(name, self._once, loop)
            except (RuntimeError, ValueError):
                # Not the main thread, or an event loop without signals (Windows): Ctrl-C raises there.
                return
            self._before[name] = before

    def _once(self, loop: asyncio.AbstractEventLoop) -> None:
        self._stop()
        self._remove(loop)

    def __exit__(self, *_: object) -> None:
        self._remove(asyncio.get_running_loop())

    def _remove(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._before:
            name, before = self._before.popitem()
            loop.remove_signal_handler(name)
            # The loop leaves Python's default behind; None is a handler that Python did not install.
            if before is not None:
                signal.signal(name, before)
