"""Rehearsal: a recorded log through the worker's own engine, without a broker.

Events take the partitions and offsets that a broker would give them, and ticks run in event time, so the
weights digest at the end equals a worker's that read the same log from Kafka.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from contracts.events import KINDS, Watermark
from contracts.scenario import Scenario
from contracts.weights import LearnerMetrics
from models.deep.trunk import Trunk
from replay.produce import partitions_of
from replay.records import to_records
from state.joins.columns import Closed
from state.store import Store
from stream.decode import Record
from stream.engine import Engine
from stream.resume import Place
from stream.timeline import Source

#: Wall-clock seconds between two checkpoints, as in the worker.
CHECKPOINT_S = 1.0
#: A wall-clock time (ms) by which every event's own time has come.
FAR_MS = 2**60


class RehearsalReport(msgspec.Struct, kw_only=True):
    """What a rehearsal did and learned. Metrics are progressive over all samples."""

    events: int
    impressions: int
    actions: dict[str, int]
    behaviours: int
    samples: int
    positives: int
    refused: int
    refused_because: str
    orphans_waiting: int
    orphans_expired: int
    actions_after_label: int
    ticks: int
    seconds: float
    metrics: dict[str, LearnerMetrics]
    weights_digest: str
    trunk_hash: str


class Rehearsal:
    """Feeds canonical frames to an engine. ``observer`` sees every tick's closed samples before learning."""

    def __init__(
        self,
        scenario: Scenario,
        trunk: Trunk,
        folder: str | Path,
        observer: Callable[[int, Closed], None] | None = None,
        ordered: bool = True,
    ) -> None:
        self._ordered = ordered
        # As in the worker: results must not depend on the number of cores.
        threadpool_limits(1, "blas")
        self.engine = Engine(scenario, Store(folder), trunk)
        self.engine.observer = observer
        #: Why the first refused record was refused.
        self.refused_because = ""
        self._began = time.monotonic()
        self._partitions = scenario.topics.partitions
        self._offsets: dict[Source, int] = {}
        for kind in range(len(KINDS)):
            for partition in range(self._partitions):
                source = Source(kind, partition)
                self.engine.assign(source, Place())
                self._offsets[source] = 0
        self._checkpointed = time.monotonic()
        self._last_ms = 0

    def feed(self, frame: pl.DataFrame) -> None:
        """Take a frame and run the ticks that it completes.

        Frames follow each other in event time, as logs do; one that goes back begins another log. Where
        ``ordered`` is false, rows are in the order in which they are sent, and only what each partition
        holds says how far the input is complete.
        """
        if not frame.height:
            return
        records = to_records(frame)
        partitions = partitions_of(frame["user_id"], self._partitions)
        now_ms = round(time.time() * 1000)
        lanes = partitions * len(KINDS) + records.kinds
        for lane in np.unique(lanes).tolist():
            rows = np.flatnonzero(lanes == lane).tolist()
            source = Source(lane % len(KINDS), lane // len(KINDS))
            first = self._offsets[source]
            self._offsets[source] = first + len(rows)
            batch = [Record(first + i, records.keys[row], records.values[row]) for i, row in enumerate(rows)]
            refused = self.engine.ingest(source, batch, now_ms)
            if refused and not self.refused_because:
                self.refused_because = refused[0].reason
        # A time that the engine refuses as future must not carry the last watermark with it.
        latest = now_ms + self.engine.scenario.times.max_future_s * 1000
        self._last_ms = max(self._last_ms, int(records.times[records.times <= latest].max(initial=0)))
        if self._ordered:
            for source in self._offsets:
                self.engine.timeline.complete(source, int(records.times[-1]))
        self._advance()

    def finish(self) -> None:
        """The log is over: close every label that is still open, as the replay's watermarks do."""
        if self._last_ms:
            mark = self._last_ms + self.engine.scenario.times.closing_ms
            value = msgspec.json.encode(Watermark(watermark=mark))
            now_ms = round(time.time() * 1000)
            for source, offset in self._offsets.items():
                self.engine.ingest(source, [Record(offset, None, value)], now_ms)
                self._offsets[source] = offset + 1
            self._last_ms = 0
        self._advance()
        self.engine.checkpoint()

    def report(self) -> RehearsalReport:
        """What was done since the start."""
        engine = self.engine
        totals, join = engine.totals, engine.joins.counts
        return RehearsalReport(
            events=totals.events,
            impressions=join.impressions,
            actions=dict(totals.actions_by_kind),
            behaviours=totals.behaviours_read,
            samples=join.samples,
            positives=join.positives,
            refused=totals.refused,
            refused_because=self.refused_because,
            orphans_waiting=join.orphans_waiting,
            orphans_expired=join.orphans_expired,
            actions_after_label=join.actions_after_label,
            ticks=totals.ticks,
            seconds=time.monotonic() - self._began,
            metrics=engine.panel.metrics(),
            weights_digest=engine.weights_digest(),
            trunk_hash=engine.trunk.hash,
        )

    def _advance(self) -> None:
        engine = self.engine
        now = time.monotonic()
        # What would wait for its time in production does not: nobody waits for a rehearsal's clock.
        engine.timeline.release(now, FAR_MS)
        engine.advance()
        engine.stats.take()
        if now - self._checkpointed > CHECKPOINT_S:
            engine.features.drop_changed()
            engine.checkpoint()
            self._checkpointed = now


def rehearse(
    frames: Iterable[pl.DataFrame],
    scenario: Scenario,
    trunk: Trunk,
    observer: Callable[[int, Closed], None] | None = None,
) -> RehearsalReport:
    """Run frames in event-time order through a fresh engine; its state is thrown away at the end."""
    return rehearse_logs([frames], scenario, trunk, observer)


def rehearse_logs(
    logs: Iterable[Iterable[pl.DataFrame]],
    scenario: Scenario,
    trunk: Trunk,
    observer: Callable[[int, Closed], None] | None = None,
    ordered: bool = True,
) -> RehearsalReport:
    """Run several logs one after the other, as replays of them would come: older ones after newer ones, too.

    ``ordered``: whether each log's rows follow each other in event time (``Rehearsal.feed``).
    """
    with tempfile.TemporaryDirectory(prefix="surgeline-rehearsal-") as folder:
        rehearsal = Rehearsal(scenario, trunk, folder, observer, ordered)
        with contextlib.closing(rehearsal.engine.store):
            for frames in logs:
                for frame in frames:
                    rehearsal.feed(frame)
                rehearsal.finish()
            return rehearsal.report()
