"""A worker's engine inside Faust: one thread for the engine, the tick, and who owns the offsets.

Everything that touches the engine runs in one thread of its own, in order; the event loop stays free for
heartbeats and fetching. The tick's order is the one that survives a crash at any point: learn, dead letters
out, one atomic checkpoint with the offsets, changelog rows, commit to Kafka, publish weights.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from aiokafka.errors import KafkaError
from faust.types import TP
from threadpoolctl import threadpool_limits

from models.deep.locate import resolve_trunk
from models.weights import WeightsError
from state.errors import StateLockedError
from state.store import Store
from stream.decode import Refused
from stream.engine import ACTIONS_KIND, IMPRESSIONS, Engine
from stream.history import History
from stream.metrics import WorkerMetrics
from stream.patience import patiently
from stream.publish import Publisher
from stream.scenario import Scenario, home
from stream.timeline import Source
from stream.transport import PartitionBatch

logger = logging.getLogger(__name__)
T = TypeVar("T")

#: About how long one call keeps the engine's thread with ticks: a checkpoint waits no longer.
ADVANCE_BUDGET_S = 0.25
#: How long to wait for events when no tick is due.
IDLE_WAIT_S = 0.05
#: How often the partitions' ends are looked at.
LOOK_S = 0.5
#: Events that a partition may buffer while it is ahead of the others.
BUFFER_LIMIT = 30_000
#: Allocations and younger collections between two garbage collections of each generation.
GC_THRESHOLDS = (100_000, 50, 1000)


class Runtime:
    """Drives one ``Engine``; implements the transport's ``OffsetOwner``."""

    def __init__(self, scenario: Scenario, bootstrap: str, worker_id: str, metrics: WorkerMetrics) -> None:
        self.scenario = scenario
        self.worker_id = worker_id
        self.history = History()
        self.metrics = metrics
        self.state_folder: Path = home() / "state" / f"{scenario.name}-{worker_id}"
        self._publisher = Publisher(bootstrap, scenario.topics, worker_id)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._engine: Engine | None = None
        self._kinds = {scenario.topics.impressions: IMPRESSIONS, scenario.topics.actions: ACTIONS_KIND}
        self._stopping = False
        self._broken = False
        self._epoch = -1
        self._durable: dict[TP, int] = {}
        self._held_back: set[TP] = set()
        #: Held by whoever takes events in or decides what is durable.
        self._intake = asyncio.Lock()
        self._refused: list[tuple[str, int, Refused]] = []
        #: Newest feature rows that have not reached the features topic, by (table, entity).
        self._unsent: dict[tuple[str, str], bytes] = {}
        self._refused_by_topic: Counter[str] = Counter()

    # -- life

    async def start(self) -> None:
        """Open the state, restore the last checkpoint, connect the producer."""
        engine = await self._call(self._open)
        await self._publisher.start()
        if engine.version == 0:
            await self._publisher.retire()
        # A backlog keeps many live records: full collections over them cost a seventh of the CPU. What is
        # alive now stays alive; the rest is mostly freed by reference counts.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        logger.info(
            "Engine ready: state %s, trunk %s, version %d, %d impressions so far",
            self.state_folder,
            engine.trunk.hash[:12],
            engine.version,
            engine.join.counts.impressions,
        )

    def _open(self) -> Engine:
        # BLAS results depend on the number of threads; a state must not depend on the machine's cores.
        threadpool_limits(1, "blas")
        trunk = resolve_trunk(self.scenario.trunk, home())
        store = patiently(
            lambda: Store(self.state_folder, synced=True), StateLockedError, str(self.state_folder)
        )
        self._engine = Engine(self.scenario, store, trunk, self.worker_id)
        return self._engine

    async def stop(self) -> None:
        """Last tick, then close: nothing that was processed is lost or done again.

        An engine that failed half-way is not checkpointed: the state stays that of the last checkpoint.
        """
        self._stopping = True
        if self._engine is not None:
            if not self._broken:
                try:
                    await self.tick(None)
                except Exception:
                    logger.exception("The last tick failed; the state is that of the last checkpoint")
            await self._call(self._engine.store.close)
            self._engine = None
        await self._publisher.stop()
        self._thread.shutdown(wait=True)

    @property
    def engine(self) -> Engine:
        """The engine; only its own thread may change it."""
        if self._engine is None:
            raise RuntimeError("the runtime is not started")
        return self._engine

    # -- events

    async def ingest(self, batch: PartitionBatch) -> None:
        """Take one partition batch and run the ticks that it completes."""
        if batch.epoch != self._epoch:
            return  # fetched before a rebalance; it will be read again
        async with self._intake:
            await self._call(self._ingest, batch)

    def _ingest(self, batch: PartitionBatch) -> None:
        engine = self.engine
        source = Source(self._kinds[batch.topic], batch.partition)
        if batch.epoch != self._epoch or source not in engine.timeline.sources():
            return
        refused = engine.ingest(source, batch.records, round(time.time() * 1000))
        self._refused += [(batch.topic, batch.partition, one) for one in refused]
        engine.advance(ADVANCE_BUDGET_S)
        self._align()

    async def drive(self, consumer: Any) -> None:
        """Run the ticks that are left when events come faster than one fetch's turn works off.

        Looks at the partitions' ends, too: the tick cannot, while it waits for a broker that does not answer.
        """
        looked = 0.0
        while not self._stopping:
            ends: dict[Source, bool] = {}
            if time.monotonic() - looked >= LOOK_S:
                looked, ends = time.monotonic(), self._ends(consumer)
            ran = await self._call(self._step, ends)
            await asyncio.sleep(0 if ran else IDLE_WAIT_S)

    def _step(self, ends: Mapping[Source, bool]) -> int:
        return 0 if self._engine is None else self._advance(ends)

    def _ends(self, consumer: Any) -> dict[Source, bool]:
        """Which sources are known to be read to their end."""
        if self._engine is None:
            return {}
        return {source: consumer.at_end(self._tp(source)) for source in self._engine.timeline.sources()}

    def _align(self) -> None:
        ahead = self.engine.timeline.ahead(BUFFER_LIMIT, time.monotonic())
        self._held_back = {self._tp(source) for source in ahead}

    # -- the tick

    async def tick(self, consumer: Any | None) -> None:
        """One wall-clock second. ``consumer`` is the transport's; None where it is gone already."""
        started = time.monotonic()
        if consumer is not None:
            ends = self._ends(consumer)
            await self._call(self._advance, ends)
            for source in ends:
                tp = self._tp(source)
                self.metrics.lag.labels(tp.topic, str(tp.partition)).set(consumer.lag(tp))
        created_at = round(time.time() * 1000)
        # No batch comes in between: a checkpoint must not hold offsets whose dead letters are not out yet.
        async with self._intake:
            if not await self._send_dead_letters():
                return
            weights, offsets, rows = await self._call(self._checkpoint, created_at)
        self._durable = {self._tp(source): offset for source, offset in offsets.items()}
        self._unsent.update(((table, entity), row) for table, entity, row in rows)
        try:
            sent = await self._publisher.feature_rows(
                (table, entity, row) for (table, entity), row in self._unsent.items()
            )
            self._unsent.clear()
            self.engine.published_until = weights.watermarks.features
            if consumer is not None:
                await consumer.commit()
            size = await self._publisher.weights(weights)
        except (KafkaError, WeightsError, OSError) as error:
            logger.warning(
                "Publishing version %d failed: %r; the next tick tries again", weights.version, error
            )
            self.metrics.publish_failures.inc()
        else:
            self.metrics.feature_rows_published.inc(sent)
            self.metrics.published.inc()
            self.metrics.version.set(weights.version)
            self.metrics.weights_bytes.set(size)
        self.metrics.tick.observe(time.monotonic() - started)

    def _advance(self, ends: Mapping[Source, bool]) -> int:
        engine, now = self.engine, time.monotonic()
        for source, at_end in ends.items():
            engine.timeline.set_at_end(source, at_end, now)
        ran = engine.advance(ADVANCE_BUDGET_S)
        self._align()
        return ran

    def _checkpoint(self, created_at: int) -> tuple[Any, dict[Source, int], list[tuple[str, str, bytes]]]:
        engine = self.engine
        started = time.monotonic()
        weights = engine.weights(created_at)
        rows = list(engine.features.take_changed())
        offsets = engine.checkpoint()
        self.metrics.checkpoint.observe(time.monotonic() - started)
        self.metrics.follow(engine, self._refused_by_topic, created_at)
        self.history.record(engine, engine.totals.refused, created_at)
        return weights, offsets, rows

    async def _send_dead_letters(self) -> bool:
        """Dead letters must be out before their offsets are done. False: not this time, no checkpoint."""
        if not self._refused:
            return True
        try:
            await self._publisher.dead_letters(self._refused)
        except (KafkaError, OSError) as error:
            logger.warning("%d dead letters cannot be written: %r; trying again", len(self._refused), error)
            self.metrics.publish_failures.inc()
            return False
        self._refused_by_topic.update(topic for topic, _, _ in self._refused)
        self._refused.clear()
        return True

    # -- offsets (the transport's OffsetOwner)

    async def resume(
        self, committed: Mapping[TP, int | None], ends: Mapping[TP, int], epoch: int
    ) -> Mapping[TP, int]:
        """Where to read from after a rebalance: what this state knows, unless another worker went further."""
        offsets = await self._call(self._resume, committed, ends, epoch)
        logger.info("Reading %d partitions, %d from this state's own offsets", len(committed), len(offsets))
        return offsets

    def _resume(
        self, committed: Mapping[TP, int | None], ends: Mapping[TP, int], epoch: int
    ) -> dict[TP, int]:
        engine = self.engine
        self._epoch = epoch
        self._durable = {}
        sources = {
            Source(self._kinds[tp.topic], tp.partition): tp for tp in committed if tp.topic in self._kinds
        }
        for source in engine.timeline.sources():
            engine.revoke(source)
        offsets = {}
        for source, tp in sources.items():
            offset = engine.assign(source, committed[tp], ends.get(tp))
            if offset is not None:
                offsets[tp] = offset
        return offsets

    def committable(self) -> Mapping[TP, int]:
        """Offsets as of the last checkpoint."""
        return self._durable

    def held_back(self) -> set[TP]:
        """Partitions that are ahead of the others in event time and have much buffered."""
        return self._held_back

    async def revoked(self, consumer: Any) -> None:
        """Partitions go away: make what was processed durable before another worker reads on."""
        if self._engine is not None and self._epoch >= 0:
            await self.tick(consumer)

    # -- helpers

    def _tp(self, source: Source) -> TP:
        topics = self.scenario.topics
        return TP(topics.impressions if source.kind == IMPRESSIONS else topics.actions, source.partition)

    def _call(self, function: Callable[..., T], *args: Any) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, function, *args)

    def _guarded(self, function: Callable[..., T], *args: Any) -> T:
        try:
            return function(*args)
        except BaseException:
            self._broken = True
            raise
