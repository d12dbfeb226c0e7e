"""What the worker writes to Kafka: dead letters, feature rows and weights.

Feature rows go out in whole producer batches, because their number follows the traffic; the two others are
few and are sent one by one.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Mapping, Sequence
from itertools import islice, pairwise

import msgspec
import numpy as np
from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError

from clients.connection import Connection
from clients.quiet import answered
from clients.topics import MAX_RECORD_BYTES
from contracts.events import DeadLetter
from contracts.scenario import Topics
from contracts.weights import Weights, encode_weights, weights_key
from features.hashing import Keys
from features.topic import OF_PARTITION, OF_WORKER, row_names, row_prefix
from state.feature_table import Changed
from state.row_keys import SHARED, Partitions
from stream.decode import Refused

#: Rows that are put into batches before the event loop gets a turn.
ROWS_A_TURN = 2_000
#: How much of key and of value a dead letter keeps where the topic does not take all of them, tried in this
#: order. The first fits a broker's usual limit of 1 MiB: both in base64 and the letter's own key.
CUT_BYTES = (256 * 1024, 1024)

_encode_dead_letter = msgspec.json.Encoder().encode


class Publisher:
    """One producer for everything that a worker publishes. Use from the event loop that started it."""

    def __init__(self, connection: Connection, topics: Topics, source: str) -> None:
        self._connection = connection
        self._topics = topics
        self._source = source
        self._producer: AIOKafkaProducer | None = None
        self._feature_partitions = topics.partitions

    async def start(self) -> None:
        """Connect. Raises aiokafka's ``KafkaError`` where no broker answers."""
        producer = AIOKafkaProducer(
            **self._connection.aiokafka(),
            acks="all",
            linger_ms=5,
            max_batch_size=1 << 18,
            max_request_size=MAX_RECORD_BYTES,
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
        """Write refused records, given as (topic, partition, refused); returns when the broker has them.

        A letter that is too large for the topic goes out cut, and its reason says so: one huge record must
        not keep all others, and with them the checkpoint, waiting for ever.
        """
        seen_at = round(time.time() * 1000)
        letters = [
            DeadLetter(
                reason=reason,
                topic=topic,
                partition=partition,
                offset=record.offset,
                key=record.key,
                value=record.value,
                seen_at=seen_at,
            )
            for topic, partition, (record, reason) in refused
        ]
        left = await self._try_letters(letters, None)
        for kept in CUT_BYTES:
            left = await self._try_letters(left, kept)
        if left:
            raise MessageSizeTooLargeError(f"{self._topics.dead_letter} takes no {CUT_BYTES[-1]} bytes")

    async def _try_letters(self, letters: Sequence[DeadLetter], kept: int | None) -> list[DeadLetter]:
        """Write letters, cut to ``kept`` bytes; returns those that are too large. Raises other errors."""
        left, sent = [], []
        for letter in letters:
            value = _encode_dead_letter(letter if kept is None else _cut(letter, kept))
            key = letter.key and letter.key[:kept]
            try:
                future = await self._live().send(self._topics.dead_letter, key=key, value=value)
            except MessageSizeTooLargeError:  # the client's own limit; below is the broker's
                left.append(letter)
            else:
                sent.append((letter, future))
        answers = await asyncio.gather(*(future for _, future in sent), return_exceptions=True)
        for (letter, _), answer in zip(sent, answers, strict=True):
            if isinstance(answer, MessageSizeTooLargeError):
                left.append(letter)
            elif isinstance(answer, BaseException):
                raise answer
        return left

    async def feature_rows(self, rows: Mapping[bytes, bytes]) -> int:
        """Write rows by their names (``features.topic``), an empty one as a tombstone; returns how many.

        The partition follows from the name (crc32), so that compaction keeps the newest row of each.
        """
        producer, topic, partitions = self._live(), self._topics.features, self._feature_partitions
        builders = [producer.create_batch() for _ in range(partitions)]
        now, crc32 = round(time.time() * 1000), zlib.crc32
        pending = []
        left = iter(rows.items())
        while some := list(islice(left, ROWS_A_TURN)):
            for key, row in some:
                partition = crc32(key) % partitions
                if builders[partition].append(key=key, value=row or None, timestamp=now) is None:
                    pending.append(await producer.send_batch(builders[partition], topic, partition=partition))
                    builders[partition] = producer.create_batch()
                    builders[partition].append(key=key, value=row or None, timestamp=now)
            await asyncio.sleep(0)
        for partition, builder in enumerate(builders):
            if builder.record_count():
                pending.append(await producer.send_batch(builder, topic, partition=partition))
        await asyncio.gather(*pending)
        return len(rows)

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
        answered()
        return len(data)

    def _live(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise RuntimeError("the publisher is not started")
        return self._producer


def _cut(letter: DeadLetter, kept: int) -> DeadLetter:
    """The letter with the first ``kept`` bytes of its key and of its value."""
    size = len(letter.key or b"") + len(letter.value or b"")
    return msgspec.structs.replace(
        letter,
        reason=f"{letter.reason} (cut here: {size} bytes are too large; all of them stand at the offset)",
        key=letter.key and letter.key[:kept],
        value=letter.value and letter.value[:kept],
    )


def named_rows(changed: Sequence[Changed], worker: str) -> dict[bytes, bytes]:
    """Changed and forgotten rows of tables as the features topic has them; a forgotten one is empty."""
    named: dict[bytes, bytes] = {}
    for part in changed:
        named.update(zip(_names(part.table, worker, part.keys, part.partitions), part.packed, strict=True))
        named.update(dict.fromkeys(_names(part.table, worker, part.gone, part.gone_partitions), b""))
    return named


def _names(table: str, worker: str, keys: Keys, partitions: Partitions) -> list[bytes]:
    """The names of rows of one table, in their order; rows of one partition stand together."""
    names: list[bytes] = []
    ends = [*(np.flatnonzero(np.diff(partitions)) + 1).tolist(), len(partitions)] if len(partitions) else []
    for begin, end in pairwise([0, *ends]):
        names += row_names(_prefix(int(partitions[begin]), worker, table), keys[begin:end])
    return names


def _prefix(partition: int, worker: str, table: str) -> bytes:
    """What the names of a partition's rows begin with; of a worker's own, where it is ``SHARED``."""
    if partition == SHARED:
        return row_prefix(OF_WORKER, worker, table)
    return row_prefix(OF_PARTITION, partition, table)
