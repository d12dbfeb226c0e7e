"""A Faust transport that hands an agent one whole partition batch as one event.

Faust's own path makes several tasks a message; here a message is everything that one fetch brought for a
partition, so that cost is paid once a batch. It is registered under setuptools' ``faust.transports`` as
``batch``: use ``broker="batch://host:9092"`` and declare a topic with ``value_serializer="batch"``. Other
topics of the app (changelogs too) keep Faust's one message a record.

Commits: a batch stands for its range of offsets. By default a partition is committed up to the last batch
before the first that is not acknowledged. An app that keeps offsets in its own state sets ``App.offsets``
(``OffsetOwner``): then only what that state holds is committed, and partitions start where it says.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, cast

import faust
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.serializers.codecs import Codec, register
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage, Message

from stream.commit_note import decode_note
from stream.plain_records import hand_out_plain_records
from stream.resume import Place

#: How long to wait for room when every partition's buffer is full (Faust's own wait is a second).
FULL_WAIT_S = 0.01
#: How long a broker may wait for new records before it answers a fetch. A broker is asked for one fetch at a
#: time: while it waits for records of partitions that are read to their end, others' backlog stands still.
FETCH_WAIT_MS = 100
#: How long to wait for some partitions while others are held back, or have a full buffer.
HELD_WAIT_S = 0.02
#: A partition's end is known for this long after a fetch: far longer than one takes on a busy machine.
ANSWER_S = 3.0


class PartitionBatch(NamedTuple):
    """The value of a batch event. ``records`` have ``offset``, ``key``, ``value``, ``timestamp``.

    ``epoch`` changes with every seek: a batch of an older epoch was fetched before a rebalance.
    ``partitions`` is how many the topic has, 0 where that is not known.
    """

    topic: str
    partition: int
    records: list[Any]
    epoch: int
    partitions: int = 0


class OffsetOwner(Protocol):
    """A state that owns the offsets of batch topics."""

    async def remembered(self) -> set[TP]:
        """Partitions that the state knows, assigned or not."""

    async def resume(
        self, places: Mapping[TP, Place], elsewhere: Mapping[TP, Place], epoch: int
    ) -> Mapping[TP, int]:
        """Where to read each partition from; partitions left out stay where the group is. ``elsewhere``:
        what the group has committed of remembered partitions that are not assigned here."""

    def committable(self) -> Mapping[TP, int]:
        """Offsets (of the next record) that the state has made durable."""

    def commit_text(self, tp: TP) -> str:
        """What to commit beside the offset of a partition: its note as text."""

    def held_back(self) -> set[TP]:
        """Partitions that should not be fetched for now."""


class BatchCodec(Codec):
    """Marks a topic whose messages are partition batches; passes values through."""

    def loads(self, s: Any) -> Any:
        """The batch as it is."""
        return s


register("batch", BatchCodec())


class Consumer(driver.Consumer):
    """Faust's aiokafka consumer, with batches for topics that ask for them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.epoch = 0
        # A rebalance seeks, and so does a fetch that ended across it; the owner must hear the newest last.
        self._seeking = asyncio.Lock()
        self._batched: dict[str, bool] = {}
        # Per partition, batches in order of delivery: [last offset, message or None where agents are done].
        self._delivered: dict[TP, deque[list[Any]]] = {}
        # Up to where what was read of a partition is among these. The fetcher's own position is ahead of it
        # while a fetch is on its way here from the fetcher's thread.
        self._taken: dict[TP, int] = {}

    @property
    def _owner(self) -> OffsetOwner | None:
        return getattr(self.app, "offsets", None)

    def is_batched(self, topic: str) -> bool:
        """Whether messages of the topic are partition batches."""
        batched = self._batched.get(topic)
        if batched is None:
            batched = any(
                channel.schema.value_serializer == "batch"
                for channel in self.app.topics
                if topic in channel.topics
            )
            self._batched[topic] = batched
        return batched

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:  # noqa: ASYNC109 - Faust's name
        """Fetch; yields a message a partition for batch topics, a message a record for others."""
        epoch, generation = self.epoch, self.app.consumer_generation_id
        records, active = await self._wait_next_records(timeout)
        if records is None or self.should_stop:
            return
        if not self.flow_active:
            await self._seek_again("while the flow was stopped")
            return
        moved = epoch != self.epoch or generation != self.app.consumer_generation_id
        if records and (moved or self._seeking.locked()):
            # Fetched across a rebalance or a seek: from which position is unknown, so read again.
            await self._seek_again("across a rebalance or a seek")
            return
        single = {tp: fetched for tp, fetched in records.items() if not self.is_batched(tp.topic)}
        batched = {tp: fetched for tp, fetched in records.items() if tp not in single}
        for tp, message in self._delivering(batched, active):
            if epoch != self.epoch or generation != self.app.consumer_generation_id:
                return  # a seek while the batch before was handed over: all of this is read again
            yield tp, message
        for tp, record in self.scheduler.iterate(single):
            if not self.flow_active or generation != self.app.consumer_generation_id:
                break
            if self._wanted(tp, active):
                self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
                yield tp, self._to_message(tp, record)

    def _delivering(
        self, fetched: Mapping[TP, list[Any]], active: set[TP] | None
    ) -> list[tuple[TP, ConsumerMessage]]:
        """What one fetch brought, as batches. Until agents are done with them no partition is at its end:
        handing one over may take until the one before is done.
        """
        batches = []
        for tp, records in fetched.items():
            if self._wanted(tp, active):
                self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
                message = self._to_batch(tp, records)
                self._settled(tp)
                self._delivered.setdefault(tp, deque()).append([message.offset, message])
                batches.append((tp, message))
        for tp in active or ():
            if (state := self._fetch_state(tp)) is not None:
                self._taken[tp] = state.position
        return batches

    def _wanted(self, tp: TP, active: set[TP] | None) -> bool:
        return active is None or tp in active or tp in self._buffered_partitions

    async def _seek_again(self, when: str) -> None:
        self.log.dev("Records fetched %s: reading them again.", when)
        try:
            await self.perform_seek()
        except Exception as error:
            self.log.warning("Seek after a fetch %s failed: %r", when, error)

    async def _wait_next_records(self, timeout: float) -> Any:  # noqa: ASYNC109 - Faust's name
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
        active = set(self._get_active_partitions())
        held_back = self._owner.held_back() & active if self._owner is not None else set()
        active -= held_back
        if held_back or self._buffered_partitions:
            # They may be wanted again soon, while nothing comes of the others.
            timeout = min(timeout, HELD_WAIT_S)
        self.not_waiting_next_records.clear()
        try:
            if not active:
                await asyncio.sleep(FULL_WAIT_S)
                return {}, active
            return await self._getmany(active_partitions=active, timeout=timeout), active
        finally:
            self.not_waiting_next_records.set()

    def _to_batch(self, tp: TP, records: list[Any]) -> ConsumerMessage:
        last = records[-1]
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            last.offset,
            (last.timestamp or 0) / 1000.0,
            last.timestamp_type,
            None,
            None,
            PartitionBatch(tp.topic, tp.partition, records, self.epoch, self._partitions_of(tp.topic)),
            None,
            0,
            0,
            tp,
            generation_id=self.app.consumer_generation_id,
        )

    def _partitions_of(self, topic: str) -> int:
        consumer = self._thread._consumer
        return len(consumer.partitions_for_topic(topic) or ()) if consumer else 0

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        # A batch's offset is its last one: what lies between two of them is not a gap.
        if not self.is_batched(tp.topic):
            await super()._add_gap(tp, offset_from, offset_to)

    def ack(self, message: Message) -> bool:
        """Note that an agent is done with a message."""
        if not self.is_batched(message.topic):
            return bool(super().ack(message))
        if message.acked:
            return False
        message.acked = True
        self._unacked_messages.discard(message)
        self._n_acked += 1
        waiting = self._waiting_for_ack
        if waiting is not None and not waiting.done():
            waiting.set_result(None)
        return True

    def _settled(self, tp: TP) -> deque[list[Any]]:
        """What was delivered of a partition; records of batches that agents are done with are let go.

        By the message's own flag: Faust's compiled streams set it and do not call ``ack``.
        """
        delivered = self._delivered.get(tp, deque())
        for entry in delivered:
            if entry[1] is not None and entry[1].acked:
                entry[1] = None
        return delivered

    def lag(self, tp: TP) -> int | None:
        """Records between the fetcher's position and the partition's end; None where not known yet.

        By position, not by the last record: control records of transactions have no value.
        """
        state = self._fetch_state(tp)
        return None if state is None else max(int(_readable_end(state) - state.position), 0)

    def ended_at(self, tp: TP) -> float | None:
        """When the broker said last that the partition ends where it was read to (monotonic seconds).

        None where there is more, where agents are not done with all of it, and while the broker does not
        answer: nobody knows then where the end is.
        """
        state = self._fetch_state(tp)
        if state is None or self._taken.get(tp) != state.position or state.position < _readable_end(state):
            return None
        age = max(time.time() - (state.timestamp or 0) / 1000.0, 0.0)
        if age > ANSWER_S or any(message is not None for _, message in self._settled(tp)):
            return None
        return time.monotonic() - age

    def _fetch_state(self, tp: TP) -> Any | None:
        """aiokafka's state of an assigned partition whose position and end are known."""
        consumer = self._thread._consumer
        subscription = consumer and consumer._subscription.subscription
        assignment = subscription and subscription.assignment
        if not assignment or tp not in assignment.tps:
            return None
        state = assignment.state_value(tp)
        if state is None or state.highwater is None or not state.has_valid_position:
            return None
        return state

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        for tp in {*self._delivered, *(self._owner.committable() if self._owner else ())}:
            if topics is None or tp in topics or tp.topic in topics:
                yield tp
        for tp in super()._filter_tps_with_pending_acks(topics):
            if not self.is_batched(tp.topic):
                yield tp

    def _new_offset(self, tp: TP) -> int | None:
        if not self.is_batched(tp.topic):
            offset: int | None = super()._new_offset(tp)
            return offset
        done = None
        delivered = self._settled(tp)
        while delivered and delivered[0][1] is None:
            done = delivered.popleft()[0] + 1
        # Compiled streams note every acknowledged offset in Faust's own books too.
        self._acked.pop(tp, None)
        self._acked_index.pop(tp, None)
        return self._owner.committable().get(tp) if self._owner is not None else done

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Forget what was delivered of partitions that go away."""
        await super().on_partitions_revoked(revoked)
        for tp in revoked:
            self._delivered.pop(tp, None)

    def _should_commit(self, tp: TP, offset: int) -> bool:
        # The same offset is committed again: its note says what was done above it since then.
        if self._owner is not None and self.is_batched(tp.topic):
            return True
        return bool(super()._should_commit(tp, offset))

    async def perform_seek(self) -> None:
        """Go to the committed offsets, or to those of the app's own state where it has them.

        One seek at a time.
        """
        async with self._seeking:
            await self._seek_to_owned()

    async def _seek_to_owned(self) -> None:
        await super().perform_seek()
        self.epoch += 1
        self._delivered.clear()
        self._taken.clear()
        self._batched.clear()
        if self._owner is None:
            return
        batched = [tp for tp in self.assignment() if self.is_batched(tp.topic)]
        others = sorted(await self._owner.remembered() - set(batched))
        committed = await self._thread.committed([*batched, *others])
        begins = await self.earliest_offsets(*batched) if batched else {}
        ends = await self.highwaters(*batched) if batched else {}
        places = {
            tp: Place(offset, decode_note(text), begins.get(tp), ends.get(tp))
            for tp, (offset, text) in committed.items()
        }
        elsewhere = {tp: places.pop(tp) for tp in others}
        resume = await self._owner.resume(places, elsewhere, self.epoch)
        # A group without an offset begins where the topic does. The seek above leaves such partitions, and
        # those committed at 0, where they are: what was fetched of them and thrown away would be lost.
        wanted = {tp: resume.get(tp, begins.get(tp, 0)) for tp in places}
        away = {tp: at for tp, at in wanted.items() if at != places[tp].committed or not at}
        if away:
            await self.seek_wait(away)

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Faust's thread around aiokafka's consumer: notes beside commits, and committed records only."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Faust reads committed records only where it writes in transactions itself. Read when it starts.
        consumer._isolation_level = getattr(self.app, "isolation_level", "read_committed")
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        owner = getattr(self.app, "offsets", None)
        if owner is not None:
            commit = consumer.commit

            async def commit_with_notes(offsets: Mapping[Any, OffsetAndMetadata]) -> None:
                await commit(
                    {
                        tp: (at.offset, owner.commit_text(TP(tp.topic, tp.partition)))
                        for tp, at in offsets.items()
                    }
                )

            consumer.commit = commit_with_notes
        return consumer

    async def _fetch_records(self, consumer: Any, *args: Any, **kwargs: Any) -> Any:
        hand_out_plain_records(consumer._fetcher, self.consumer.is_batched)
        return await super()._fetch_records(consumer, *args, **kwargs)

    async def committed(self, tps: list[TP]) -> dict[TP, tuple[int | None, str]]:
        """The group's offset of each partition, None where there is none, and the text beside it."""
        return cast(dict[TP, tuple[int | None, str]], await self.call_thread(self._committed, tps))

    async def _committed(self, tps: list[TP]) -> dict[TP, tuple[int | None, str]]:
        wanted = {TopicPartition(tp.topic, tp.partition): tp for tp in tps}
        # The consumer's own `committed` gives the offset alone.
        found = await self._ensure_consumer()._coordinator.fetch_committed_offsets(list(wanted))
        nothing = OffsetAndMetadata(-1, "")
        at = {tp: found.get(wish, nothing) for wish, tp in wanted.items()}
        return {tp: (one.offset if one.offset >= 0 else None, one.metadata or "") for tp, one in at.items()}


class Transport(driver.Transport):
    """``batch://``: aiokafka with partition batches."""

    Consumer: ClassVar[type[Consumer]] = Consumer


def _readable_end(state: Any) -> int:
    """The end of what can be read now: records of open transactions, and what follows them, come later."""
    stable = state.lso
    return int(state.highwater if stable is None or stable < 0 else min(stable, state.highwater))


def batch_topic(app: faust.App, name: str) -> Any:
    """Declare a topic whose events are ``PartitionBatch`` values."""
    return app.topic(name, value_serializer="batch", key_serializer="raw", acks=True)
