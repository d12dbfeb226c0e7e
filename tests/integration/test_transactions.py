"""Failure: records of aborted transactions are counted and learned from.

Mechanism: a consumer reads uncommitted records unless it is told otherwise, and a partition that ends with
an aborted transaction or its marker never seems to be read to its end. Required: what was committed is
learned, what was aborted is not; samples close in the silence after either; what an open transaction holds
back comes when it is committed, and stops nobody until then.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer

import surgeline.local.broker as brokers
from contracts.scenario import Scenario, Times
from replay.produce import partitions_of
from tests.integration.harness import T0, Worker, until

TIMES = Times(label_window_s=2.0, lateness_s=0.5, join_limit_s=300.0, idle_s=1.0)


def impressions(name: str, count: int, at: int) -> list[tuple[str, bytes]]:
    """(user id, event) of ``count`` impressions a millisecond apart."""
    events = []
    for k in range(count):
        user = f"user-{k % 50}"
        event = {
            "impression_id": f"{name}-{k}",
            "event_time": at + k,
            "user_id": user,
            "item_id": f"item-{k % 7}",
        }
        events.append((user, msgspec.json.encode(event)))
    return events


async def send(producer: Any, scenario: Scenario, events: list[tuple[str, bytes]]) -> None:
    import polars as pl

    topics = scenario.topics
    places = partitions_of(pl.Series([user for user, _ in events]), topics.partitions)
    for (user, value), partition in zip(events, places.tolist(), strict=True):
        await producer.send(topics.impressions, key=user.encode(), value=value, partition=partition)
    await producer.flush()


async def test_aborted_committed_then_silence(
    broker: str, broker_kind: brokers.Kind, scenario_factory: Callable[..., Scenario], tmp_path: Path
) -> None:
    if broker_kind == "embedded":
        pytest.skip("the embedded broker hands out records of open and aborted transactions as any others")
    scenario = scenario_factory(times=TIMES)
    worker = Worker(scenario, broker, tmp_path).ready()
    producer = AIOKafkaProducer(bootstrap_servers=broker, transactional_id=f"{scenario.name}-shop")
    await producer.start()
    try:
        await producer.begin_transaction()
        await send(producer, scenario, impressions("aborted", 1600, T0))
        await producer.abort_transaction()
        await producer.begin_transaction()
        await send(producer, scenario, impressions("committed", 500, T0 + 2000))
        await producer.commit_transaction()
        worker.reached(impressions=500, samples=500)
        # An aborted one last: the partition ends with what nobody may read.
        await producer.begin_transaction()
        await send(producer, scenario, impressions("more", 200, T0 + 10_000))
        await producer.commit_transaction()
        await producer.begin_transaction()
        await send(producer, scenario, impressions("aborted-too", 300, T0 + 11_000))
        await producer.abort_transaction()
        worker.reached(impressions=700, samples=700)

        # An open one: plain records behind it in the same partitions wait with it, by Kafka's rule.
        await producer.begin_transaction()
        await send(producer, scenario, impressions("open", 100, T0 + 20_000))
        worker_now = worker.totals()
        await producer.commit_transaction()
        worker.reached(impressions=800, samples=800)
        assert worker_now["impressions"] == 700

        # The lag of a partition that ends with an aborted transaction is none.
        def no_lag() -> bool:
            lines = [
                x for x in worker.metrics().splitlines() if x.startswith("surgeline_consumer_lag_records")
            ]
            return bool(lines) and all(line.endswith(" 0.0") for line in lines)

        until(no_lag, "nothing lags")
        assert worker.totals() | {"impressions": 800, "samples": 800} == worker.totals()
        # The same again after a restart: nothing is read twice.
        assert worker.stop() == 0
        again = Worker(scenario, broker, tmp_path)
        try:
            again.ready()
            until(lambda: again.reading() == 12, "it reads")
            assert again.totals()["impressions"] == 800
            assert again.stop() == 0
        finally:
            again.end()
    finally:
        await producer.stop()
        worker.end()
