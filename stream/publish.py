"""What the worker writes to Kafka: dead letters, feature rows and weights.

Feature rows go out in whole producer batches, because their number follows the traffic; the two others are
few and are sent one by one.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Iterable, Sequence

import msgspec
from aiokafka import AIOKafkaProducer

from models.weights import Weights, encode_weights, weights_key
from stream.decode import Refused
from stream.events import DeadLetter
from stream.scenario import Topics

#: Rows that are put into batches before the event loop gets a turn.
ROWS_A_TURN = 2_000

_encode_dead_letter = msgspec.json.Encoder().encode


class Publisher:
    """One producer for everything that a worker publishes. Use from the event loop that started it."""

    def __init__(self, bootstrap: str, topics: Topics, source: str) -> None:
        self._bootstrap = bootstrap
        self._topics = topics
        self._source = source
        self._producer: AIOKafkaProducer | None = None
        self._feature_partitions = topics.partitions

    async def start(self) -> None:
        """Connect. Raises aiokafka's ``KafkaError`` where no broker answers."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap.split(","), acks="all", linger_ms=5, max_batch_size=1 << 18
        )
        await producer.start()
        self._producer = producer
        self._feature_partitions = len(await producer.partitions_for(self._topics.features))

    async def stop(self) -> None:
        """Send what is buffered and disconnect."""
        if self._producer is not None:
            await self._producer.stop()
            self._producer = None

    async def dead_letters(self, refused: Sequence[tuple[str, int, Refused]]) -> None:
        """Write refused records, given as (topic, partition, refused); returns when the broker has them."""
        seen_at = round(time.time() * 1000)
        pending = []
        for topic, partition, (record, reason) in refused:
            letter = DeadLetter(
                reason=reason,
                topic=topic,
                partition=partition,
                offset=record.offset,
                key=record.key,
                value=record.value,
                seen_at=seen_at,
            )
            pending.append(
                await self._live().send(
                    self._topics.dead_letter, key=record.key, value=_encode_dead_letter(letter)
                )
            )
        await asyncio.gather(*pending)

    async def feature_rows(self, rows: Iterable[tuple[str, str, bytes]]) -> int:
        """Write (table, entity, packed row) under ``<source>/<table>/<entity>``; returns how many.

        The partition follows from the key (crc32), so that compaction keeps the newest row of each.
        """
        producer, topic, partitions = self._live(), self._topics.features, self._feature_partitions
        builders = [producer.create_batch() for _ in range(partitions)]
        now, count = round(time.time() * 1000), 0
        pending = []
        for table, entity, row in rows:
            key = f"{self._source}/{table}/{entity}".encode()
            partition = zlib.crc32(key) % partitions
            if builders[partition].append(key=key, value=row, timestamp=now) is None:
                pending.append(await producer.send_batch(builders[partition], topic, partition=partition))
                builders[partition] = producer.create_batch()
                builders[partition].append(key=key, value=row, timestamp=now)
            count += 1
            if count % ROWS_A_TURN == 0:
                await asyncio.sleep(0)
        for partition, builder in enumerate(builders):
            if builder.record_count():
                pending.append(await producer.send_batch(builder, topic, partition=partition))
        await asyncio.gather(*pending)
        return count

    async def retire(self) -> None:
        """Write a tombstone for this source's weights: a state that begins anew counts versions from 1.

        Without it a scorer would hold the old state's newer version and refuse the new ones as stale.
        """
        key = weights_key(self._source)
        await self._live().send_and_wait(self._topics.weights, key=key, value=None)

    async def weights(self, weights: Weights) -> int:
        """Write one version; returns its size in bytes. Raises ``WeightsError`` where it is not finite."""
        data = encode_weights(weights)
        await self._live().send_and_wait(self._topics.weights, key=weights.key, value=data)
        return len(data)

    def _live(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise RuntimeError("the publisher is not started")
        return self._producer
