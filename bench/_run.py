"""One run of the throughput figure: its simulated sale, its topics on one broker, its processes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import polars as pl
from aiokafka import AIOKafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError

from bench._registry import BenchError, Result, say
from clients.connection import connection
from clients.launch import Child
from contracts.scenario import Scenario, Topics
from contracts.weights import Weights, decode_weights
from replay.files import write_log
from replay.log import RecordedLog
from replay.open_log import open_log
from replay.player import PlayReport, play
from replay.simulate import Double11, Double11Config
from surgeline.local.broker import HOST, free_port
from surgeline.train import train_on

PARTITIONS = 4
HIDDEN = 32
#: Impressions a second of event time before the jump at midnight, which lies in the middle.
EVENT_RATE = 10_000.0


@dataclass(frozen=True, slots=True)
class Run:
    """One run's topics, files and broker."""

    scenario: Scenario
    bootstrap: str
    folder: Path
    log: RecordedLog

    @property
    def prefix(self) -> str:
        return self.scenario.name

    def topics(self, part: str) -> Topics:
        """Topics of this run for ``part``; all begin with its prefix."""
        names = ("impressions", "actions", "behaviours", "dead_letter", "weights", "features")
        made = {name: f"{self.prefix}{part}-{name.replace('_', '-')}" for name in names}
        return msgspec.convert({**made, "partitions": PARTITIONS}, Topics)

    def fill(self, part: str, limit: int | None = None) -> tuple[Topics, PlayReport]:
        """Topics with the first ``limit`` events, or with all of them, and the watermarks behind."""
        topics = self.topics(part)
        scenario = msgspec.structs.replace(self.scenario, topics=topics)
        played = play(self.log, scenario, self.bootstrap, limit=limit)
        if played.interrupted:
            raise BenchError("interrupted while the topics were filled")
        return topics, played


def prepare(folder: Path, bootstrap: str, events: int) -> tuple[Run, PlayReport]:
    """Simulate, train on the stream's first part, and fill fresh topics once."""
    log = folder / "sale.parquet"
    say(f"simulating {events:,} events")
    _simulate(log, events)
    say("training a trunk")
    times = pl.scan_parquet(log).select(pl.col("event_time").quantile(0.2)).collect().item()
    trunk = folder / "trunk"
    train_on(open_log(log), trunk, hidden=HIDDEN, epochs=2, until=int(times))
    prefix = f"bench-{uuid.uuid4().hex[:8]}"
    run = Run(Scenario(name=prefix, trunk=str(trunk)), bootstrap, folder, open_log(log))
    say("filling the topics")
    return run, run.fill("")[1]


def _simulate(path: Path, events: int) -> None:
    """A sale whose rate rises only mildly at midnight: throughput is asked for, not the surge."""
    minutes = events / EVENT_RATE / 60.0
    config = Double11Config(
        minutes=minutes, rate=EVENT_RATE, hours=0.5, jump_ratio=1.5, users=50_000, base_ctr=0.03, seed=11
    )
    frames = (log for log, _ in Double11(config).frames())
    write_log(_first(frames, events), path)


def _first(frames: Iterator[pl.DataFrame], events: int) -> Iterator[pl.DataFrame]:
    left = events
    for frame in frames:
        yield frame.head(left)
        left -= frame.height
        if left <= 0:
            return


def write_scenario(run: Run, name: str) -> Path:
    """The scenario of one engine run: its own group and output topics, the shared input; else defaults."""
    source = run.topics("")
    topics = msgspec.structs.asdict(run.topics(name.removeprefix(run.prefix)))
    topics |= {name: getattr(source, name) for name in ("impressions", "actions", "behaviours")}
    lines = [f"name = {json.dumps(name)}", f"trunk = {json.dumps(run.scenario.trunk)}", "[topics]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in topics.items()]
    path = run.folder / f"{name}.toml"
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return path


def produced(played: PlayReport) -> Result:
    return {
        "events": played.events,
        "impressions": played.impressions,
        "actions": played.actions,
        "behaviours": played.behaviours,
        "by_action": played.by_action,
        "watermarks": played.watermarks,
        "bytes_per_event": played.sent_bytes / max(played.events, 1),
    }


def create(bootstrap: str, partitions: dict[str, int]) -> None:
    """Topics that nobody else makes, or makes too late: a changelog must have its partitions at once."""
    admin = KafkaAdminClient(**connection(bootstrap=bootstrap).kafka_python())
    compact = {"cleanup.policy": "compact"}
    try:
        admin.create_topics(
            [
                NewTopic(name, count, 1, topic_configs=compact if name.endswith("-changelog") else {})
                for name, count in partitions.items()
            ]
        )
    finally:
        admin.close()


def remove(bootstrap: str, prefix: str) -> None:
    """Topics and groups of this run on a broker that is not ours."""
    admin = KafkaAdminClient(**connection(bootstrap=bootstrap).kafka_python())
    try:
        admin.delete_topics([name for name in admin.list_topics() if name.startswith(prefix)])
        groups = [group["group_id"] for group in admin.list_groups()]
        admin.delete_groups([group for group in groups if group.startswith(prefix)])
    except (KafkaError, KeyError) as error:
        say(f"topics that begin with {prefix} could not all be removed: {error!r}")
    finally:
        admin.close()


@contextmanager
def worker(run: Run, name: str, argv: list[str], environment: dict[str, str]) -> Iterator[tuple[Child, str]]:
    """A Faust worker and the address of its pages; ended with everything it started."""
    port = free_port()
    command = [sys.executable, "-m", "faust", *argv, "--web-host", HOST, "--web-port", str(port)]
    settings = {**os.environ, **environment, "KAFKA_BOOTSTRAP": run.bootstrap}
    child = Child(command, run.folder / f"{name}.log", settings)
    try:
        yield child, f"http://{HOST}:{port}"
    finally:
        child.stop()


async def last_weights(bootstrap: str, topic: str) -> Weights:
    """The newest message of a weights topic of one partition."""
    consumer = AIOKafkaConsumer(**connection(bootstrap=bootstrap).aiokafka(), enable_auto_commit=False)
    await consumer.start()
    try:
        where = TopicPartition(topic, 0)
        end = (await consumer.end_offsets([where]))[where]
        consumer.assign([where])
        consumer.seek(where, max(end - 1, 0))
        record = await asyncio.wait_for(consumer.getone(), 30.0)
    finally:
        await consumer.stop()
    assert isinstance(record.value, bytes)
    return decode_weights(record.value)
