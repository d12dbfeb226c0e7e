"""Records into Kafka at full rate: whole batches a partition.

A record's Kafka timestamp is the wall clock, as a live producer's would be; event time is in the payload.
Brokers delete by record timestamp: a log of last year would be gone before it is read.

`send` of aiokafka costs 9 us a record; `create_batch` with `send_batch` 1.4 us. Partitions are chosen here,
by murmur2 of the user id as Kafka's own partitioner does, over all users of a frame at once.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Sequence

import numpy as np
import polars as pl
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, KafkaTimeoutError

from clients.connection import Connection
from clients.quiet import answered, given_up, install
from clients.refusal import BrokerRefused, check
from replay.errors import BrokerError
from replay.records import Records

#: Bytes a batch; brokers take up to 1 MiB by default.
BATCH_BYTES = 256 * 1024
#: Batches that may be on their way before the oldest is waited for.
IN_FLIGHT = 64
_CONNECT_S = 3.0
#: How long nothing may be acknowledged before the sender asks whether the broker is still there.
PATIENCE_S = 40.0
#: How long closing may take after a failure; what is queued then is lost in any case.
_CLOSE_S = 3.0

_M = np.uint32(0x5BD1E995)
_SEED = 0x9747B28C


def murmur2(keys: Sequence[bytes]) -> np.ndarray:
    """Murmur2 of each key as Kafka's default partitioner computes it; uint32 (n,).

    Keys of one length are hashed together, four bytes a step.

    >>> from aiokafka.partitioner import murmur2 as reference
    >>> [int(h) for h in murmur2([b"u1", b"user-42"])] == [reference(b"u1"), reference(b"user-42")]
    True
    """
    lengths = np.fromiter((len(key) for key in keys), dtype=np.int64, count=len(keys))
    hashes = np.empty(len(keys), dtype=np.uint32)
    for length in np.unique(lengths).tolist():
        where = np.flatnonzero(lengths == length)
        joined = b"".join(keys[i] for i in where.tolist())
        table = np.frombuffer(joined, dtype=np.uint8).reshape(where.size, length)
        hashes[where] = _murmur2_rows(table)
    return hashes


def _murmur2_rows(table: np.ndarray) -> np.ndarray:
    n, length = table.shape
    whole = length - length % 4
    words = np.ascontiguousarray(table[:, :whole]).view("<u4") if whole else np.empty((n, 0), np.uint32)
    h = np.full(n, _SEED ^ length, dtype=np.uint32)
    for column in range(words.shape[1]):
        k = words[:, column] * _M
        k ^= k >> np.uint32(24)
        h = (h * _M) ^ (k * _M)
    if length % 4:
        for extra in range(whole, length):
            h ^= table[:, extra].astype(np.uint32) << np.uint32(8 * (extra - whole))
        h *= _M
    h ^= h >> np.uint32(13)
    h *= _M
    return h ^ (h >> np.uint32(15))


def partitions_of(users: pl.Series, count: int) -> np.ndarray:
    """The partition of each user id (String series) over ``count`` partitions; int64 (n,)."""
    codes = pl.DataFrame({"user": users}).with_row_index("row")
    unique = users.unique(maintain_order=True)
    hashes = murmur2(unique.cast(pl.Binary).to_list())
    lookup = pl.DataFrame({"user": unique, "p": (hashes & np.uint32(0x7FFFFFFF)) % np.uint32(count)})
    joined = codes.join(lookup, on="user", how="left", maintain_order="left")
    return joined["p"].cast(pl.Int64).to_numpy()


def check_broker(connection: Connection) -> None:
    """Raise ``BrokerError`` where no host takes a connection, or takes us; says what to do."""
    reasons = []
    for address in connection.servers:
        host, _, port = address.rpartition(":")
        try:
            with socket.create_connection((host.strip("[]") or "127.0.0.1", int(port)), timeout=_CONNECT_S):
                break
        except ValueError:
            reasons.append(f"{address!r} is not host:port")
        except OSError as error:
            reasons.append(f"{address}: {error.strerror or error}")
    else:
        raise BrokerError(
            f"no Kafka broker answers ({'; '.join(reasons)}). Start one with `surgeline broker`, or name "
            "yours with --bootstrap or KAFKA_BOOTSTRAP"
        )
    try:
        check(connection)
    except BrokerRefused as error:
        raise BrokerError(str(error)) from error


class Sender:
    """Sends records to ``topics``, one a kind of event, in batches a partition, in order, each batch once.

    The producer is idempotent: a retry cannot write a batch twice or turn two round. ``events`` and
    ``sent_bytes`` count what the broker has acknowledged.
    """

    def __init__(self, connection: Connection, topics: Sequence[str]) -> None:
        self.topics = tuple(topics)
        self.partitions = 0
        self.events = 0
        self.sent_bytes = 0
        #: (topic, partition) -> offset behind the last acknowledged record.
        self.ends: dict[tuple[str, int], int] = {}
        self._connection = connection
        self._waiting: deque[tuple[asyncio.Future, str, int, int, int]] = deque()

    async def __aenter__(self) -> Sender:
        install()
        self._producer = AIOKafkaProducer(
            **self._connection.aiokafka(),
            client_id="surgeline-replay",
            enable_idempotence=True,
            max_batch_size=BATCH_BYTES,
            max_request_size=8 * BATCH_BYTES,
        )
        try:
            await self._producer.start()
            counts = [len(await self._producer.partitions_for(topic)) for topic in self.topics]
        except (KafkaError, OSError) as error:
            await self._producer.stop()
            raise BrokerError(f"Kafka at {self._connection.bootstrap}: {error}") from error
        if len(set(counts)) > 1:
            await self._producer.stop()
            have = ", ".join(f"{topic} has {n}" for topic, n in zip(self.topics, counts, strict=True))
            raise BrokerError(
                f"partitions: {have}; all need the same number, or a user's events would cross workers"
            )
        self.partitions = counts[0]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            await self._producer.stop()
            return
        # An idempotent producer never gives a batch up: closing would wait for a dead broker for ever.
        try:
            await asyncio.wait_for(self._producer.stop(), _CLOSE_S)
        except TimeoutError:
            await self._producer._sender.close()
            await self._producer.client.close()
        given_up()

    async def send(self, records: Records, partitions: np.ndarray) -> None:
        """Queue ``records``, whose partitions are ``partitions`` (int64 (n,)), grouped and in order."""
        now = round(time.time() * 1000)
        keys, values = records.keys, records.values
        kinds = len(self.topics)
        group = partitions * kinds + records.kinds
        order = np.argsort(group, kind="stable")
        bounds = np.flatnonzero(np.diff(group[order])) + 1
        for rows in np.split(order, bounds):
            if not rows.size:
                continue
            partition, kind = divmod(int(group[rows[0]]), kinds)
            topic = self.topics[kind]
            batch = self._producer.create_batch()
            append = batch.append
            for i in rows.tolist():
                if append(timestamp=now, key=keys[i], value=values[i]) is None:
                    await self._ship(batch, topic, partition)
                    batch = self._producer.create_batch()
                    append = batch.append
                    append(timestamp=now, key=keys[i], value=values[i])
            await self._ship(batch, topic, partition)

    async def send_everywhere(self, value: bytes) -> int:
        """Send one record without a key to every partition of every topic; returns how many."""
        for topic in self.topics:
            for partition in range(self.partitions):
                batch = self._producer.create_batch()
                batch.append(timestamp=round(time.time() * 1000), key=None, value=value)
                await self._ship(batch, topic, partition)
        return len(self.topics) * self.partitions

    async def flush(self) -> None:
        """Wait until everything that was sent is acknowledged."""
        while self._waiting:
            await self._settle()

    async def _ship(self, batch: object, topic: str, partition: int) -> None:
        count, size = batch.record_count(), batch.size()  # type: ignore[attr-defined]
        while True:
            try:
                future = await self._producer.send_batch(batch, topic, partition=partition)
                break
            except KafkaTimeoutError:
                await self._check_broker()
            except KafkaError as error:
                raise self._failed(error) from error
        self._waiting.append((future, topic, partition, count, size))
        while self._waiting and (len(self._waiting) > IN_FLIGHT or self._waiting[0][0].done()):
            await self._settle()

    async def _settle(self) -> None:
        future, topic, partition, count, size = self._waiting.popleft()
        while not future.done():
            _, slow = await asyncio.wait({future}, timeout=PATIENCE_S)
            if slow:
                await self._check_broker()
        try:
            done = await future
        except KafkaError as error:
            raise self._failed(error) from error
        answered()
        self.events += count
        self.sent_bytes += size
        # A broker names the offset of the batch's first record.
        self.ends[topic, partition] = done.offset + count

    async def _check_broker(self) -> None:
        """Raise where nothing listens any more; a broker that is only slow, or paused, is waited for."""
        try:
            await asyncio.to_thread(check_broker, self._connection)
        except BrokerError as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> BrokerError:
        return BrokerError(
            f"Kafka at {self._connection.bootstrap} stopped taking records: {str(error) or repr(error)}; "
            f"{self.events:,} records were acknowledged before"
        )
