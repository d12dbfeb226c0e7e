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
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from aiokafka.errors import KafkaError
from faust.types import TP
from prometheus_client import REGISTRY, CollectorRegistry
from threadpoolctl import threadpool_limits

from clients.connection import Connection
from clients.patience import patiently
from clients.refusal import BrokerRefused
from clients.topics import TopicsError, topic_ids
from contracts.errors import SurgelineError
from contracts.scenario import Scenario, home
from contracts.weights import Weights, WeightsError
from models.deep.locate import resolve_trunk
from state.errors import StateLockedError
from state.store import Store
from stream.backlog import Backlog
from stream.commit_note import CommitNote, encode_note
from stream.decode import Refused
from stream.engine import Engine
from stream.history import History
from stream.keys import KeyCheck
from stream.metrics import WorkerMetrics
from stream.publish import Publisher, named_rows
from stream.pulse import Pulse
from stream.resume import Place
from stream.timeline import Source
from stream.transport import PartitionBatch
from stream.warm_up import warm_up

logger = logging.getLogger(__name__)
T = TypeVar("T")

#: About how long one call keeps the engine's thread with ticks: a checkpoint waits no longer.
ADVANCE_BUDGET_S = 0.25
#: How long to wait for events when no tick is due.
IDLE_WAIT_S = 0.05
#: How often the partitions' ends are looked at.
LOOK_S = 0.5
#: A worker without a checkpoint for this long is not ready.
STILL_S = 30.0
#: Events that a partition may buffer while it is ahead of the others.
BUFFER_LIMIT = 30_000
#: Allocations and younger collections between two garbage collections of each generation.
GC_THRESHOLDS = (100_000, 50, 1000)


class BrokenEngineError(SurgelineError, RuntimeError):
    """The engine failed before and does nothing more; ``Runtime.fault`` says how."""


