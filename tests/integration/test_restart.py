"""Failure: a worker at the size of a sale does not start again: more rows changed since the last publishing
than the first arrays hold, and a backlog waits in the topics.

Mechanism: 60,000 users and as many items. A state that was left before its first publishing (all of its
rows are to be published again), then a worker that is killed three times and stopped three times in the
middle of a backlog, while the replay goes on. Required: each time it starts again and works off the backlog;
at the end every impression counts once, the digest is that of an engine without kills, and a scorer that
starts then has the rows of all users and items.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from clients.connection import Connection
from clients.topics import ensure_topics
from contracts.scenario import Scenario
from models.deep.trunk import Trunk
from replay.columns import conform, in_event_order
from state.store import Store
from stream.engine import Engine
from stream.resume import Place
from stream.timeline import Source
from tests.integration.harness import (
    T0,
    TIMES,
    Playing,
    Sale,
    Serving,
    Worker,
    get,
    kept,
    read_topic,
    rehearse,
    until,
)

# A minute of work that is about the worker's state.
pytestmark = pytest.mark.one_broker

CROWD = 60_000


class Crowd(Sale):
    """Each of ``CROWD`` users once, with an item of its own; a tenth clicked and looked. 30 s of time."""

    def __init__(self, start: int, seed: int = 5) -> None:
        rng = np.random.default_rng(seed)
        self.name = f"crowd-{start}"
        shown = pl.DataFrame(
            {
                "event": "impression",
                "event_time": np.sort(rng.integers(0, 30_000, CROWD)) + start,
                "action": pl.Series([None] * CROWD, dtype=pl.String),
                "impression_id": [f"{self.name}-{k}" for k in range(CROWD)],
                "user_id": [f"user-{k}" for k in rng.permutation(CROWD).tolist()],
                "item_id": [f"item-{k}" for k in rng.permutation(CROWD).tolist()],
                "category_id": [f"category-{k % 40}" for k in range(CROWD)],
                "position": rng.integers(0, 6, CROWD),
                "price": 9.0,
            }
        )
        clicked = shown.filter(pl.Series(rng.random(CROWD) < 0.1))
        clicks = clicked.with_columns(
            pl.lit("action").alias("event"), pl.lit("click").alias("action"), pl.col("event_time") + 1500
        )
        looks = clicked.select(
            "event_time", "user_id", "item_id", event=pl.lit("behaviour"), type=pl.lit("look")
        )
        self.table = in_event_order(conform(pl.concat([shown, clicks, looks], how="diagonal")))


def left_before_publishing(scenario: Scenario, broker: str, folder: Path) -> int:
    """The state of a worker that read all topics and died before it published; its impressions."""
    with Store(folder) as store:
        engine = Engine(scenario, store, Trunk.empty(), "0")
        topics = scenario.topics
        batches: dict[Source, list[Any]] = {
            Source(kind, partition): []
            for kind in range(len(topics.sources))
            for partition in range(topics.partitions)
        }
        for kind, topic in enumerate(topics.sources):
            for record in read_topic(broker, topic):
                batches[Source(kind, record.partition)].append(record)
        for source in batches:
            engine.assign(source, Place())
        for source, records in batches.items():
            engine.ingest(source, records, T0 + 10**9)
        engine.advance()
        engine.checkpoint()
        return engine.joins.counts.impressions


def test_a_worker_of_a_whole_sale_starts_again_in_the_middle_of_a_backlog(
    broker: str, scenario_factory: Callable[..., Scenario], tmp_path: Path
) -> None:
    moments = random.Random(3)
    scenario = scenario_factory(times=TIMES)
    ensure_topics(Connection(broker), scenario)
    Playing(Crowd(T0), scenario, broker, watermark=False).report()
    folder = tmp_path / "state" / f"{scenario.name}-0"
    assert left_before_publishing(scenario, broker, folder) > 50_000
    playing = Playing(Crowd(T0 + 30_000), scenario, broker, rate=2000)
    for end in ("kill", "stop") * 3:
        worker = Worker(scenario, broker, tmp_path)
        try:
            until(lambda worker=worker: worker.view() and worker.reading(), "it reads again")
            time.sleep(moments.uniform(0.0, 1.5))
            if end == "kill":
                worker.kill()
            else:
                assert worker.stop() == 0, worker.text()[-3000:]
        finally:
            worker.end()
    playing.report()
    worker = Worker(scenario, broker, tmp_path)
    try:
        worker.reached(impressions=2 * CROWD, samples=2 * CROWD)
        serving = Serving(worker, broker)
        try:
            serving.ready()
            until(lambda: rows(serving) == (CROWD, CROWD), "the scorer has the rows of all users and items")
        finally:
            serving.end()
        assert worker.stop() == 0
    finally:
        worker.end()
    state = kept(scenario, worker.state_folder)
    assert (state.impressions, state.samples, state.duplicates) == (2 * CROWD, 2 * CROWD, 0)
    assert state.digest == rehearse(scenario, broker, tmp_path / "rehearsed").digest


def rows(serving: Serving) -> tuple[int, int]:
    """Rows of users and items that a scorer holds."""
    found = dict(re.findall(r'feature_rows\{table="(\w+)"\} (\S+)', get(f"{serving.url}/metrics")))
    return round(float(found["user_id"])), round(float(found["item_id"]))
