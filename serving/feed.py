"""One topic, read from its beginning and followed for ever: the topic alone is the source of truth."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from stream.connection import Connection
from stream.quiet import answered, given_up
from stream.refusal import refusal

log = logging.getLogger(__name__)

Handler = Callable[[Sequence[ConsumerRecord]], Awaitable[None]]


@dataclass(frozen=True)
class FeedSettings:
    """Seconds, except ``max_records`` (a fetch). ``check_s``: how often the topic's end is asked for,
    which is also how an outage is noticed."""

    check_s: float = 5.0
    answer_s: float = 10.0
    first_retry_s: float = 0.5
    last_retry_s: float = 10.0
    missing_s: float = 1.0
    max_records: int = 2000


DEFAULTS = FeedSettings()


class Feed:
    """Reads ``topic`` from its beginning without a group and gives every batch to ``handle``.

    ``ready`` is set once everything that stood in the topic at the start was handled; it stays set through
    an outage. After one, reading goes on where it was. A topic that does not exist yet is waited for.
    """

    def __init__(
        self, topic: str, connection: Connection, handle: Handler, settings: FeedSettings = DEFAULTS
    ) -> None:
        self.topic = topic
        self.ready = asyncio.Event()
        self.connected = False
        self.lag: int | None = None
        self._connection = connection
        self._handle = handle
        self._settings = settings
        self._positions: dict[TopicPartition, int] = {}

    async def run(self) -> None:
        """Follow until cancelled; whatever fails is logged and tried again."""
        try:
            await self._follow_for_ever()
        finally:
            # The process may go on without this feed, and must not say for ever that it waits.
            given_up(self.topic)

    async def _follow_for_ever(self) -> None:
        failures = 0
        while True:
            began = time.monotonic()
            try:
                await self._session()
            except asyncio.CancelledError:
                # The client can also leak the cancellation of a task of its own.
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                problem: Exception = ConnectionAbortedError("its client cancelled a request")
            except (KafkaError, OSError, TimeoutError) as error:
                problem = error
            except Exception as error:
                # Serving what it has beats dying; the log says what the next try will meet again.
                log.exception("%s: reading failed", self.topic)
                problem = error
            self.connected = False
            settled = time.monotonic() - began > 2 * self._settings.last_retry_s
            failures = 1 if settled else failures + 1
            # To the client a login that is refused is a broker that is gone. A slow broker is only slow.
            refused = "" if isinstance(problem, TimeoutError) else await refusal(self._connection)
            if not refused:
                where = self._connection.bootstrap
                log.warning("%s: lost %s (%r); trying again", self.topic, where, problem)
            elif failures & (failures - 1) == 0:  # the 1st, 2nd, 4th, ...: it stays as it is
                log.warning("%s: %s; trying again", self.topic, refused)
            delay = self._settings.first_retry_s * 2.0 ** min(failures - 1, 16)
            # Jitter: a fleet of scorers should not come back in step.
            await asyncio.sleep(min(delay, self._settings.last_retry_s) * random.uniform(0.5, 1.0))

    async def _session(self) -> None:
        consumer = AIOKafkaConsumer(
            **self._connection.aiokafka(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            client_id="surgeline-serving",
        )
        try:
            async with asyncio.timeout(self._settings.answer_s):
                await consumer.start()
            await self._wait_for_topic(consumer)
            await self._seek(consumer)
            await self._follow(consumer)
        finally:
            await self._stop(consumer)

    async def _stop(self, consumer: Any) -> None:
        # Waited for from outside: on a dead broker the client's stop can hang, or raise the cancellation
        # of its own fetch half way, with its connections and their retries left behind.
        for step in (consumer.stop, consumer._client.close):
            stopping = asyncio.ensure_future(step())
            await asyncio.wait([stopping], timeout=self._settings.answer_s)
            if stopping.done() and not stopping.cancelled() and stopping.exception() is None:
                return
            stopping.cancel()

    async def _wait_for_topic(self, consumer: Any) -> None:
        told = False
        while True:
            async with asyncio.timeout(self._settings.answer_s):
                topics = await consumer.topics()
            self.connected = True
            if self.topic in topics:
                break
            if not told:
                at = self._connection.bootstrap
                log.warning("topic %s does not exist at %s yet; waiting for it", self.topic, at)
                told = True
            await asyncio.sleep(self._settings.missing_s)
        consumer.subscribe([self.topic])
        async with asyncio.timeout(self._settings.answer_s):
            # The client has no event for a group-less assignment.
            while not consumer.assignment():  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def _seek(self, consumer: Any) -> None:
        """Go on where the last session was; a topic that is shorter now was made anew: from its start."""
        assignment = consumer.assignment()
        async with asyncio.timeout(self._settings.answer_s):
            ends = await consumer.end_offsets(assignment)
        for partition in assignment:
            position = self._positions.get(partition)
            if position is not None and position <= ends[partition]:
                consumer.seek(partition, position)

    async def _follow(self, consumer: Any) -> None:
        settings = self._settings
        next_check = time.monotonic() + settings.check_s
        ends = await self._ends(consumer)
        while True:
            batches = await consumer.getmany(timeout_ms=250, max_records=settings.max_records)
            for partition, records in batches.items():
                await self._handle(records)
                self._positions[partition] = records[-1].offset + 1
            if time.monotonic() >= next_check:
                # Also the way to readiness where a cleaned or recreated topic ends earlier than it did.
                ends = await self._ends(consumer)
                next_check = time.monotonic() + settings.check_s
            elif batches or not self.ready.is_set():
                await self._measure(consumer, ends)

    async def _ends(self, consumer: Any) -> dict[TopicPartition, int]:
        async with asyncio.timeout(self._settings.answer_s):
            ends: dict[TopicPartition, int] = await consumer.end_offsets(consumer.assignment())
        answered(self.topic)
        await self._measure(consumer, ends)
        return ends

    async def _measure(self, consumer: Any, ends: dict[TopicPartition, int]) -> None:
        lag = 0
        async with asyncio.timeout(self._settings.answer_s):
            for partition, end in ends.items():
                lag += max(0, end - await consumer.position(partition))
        self.lag = lag
        if lag == 0 and not self.ready.is_set():
            log.info("topic %s is read to its end", self.topic)
            self.ready.set()