class Runtime:
    """Drives one ``Engine``; implements the transport's ``OffsetOwner``."""

    def __init__(
        self,
        scenario: Scenario,
        connection: Connection,
        worker_id: str,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self.scenario = scenario
        self.worker_id = worker_id
        self._connection = connection
        self.pulse = Pulse(scenario.times)
        self.history = History(self.pulse)
        self.metrics = WorkerMetrics(self.pulse, registry)
        self.state_folder: Path = home() / "state" / f"{scenario.name}-{worker_id}"
        self._publisher = Publisher(connection, scenario.topics, worker_id)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._engine: Engine | None = None
        self._kinds = {topic: kind for kind, topic in enumerate(scenario.topics.sources)}
        self._stopping = False
        #: What ended the engine: memory may be half-way through a tick, so it is asked for nothing more.
        self.fault: BaseException | None = None
        self._epoch = -1
        self._durable: dict[TP, CommitNote] = {}
        #: No event is taken and no tick runs: what is done now could not be committed any more.
        self._frozen = False
        self._held_back: set[TP] = set()
        #: Held by whoever takes events in or decides what is durable.
        self._intake = asyncio.Lock()
        #: Held by whoever publishes: a rebalance or the end may tick while the timer's tick does.
        self._publishing = asyncio.Lock()
        self._refused: list[tuple[str, int, Refused]] = []
        #: Newest feature rows that have not reached the features topic, by name; an empty one is forgotten.
        self._unsent: dict[bytes, bytes] = {}
        self._keys = KeyCheck(scenario.topics, self.metrics)
        #: What went out since the last checkpoint: [weight versions, feature rows].
        self._sent = [0, 0]
        #: The partitions that this worker has; none between a revocation and the next assignment.
        self._owned: set[TP] = set()
        self._ticked_at: float | None = None
        self._backlog = Backlog()

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
            engine.joins.counts.impressions,
        )

    def _open(self) -> Engine:
        # BLAS results depend on the number of threads; a state must not depend on the machine's cores.
        threadpool_limits(1, "blas")
        trunk = resolve_trunk(self.scenario.trunk, home())
        store = patiently(
            lambda: Store(self.state_folder, synced=True), StateLockedError, str(self.state_folder)
        )
        self._engine = Engine(self.scenario, store, trunk, self.worker_id)
        warm_up(self.scenario, trunk)
        # Before anything is read: the first figures that anybody sees are those that were restored.
        self.metrics.follow(self._engine)
        return self._engine

    async def leave(self, consumer: Any) -> None:
        """The last tick while the consumer can still commit; nothing is done after it."""
        if self._engine is None or self.fault is not None or self._epoch < 0:
            return
        try:
            await self.tick(consumer, last=True)
        except Exception:
            if self.fault is None:  # else the app says it
                logger.exception("The last tick failed; the state is that of the last checkpoint")

    async def stop(self) -> None:
        """Last tick, then close: nothing that was processed is lost or done again.

        An engine that failed half-way is not checkpointed: the state stays that of the last checkpoint.
        """
        self._stopping = True
        self._owned = set()
        self.metrics.own({})
        if self._engine is not None:
            if self.fault is None:
                try:
                    await self.tick(None)
                except Exception:
                    if self.fault is None:  # else the app says it
                        logger.exception("The last tick failed; the state is that of the last checkpoint")
            closed = self._engine.store.close
            await asyncio.get_running_loop().run_in_executor(self._thread, closed)
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
        if self._frozen:
            return
        if batch.epoch != self._epoch or source not in engine.timeline.sources():
            return
        refused = engine.ingest(source, batch.records, round(time.time() * 1000))
        self._refused += [(batch.topic, batch.partition, one) for one in refused]
        self._keys.look(batch)
        engine.advance(ADVANCE_BUDGET_S)
        self._align()

    async def drive(self, consumer: Any) -> None:
        """Run the ticks that are left when events come faster than one fetch's turn works off.

        Looks at the partitions' ends, too: the tick cannot, while it waits for a broker that does not answer.
        """
        looked = 0.0
        while not self._stopping:
            ends: dict[Source, float | None] = {}
            if time.monotonic() - looked >= LOOK_S:
                looked, ends = time.monotonic(), self._ends(consumer)
            ran = await self._call(self._step, ends)
            await asyncio.sleep(0 if ran else IDLE_WAIT_S)

    def _step(self, ends: Mapping[Source, float | None]) -> int:
        return 0 if self._engine is None or self._frozen else self._advance(ends)

    def _ends(self, consumer: Any) -> dict[Source, float | None]:
        """When the sources were known to be read to their end, None for those that are not.

        The engine's thread may take this up much later, behind batches that came meanwhile.
        """
        if self._engine is None:
            return {}
        return {source: consumer.ended_at(self._tp(source)) for source in self._engine.timeline.sources()}

    def _align(self) -> None:
        timeline = self.engine.timeline
        self.pulse.see(self.engine.totals.ticks, timeline.buffered)
        ahead = timeline.ahead(BUFFER_LIMIT)
        self._held_back = {self._tp(source) for source in ahead}

    # -- the tick

    async def tick(self, consumer: Any | None, last: bool = False) -> None:
        """One wall-clock second. ``consumer`` is the transport's; None where it is gone already.

        In a backlog not every second ends in a checkpoint (``stream.backlog``). ``last``: nothing is taken or
        run after it until partitions are assigned again.
        """
        started = time.monotonic()
        if consumer is not None:
            ends = self._ends(consumer)
            await self._call(self._step, ends)
            lags = {tp: consumer.lag(tp) for tp in self._owned}
            self.metrics.own(lags)
            if not last and not self._due(sum(lag or 0 for lag in lags.values())):
                return
        created_at = round(time.time() * 1000)
        # No batch comes in between: a checkpoint must not hold offsets whose dead letters are not out yet.
        async with self._intake:
            self._frozen = self._frozen or last
            if not await self._send_dead_letters():
                return
            # To its end also where this tick is cancelled: rows that are taken are published by nobody else.
            weights, complete = await asyncio.shield(self._take_checkpoint(created_at))
        self._ticked_at = time.monotonic()
        async with self._publishing:
            await self._publish(weights, complete, consumer)
        self.metrics.tick.observe(time.monotonic() - started)

    def _due(self, lag: int) -> bool:
        """Whether a checkpoint is due; ``lag``: records that are not fetched yet."""
        engine = self.engine
        # More rows than memory may hold leave it after a checkpoint only.
        return engine.features.overfull or self._backlog.due(
            engine.totals.events, lag + engine.timeline.buffered
        )

    async def _take_checkpoint(self, created_at: int) -> tuple[Weights, tuple[int, int, int]]:
        """A checkpoint, and its rows among those to publish; returns what else ``_checkpoint`` does."""
        sent, self._sent = self._sent, [0, 0]
        weights, rows, complete = await self._call(self._checkpoint, created_at, sent)
        self._unsent.update(rows)
        return weights, complete

    async def _publish(self, weights: Weights, complete: tuple[int, int, int], consumer: Any | None) -> None:
        engine = self.engine
        # Taken out while they are on their way: another tick adds rows meanwhile.
        sending, self._unsent = self._unsent, {}
        try:
            self._sent[1] += await self._publisher.feature_rows(sending)
            sending = {}
            engine.features.acknowledge(complete[2])
            if complete[0] == engine.totals.older_logs:  # else time has started over meanwhile
                engine.published_until = complete[1]
            if consumer is not None:
                await consumer.commit()
            size = await self._publisher.weights(weights)
        except (KafkaError, WeightsError, OSError) as error:
            logger.warning(
                "Publishing version %d failed: %r; the next tick tries again", weights.version, error
            )
            self.metrics.publish_failures.inc()
        else:
            self._sent[0] += 1
            self.metrics.published(weights.version, size)
        finally:
            self._unsent = sending | self._unsent

    def _advance(self, ends: Mapping[Source, float | None]) -> int:
        engine = self.engine
        for source, ended in ends.items():
            engine.timeline.set_ended(source, ended)
        ran = engine.advance(ADVANCE_BUDGET_S)
        self._align()
        return ran

    def _checkpoint(
        self, created_at: int, sent: Sequence[int]
    ) -> tuple[Weights, dict[bytes, bytes], tuple[int, int, int]]:
        """The next weights, the rows to publish by name, and (pass of time, up to when these make rows
        complete, number of the take).

        ``sent``: how many weights and feature rows went out since the last checkpoint.
        """
        engine = self.engine
        started = time.monotonic()
        engine.totals.sent.weights += sent[0]
        engine.totals.sent.feature_rows += sent[1]
        weights = engine.weights(created_at)
        engine.features.expire(engine.done_until)
        rows = named_rows(engine.features.take_changed(), self.worker_id)
        until = engine.published_until if engine.features.republishing else weights.watermarks.features
        complete = engine.totals.older_logs, until, engine.features.takes
        engine.checkpoint()
        self._backlog.checkpoint(engine.totals.events)
        # Set here, in the engine's thread: a rebalance that comes next replaces it in the same thread.
        self._durable = {self._tp(source): note for source, note in engine.commit_notes().items()}
        self.metrics.checkpoint.observe(time.monotonic() - started)
        self.metrics.follow(engine)
        self._keys.report(engine.notices)
        self.history.record(engine, engine.totals.refused, created_at)
        return weights, rows, complete

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
        letters = self.engine.totals.sent.dead_letters
        for topic, _, _ in self._refused:
            letters[topic] = letters.get(topic, 0) + 1
        self._refused.clear()
        return True

    # -- offsets (the transport's OffsetOwner)

    async def remembered(self) -> set[TP]:
        """Source partitions that the state knows, whoever has them now."""
        known = await self._call(lambda: list(self.engine.intake.known))
        return {self._tp(source) for source in known}

    async def resume(
        self, places: Mapping[TP, Place], elsewhere: Mapping[TP, Place], epoch: int
    ) -> Mapping[TP, int]:
        """Where to read from after a rebalance; ``stream.resume`` says how that is decided."""
        ids = await self._topic_ids(logging.WARNING)

        def identified(some: Mapping[TP, Place]) -> dict[TP, Place]:
            return {tp: place._replace(topic=ids.get(tp.topic, "")) for tp, place in some.items()}

        offsets = await self._call(self._resume, identified(places), identified(elsewhere), epoch)
        logger.info("Reading %d partitions, %d from this state's own offsets", len(places), len(offsets))
        return offsets

    def _resume(self, places: Mapping[TP, Place], elsewhere: Mapping[TP, Place], epoch: int) -> dict[TP, int]:
        engine = self.engine
        self._epoch = epoch
        self._durable = {}
        self._frozen = False
        sources = {
            Source(self._kinds[tp.topic], tp.partition): tp for tp in places if tp.topic in self._kinds
        }
        for source in engine.timeline.sources():
            engine.revoke(source)
        offsets = {}
        for source, tp in sources.items():
            offset = engine.assign(source, places[tp])
            if offset is not None:
                offsets[tp] = offset
        for tp, place in elsewhere.items():
            engine.intake.compare(Source(self._kinds[tp.topic], tp.partition), place, engine.totals)
        self._owned = set(sources.values())
        return offsets

    async def _topic_ids(self, level: int = logging.DEBUG) -> Mapping[str, str]:
        """Ids of the source topics; those that cannot be had are left out: offsets are compared then."""
        try:
            return await asyncio.to_thread(topic_ids, self._connection, list(self._kinds))
        except (TopicsError, BrokerRefused) as error:
            # Asked for now and then, too: an outage is said elsewhere, and once.
            logger.log(level, "The topics' ids cannot be read: %s", error)
            return {}

    async def check_topics(self, consumer: Any) -> None:
        """Begin anew with topics that were deleted and made anew while this worker runs."""
        known = {tp.topic: note.topic for tp, note in self._durable.items() if note.topic}
        ids = await self._topic_ids()
        if any(ids.get(topic, known[topic]) != known[topic] for topic in known):
            await consumer.perform_seek()

    def unready(self) -> str | None:
        """Why this worker does not do its work yet, or any more; None where it does."""
        if self._engine is None or self._ticked_at is None:
            return "starting: state, broker or partitions are not there yet"
        silent = time.monotonic() - self._ticked_at
        if silent > STILL_S:
            return f"no checkpoint for {silent:.0f} s"
        standing = self.pulse.standing_s()
        return f"events wait and no tick has run for {standing:.0f} s" if standing else None

    def committable(self) -> Mapping[TP, int]:
        """Offsets as of the last checkpoint."""
        return {tp: note.resume_at for tp, note in self._durable.items()}

    def commit_text(self, tp: TP) -> str:
        """The note that is committed beside the offset."""
        note = self._durable.get(tp)
        return "" if note is None else encode_note(note)

    def held_back(self) -> set[TP]:
        """Partitions that are ahead of the others in event time and have much buffered."""
        return self._held_back

    async def revoked(self, consumer: Any) -> None:
        """Partitions go away: make what was processed durable before another worker reads on.

        Nothing is done after that: it could not be committed, and another worker would do it again.
        """
        # Whoever has them next shows their lag. It would stay here as it was, and call for a restart.
        self._owned = set()
        self.metrics.own({})
        if self._engine is None or self._epoch < 0:
            return
        await self.tick(consumer, last=True)
        # What is still buffered waits for its next reader, and for no tick of this worker.
        self.pulse.see(self.engine.totals.ticks, 0)

    # -- helpers

    def _tp(self, source: Source) -> TP:
        return TP(self.scenario.topics.sources[source.kind], source.partition)

    def _call(self, function: Callable[..., T], *args: Any) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, function, *args)

    def _guarded(self, function: Callable[..., T], *args: Any) -> T:
        # A call that stood in line behind the one that failed must not checkpoint what that left.
        if self.fault is not None:
            raise BrokenEngineError(f"the engine failed before: {self.fault}") from self.fault
        try:
            return function(*args)
        except BaseException as error:
            self.fault = error
            raise
