"""A recorded log with faults, to be played as any other: the faults of the simulator, composed over a log.

Faults apply in the order of `fault_options.FAULTS`, whatever the order in which they were asked for: traffic
is flooded, then held back, delayed and doubled on its way, and last its clocks and bytes are wrong. Each has
random numbers of its own from (seed, name, how many of that name came before), so that adding one fault
leaves the others as they were. Durations are those of the log: a replay at 10x presses them together too.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from replay.fault_options import FAULTS, OF_PROCESSES, Fault, parse_fault
from replay.log import CHUNK_ROWS, LogInfo, RecordedLog
from replay.order import in_slices
from replay.player import DELIVERED
from replay.records import Records
from replay.simulate import faults as frame_faults
from replay.simulate import record_faults
from replay.simulate.faults import FaultError, Faulty

#: Faults of frames; the others change single records.
_OF_FRAMES = ("hot_key", "label_outage", "late", "duplicates", "clock_skew")
_DEFAULT_LEAST_MS = 1_000


class FaultyLog:
    """``log`` with ``faults``; ``counts`` says what each did, complete once the log was read to its end.

    ``limit``: only the log's first events, before the faults. `chunks` has the column ``delivered_ms``;
    `damage` renders what a frame cannot hold, and is called once for each chunk, in order.
    """

    def __init__(
        self, log: RecordedLog, faults: Sequence[str | Fault], seed: int = 0, limit: int | None = None
    ) -> None:
        parsed = [parse_fault(fault) if isinstance(fault, str) else fault for fault in faults]
        for fault in parsed:
            if fault.name in OF_PROCESSES:
                raise FaultError(f"fault {fault.name} is of a process, not of the log: see ProcessFaults")
        names = list(FAULTS)
        self.name = log.name
        self.faults = sorted(parsed, key=lambda fault: names.index(fault.name))
        self._log = log
        self._seed = seed
        self._limit = limit
        self._made: list[tuple[str, Faulty[Any]]] = []
        self._damage: _OneByOne | None = None
        # What can be known to be wrong is refused before anything is read.
        self._start(iter(()), 0)

    @property
    def counts(self) -> list[tuple[str, dict[str, int]]]:
        """(fault as written, what it did) in the order of application."""
        return [(text, dict(fault.counts)) for text, fault in self._made]

    @property
    def files(self) -> Sequence[Any]:
        """The files of the log, where it has any."""
        files: Sequence[Any] = getattr(self._log, "files", ())
        return files

    @property
    def tally(self) -> Any:
        """What the log refused."""
        return getattr(self._log, "tally", None)

    def info(self) -> LogInfo:
        """Counts of the log without the faults."""
        return self._log.info()

    def chunks(self, rows: int = CHUNK_ROWS) -> Iterator[pl.DataFrame]:
        """Frames in order of delivery; ``event_time`` may stand out of order. Every call starts anew."""
        copies = sum(fault.values["copies"] for fault in self.faults if fault.name == "hot_key")
        source = self._limited(max(1, rows // (1 + copies)))
        opening = next(source, None)
        if opening is None:
            return
        stream = self._start(_chain(opening, source), int(opening["event_time"][0]))
        newest = -(2**62)
        for frame in in_slices(stream, rows):
            if frame.height:
                at = np.maximum(np.maximum.accumulate(frame[DELIVERED].to_numpy()), newest)
                newest = int(at[-1])
                yield frame.with_columns(pl.Series(DELIVERED, at))

    def damage(self, records: Records, times: np.ndarray) -> Records:
        """``records`` of the next chunk with the faults of records; ``times``: the log's event times (ms)."""
        if self._damage is None:
            return records
        damaged = self._damage(replace(records, times=times))
        return replace(damaged, times=records.times)

    def _limited(self, rows: int) -> Iterator[pl.DataFrame]:
        left = self._limit
        for chunk in self._log.chunks(rows):
            frame = chunk if left is None else chunk.head(left)
            if frame.height:
                yield frame.with_columns(pl.col("event_time").alias(DELIVERED))
            if left is not None:
                left -= frame.height
                if left <= 0:
                    return

    def _start(self, frames: Iterable[pl.DataFrame], first_ms: int) -> Iterable[pl.DataFrame]:
        """The frames with their faults; a chain for the records is made beside them."""
        nth: Counter[str] = Counter()
        self._made, self._damage = [], None
        inbox = _OneByOne()
        records: Iterable[Records] = inbox.incoming()
        for fault in self.faults:
            seed = [self._seed, zlib.crc32(fault.name.encode()), nth[fault.name]]
            number = int(np.random.SeedSequence(seed).generate_state(1)[0])
            nth[fault.name] += 1
            try:
                if fault.name in _OF_FRAMES:
                    frames = made = _of_frames(fault, frames, first_ms, number)
                    self._made.append((fault.text, made))
                else:
                    records = damaged = _of_records(fault, records, first_ms, number)
                    self._made.append((fault.text, damaged))
                    self._damage = inbox
            except FaultError as error:
                raise FaultError(f"fault {fault.name}: {error}") from error
        inbox.outgoing = iter(records)
        return frames


class _OneByOne:
    """Pushes one batch of records through a chain of lazy faults, which give one for each that they take."""

    def __init__(self) -> None:
        self._next: list[Records] = []
        self.outgoing: Iterator[Records] = iter(())

    def incoming(self) -> Iterator[Records]:
        while self._next:
            yield self._next.pop()

    def __call__(self, records: Records) -> Records:
        self._next.append(records)
        return next(self.outgoing)


def _of_frames(
    fault: Fault, frames: Iterable[pl.DataFrame], first_ms: int, seed: int
) -> Faulty[pl.DataFrame]:
    values = fault.values
    if fault.name == "hot_key":
        start, end = _window(values, first_ms)
        return frame_faults.hot_key(
            frames, from_ms=start, until_ms=end, copies=values["copies"], item_id=values["item"]
        )
    if fault.name == "label_outage":
        start, end = _window(values, first_ms)
        return frame_faults.label_outage(frames, from_ms=start, until_ms=end, lost=values["how"] == "lost")
    if fault.name == "late":
        most = values["most"]
        least = min(_DEFAULT_LEAST_MS, most) if values["least"] is None else values["least"]
        return frame_faults.late(frames, share=values["share"], seed=seed, least_ms=least, most_ms=most)
    if fault.name == "duplicates":
        return frame_faults.duplicates(frames, share=values["share"], seed=seed, within_ms=values["within"])
    return frame_faults.clock_skew(
        frames, share=values["share"], seed=seed, skew_ms=values["skew"], whose=values["whose"]
    )


def _of_records(fault: Fault, records: Iterable[Records], first_ms: int, seed: int) -> Faulty[Records]:
    values = fault.values
    if fault.name == "malformed":
        return record_faults.malformed(records, share=values["share"], seed=seed)
    return record_faults.schema_change(
        records, kind=values["kind"], field=values["field"], from_ms=first_ms + values["start"]
    )


def _window(values: dict[str, Any], first_ms: int) -> tuple[int, int]:
    start = first_ms + values["start"]
    return start, start + values["length"]


def _chain(first: pl.DataFrame, rest: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    yield first
    yield from rest


def describe(counts: Sequence[tuple[str, dict[str, int]]]) -> Iterator[str]:
    """One line a fault.

    >>> list(describe([("late=0.1", {"late": 12, "out_of_order": 1100})]))
    ['fault late=0.1: late 12, out_of_order 1,100']
    """
    for text, did in counts:
        yield f"fault {text}: " + ", ".join(f"{name} {count:,}" for name, count in did.items())
