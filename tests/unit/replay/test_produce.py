"""Fails when an event goes to another partition than Kafka's own partitioner chooses, or a sender hangs."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from aiokafka.partitioner import murmur2 as reference
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import RecordMetadata, TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from clients.connection import Connection
from replay import produce
from replay.errors import BrokerError
from replay.lag import lag_of
from replay.produce import Sender, check_broker, murmur2, partitions_of
from replay.records import Records


@given(st.lists(st.binary(max_size=40), max_size=30))
def test_murmur2_is_kafkas(keys: list[bytes]) -> None:
    assert murmur2(keys).tolist() == [reference(key) for key in keys]


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=30), st.integers(1, 64)
)
def test_partitions_are_those_of_the_default_partitioner(users: list[str], count: int) -> None:
    got = partitions_of(pl.Series("user_id", users, dtype=pl.String), count)
    assert got.tolist() == [(reference(user.encode()) & 0x7FFFFFFF) % count for user in users]


def test_no_broker_says_how_to_get_one() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(BrokerError, match=f"127.0.0.1:{port}.*surgeline broker.*KAFKA_BOOTSTRAP"):
        check_broker(Connection(f"127.0.0.1:{port}"))
    with pytest.raises(BrokerError, match="'nonsense' is not host:port"):
        check_broker(Connection("nonsense"))


def test_lag_counts_partitions_that_were_never_committed() -> None:
    ends = {("a", 0): 10, ("a", 1): 7}
    assert lag_of(ends, {}) is None
    assert lag_of(ends, {("a", 0): -1}) is None
    assert lag_of(ends, {("a", 0): 4}) == 13
    assert lag_of(ends, {("a", 0): 12, ("a", 1): 7}) == 0


class StuckProducer:
    """An idempotent producer whose broker is gone: it never gives a batch up, and never ends by itself."""

    def __init__(self) -> None:
        self.future: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
        self.closed: list[str] = []
        self._sender = SimpleNamespace(close=self._closing("sender"))
        self.client = SimpleNamespace(close=self._closing("client"))

    def _closing(self, name: str) -> Callable[[], Coroutine[None, None, None]]:
        async def close() -> None:
            self.closed.append(name)

        return close

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(1 << 20, 0)

    async def send_batch(self, *_: object, **__: object) -> asyncio.Future[RecordMetadata]:
        return self.future

    async def stop(self) -> None:
        await asyncio.Event().wait()


def one_record() -> Records:
    return Records(np.array([False]), [b"u"], [b"{}"], np.array([0]))


async def stuck(bootstrap: str) -> tuple[Sender, StuckProducer]:
    sender, producer = Sender(Connection(bootstrap), ("i", "a", "b")), StuckProducer()
    sender._producer = producer
    sender.partitions = 1
    await sender.send(one_record(), np.array([0]))
    return sender, producer


def test_a_broker_that_is_gone_ends_the_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a replay hangs for ever: idempotent batches never expire, and closing waits for them."""
    monkeypatch.setattr(produce, "PATIENCE_S", 0.01)
    monkeypatch.setattr(produce, "_CLOSE_S", 0.01)

    async def run() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        sender, producer = await stuck(f"127.0.0.1:{port}")
        with pytest.raises(
            BrokerError, match=r"stopped taking records.*refused.*0 records were acknowledged"
        ):
            await sender.flush()
        await sender.__aexit__(BrokerError)
        assert producer.closed == ["sender", "client"]

    asyncio.run(run())


def test_a_broker_that_is_only_slow_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a paused broker, which still takes connections, ends a replay."""
    monkeypatch.setattr(produce, "PATIENCE_S", 0.01)

    async def run() -> None:
        with socket.socket() as paused:
            paused.bind(("127.0.0.1", 0))
            paused.listen()
            sender, producer = await stuck(f"127.0.0.1:{paused.getsockname()[1]}")
            done = RecordMetadata("i", 0, TopicPartition("i", 0), 41, 0, 0, 0)
            asyncio.get_running_loop().call_later(0.2, producer.future.set_result, done)
            await sender.flush()
            assert (sender.events, sender.ends) == (1, {("i", 0): 42})

    asyncio.run(run())
