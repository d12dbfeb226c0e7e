"""Fails when serving is not a function of its two topics: after a start, garbage, or an outage."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

import surgeline.local.broker as brokers
from clients.connection import Connection
from contracts.events import ACTIONS
from contracts.scenario import Topics
from contracts.weights import Watermarks, Weights, encode_weights
from features.declared import plan_from
from features.hashing import hash_texts
from features.row_bytes import pack
from features.topic import OF_WORKER, row_names, row_prefix
from models.deep.trunk import Trunk
from models.online.posterior import Posterior, to_head
from serving.feature_view import FeatureView
from serving.feed import FeedSettings
from serving.follower import Follower
from serving.messages import Item, ScoreRequest
from serving.scorer import Scorer
from serving.server import create_app

PLAN = plan_from({"counts": [{"keys": ["item_id"], "half_lives_s": [60, 600]}]}, ACTIONS)
TABLE = "item_id"
NOW = 1_700_000_000_000
SETTINGS = FeedSettings(
    check_s=0.5, answer_s=3.0, first_retry_s=0.1, last_retry_s=0.5, missing_s=0.1, max_records=700
)
REQUEST = ScoreRequest(user_id="u", items=[Item(item_id="a"), Item(item_id="b")], event_time=NOW)
Condition = Callable[[], bool]


def new_scorer() -> Scorer:
    return Scorer(Trunk.empty(), FeatureView(PLAN, forget_ms=3_600_000))


def weights(version: int, source: str = "w0", **changes: Any) -> Weights:
    """A version whose bias is its number: scores tell versions apart."""
    names = new_scorer().feature_names
    p = len(names)
    mean = np.zeros(p)
    mean[0], mean[1] = -0.01 * version, 0.5
    prior = np.full(p, 20.0)
    fields: dict[str, Any] = {
        "source": source,
        "version": version,
        "parent": version - 1,
        "trunk_hash": "none",
        "feature_names": names,
        "features_hash": PLAN.hash,
        "heads": {"ctr": to_head(Posterior(mean, np.diag(2 * prior), np.zeros(p), np.diag(prior)))},
        "watermarks": Watermarks(features=NOW, labels=NOW),
        "created_at": NOW,
        "samples": version,
        "metrics": {},
    }
    return Weights(**(fields | changes))


def row(item: str, impressions: float, clicks: float, worker: str = "w0") -> tuple[bytes, bytes]:
    """What a worker publishes of an item: newest event, landmark, newest counted, clicks, impressions."""
    numbers = np.array([[NOW, NOW, NOW, clicks, clicks, impressions, impressions]])
    keys = hash_texts([item])
    return row_names(row_prefix(OF_WORKER, worker, TABLE), keys)[0], pack(keys, numbers, NOW)[0]


class Log:
    """Writes to the two topics of a test."""

    def __init__(self, bootstrap: str, topics: Topics) -> None:
        self.bootstrap = bootstrap
        self.topics = topics

    async def create(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            settings = {"cleanup.policy": "compact"}
            await admin.create_topics(
                [
                    NewTopic(self.topics.weights, 1, 1, topic_configs=settings),
                    NewTopic(self.topics.features, 3, 1, topic_configs=settings),
                ]
            )
        finally:
            await admin.close()

    async def write(self, topic: str, *records: tuple[bytes | None, bytes | None]) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap)
        await producer.start()
        try:
            sent = [await producer.send(topic, key=key, value=value) for key, value in records]
            await asyncio.gather(*sent)
        finally:
            await producer.stop()

    async def publish(self, *versions: Weights) -> None:
        await self.write(self.topics.weights, *((w.key, encode_weights(w)) for w in versions))


@contextlib.asynccontextmanager
async def following(scorer: Scorer, log: Log) -> AsyncIterator[Follower]:
    follower = Follower(scorer, Connection(log.bootstrap), log.topics.weights, log.topics.features, SETTINGS)
    task = asyncio.create_task(follower.run())
    try:
        yield follower
        assert not task.done(), "the follower must never end by itself"
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(condition: Condition, what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        await asyncio.sleep(0.02)


@pytest.fixture
async def log(broker: str, topics: Topics) -> Log:
    log = Log(broker, topics)
    await log.create()
    return log


async def test_serving_starts_from_the_topics_alone(log: Log) -> None:
    """Two scorers, one that followed all along and one that starts later, must give the same scores.

    Ready means that everything that stood in the topics counts: no score before it is from an older
    version or without a feature row.
    """
    rows = [row(str(i), 100.0 + i, i % 7, f"w{i % 2}") for i in range(3000)]
    early, late = new_scorer(), new_scorer()
    async with following(early, log) as follower:
        await asyncio.wait_for(follower.wait_ready(), 30)
        both = row("a", 50.0, 9.0), row("a", 9.0, 1.0, "w1")
        await log.write(log.topics.features, *rows, *both)
        await log.publish(*(weights(v) for v in range(1, 40)), weights(3, "w1"), weights(4, "w1"))
        await until(lambda: early.snapshot.version == 43, "the last versions serve")
        await until(lambda: early.view.rows()[TABLE] == 3001, "all rows are there")
    async with following(late, log) as follower:
        await asyncio.wait_for(follower.wait_ready(), 30)
        assert late.snapshot.versions == {"w0": 39, "w1": 4}
        assert late.view.rows() == {TABLE: 3001, "everything": 0}
        assert [feed.lag for feed in follower.feeds] == [0, 0]
    assert late.score(REQUEST).scores == early.score(REQUEST).scores
    assert not late.refused and not late.view.refused


async def test_a_newer_version_swaps_in(log: Log) -> None:
    """While it serves; the stamp and the scores move together."""
    scorer = new_scorer()
    await log.publish(weights(1))
    async with following(scorer, log) as follower:
        await asyncio.wait_for(follower.wait_ready(), 30)
        first = scorer.score(REQUEST)
        await log.publish(weights(2))
        await until(lambda: scorer.snapshot.version == 2, "version 2 serves")
        second = scorer.score(REQUEST)
        assert (first.stamp.version, second.stamp.version) == (1, 2)
        assert second.scores[0] < first.scores[0]
        await log.write(log.topics.features, row("a", 100.0, 50.0))
        await until(lambda: scorer.view.rows()[TABLE] == 1, "the row is there")
        assert scorer.score(REQUEST).scores[0] > second.scores[0]
        await log.write(log.topics.features, (row("a", 0, 0)[0], None))
        await until(lambda: scorer.view.rows()[TABLE] == 0, "the row is gone")
        assert scorer.score(REQUEST).scores == second.scores


async def test_garbage_is_counted_and_the_old_weights_serve(log: Log) -> None:
    """Neither topic can stop a scorer, whoever writes to it, and what follows the garbage is read."""
    scorer = new_scorer()
    await log.publish(weights(5))
    async with following(scorer, log) as follower:
        await asyncio.wait_for(follower.wait_ready(), 30)
        before = scorer.score(REQUEST)
        await log.write(
            log.topics.weights,
            (b"ctr/w0", b"garbage"),
            (b"\xff", b"\x00" * 100),
            (b"ctr/other", encode_weights(weights(9))),
            (b"ctr/w0", encode_weights(weights(9, trunk_hash="other"))),
            (b"ctr/w0", encode_weights(weights(4))),
        )
        bad = ((b"nonsense", b"x"), (b"\xff/item/a", None), (row("a", 0, 0)[0], b"x"))
        await log.write(log.topics.features, *bad, row("b", 9, 1))
        await until(lambda: sum(scorer.refused.values()) == 5, "all five are refused")
        await until(lambda: scorer.view.rows()[TABLE] == 1, "the good row is taken")
        assert scorer.refused == {"undecodable": 2, "key": 1, "trunk_hash": 1, "stale": 1}
        assert scorer.view.refused == {"key": 2, "row": 1}
        assert scorer.score(REQUEST).stamp.sources == before.stamp.sources == {"w0": 5}
        await log.publish(weights(6))
        await until(lambda: scorer.snapshot.version == 6, "what follows is served")


async def test_a_topic_that_does_not_exist_is_waited_for(
    broker: str, topics: Topics, caplog: pytest.LogCaptureFixture
) -> None:
    """Serving may start before the worker: it says so, is not ready, creates nothing, and catches up."""
    log, scorer = Log(broker, topics), new_scorer()
    with caplog.at_level(logging.WARNING):
        async with following(scorer, log) as follower:
            await until(lambda: caplog.text.count("does not exist") == 2, "both topics are named")
            await asyncio.sleep(0.5)
            assert not follower.ready
            assert caplog.text.count("does not exist") == 2
            await log.create()
            await log.publish(weights(1))
            await until(lambda: scorer.snapshot.version == 1, "the weights serve")
            await asyncio.wait_for(follower.wait_ready(), 30)


async def test_the_server_is_ready_when_the_topics_are_read(log: Log) -> None:
    """Over HTTP, from start to graceful stop."""
    scorer = new_scorer()
    await log.publish(weights(3))
    follower = Follower(scorer, Connection(log.bootstrap), log.topics.weights, log.topics.features, SETTINGS)
    async with TestClient(TestServer(create_app(scorer, follower))) as client:
        assert (await client.get("/ready")).status == 503
        await asyncio.wait_for(follower.wait_ready(), 30)
        ready = await client.get("/ready")
        assert ready.status == 200
        assert await ready.json() == {"status": "ready", "version": 3, "feature_rows": 0}
        answer = await (
            await client.post("/score", json={"user_id": "u", "items": [{"item_id": "a"}]})
        ).json()
        assert answer["stamp"]["sources"] == {"w0": 3}
        assert 'surgeline_serving_feed_lag_records{topic="' in await (await client.get("/metrics")).text()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith(("follower", "feed"))]


async def test_an_outage_is_survived(
    broker_kind: brokers.Kind, topics: Topics, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """Failure: a scorer that dies, hangs or forgets when its broker goes away for a while.

    Mechanism: a broker of the test's own is stopped under a follower and started again at the same
    address: Apache Kafka with its log, the embedded one (in memory) without topics. Required: it serves
    what it had, says that it is cut off, and takes the next version when the broker is back.
    """
    port = free_port()
    log, scorer = Log(f"127.0.0.1:{port}", topics), new_scorer()
    async with following(scorer, log) as follower:
        with brokers.Broker(broker_kind, port, tmp_path):
            await log.create()
            await log.publish(*(weights(v) for v in range(1, 8)))
            await log.write(log.topics.features, row("a", 100.0, 30.0))
            await asyncio.wait_for(follower.wait_ready(), 30)
            await until(lambda: scorer.snapshot.version == 7, "the weights serve")
            await until(lambda: scorer.view.rows()[TABLE] == 1, "the row is there")
        before = scorer.score(REQUEST)
        await until(lambda: not any(feed.connected for feed in follower.feeds), "the outage is noticed")
        cut_off = scorer.score(REQUEST)
        assert (cut_off.scores, cut_off.stamp.sources) == (before.scores, before.stamp.sources)
        assert follower.ready
        with brokers.Broker(broker_kind, port, tmp_path):
            if broker_kind == "embedded":
                await log.create()
            await log.publish(weights(8))
            await until(lambda: scorer.snapshot.version == 8, "the next version serves", 60)
            await until(lambda: all(feed.connected for feed in follower.feeds), "it says so", 60)
            assert scorer.view.rows()[TABLE] == 1
            assert not scorer.refused or broker_kind == "embedded"
