"""The player against a broker.

Failure: records lost, doubled, in the wrong partition, out of order, or old to the broker; a watermark that
is missing or comes too early; Ctrl-C that loses count; a lag that is not the group's. Mechanism: whole
batches a partition, sent ahead of their acknowledgement. Required: what a consumer reads is the log, exactly.
"""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import polars as pl
import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.partitioner import murmur2

from clients.connection import Connection
from clients.topics import ensure_topics
from contracts.events import EVENTS, KINDS, Behaviour, Watermark
from contracts.scenario import Scenario, Topics
from replay.columns import conform
from replay.errors import BrokerError
from replay.files import write_log
from replay.lag import LagProbe
from replay.log import LogInfo, summarise
from replay.pacing import Pace
from replay.player import Player, Progress, play
from replay.produce import Sender

T0 = 1_700_000_000_000


class Steady:
    """``count`` impressions ``gap_ms`` apart, by 97 users; every third is clicked 7 ms later,
    and after every fifth its item is looked at."""

    name = "steady"

    def __init__(self, count: int, gap_ms: int = 10) -> None:
        rows = []
        for k in range(count):
            base = {"impression_id": f"i{k}", "user_id": f"user-{k % 97}", "item_id": f"x{k % 13}"}
            rows.append({"event": "impression", "event_time": T0 + k * gap_ms, "action": None, **base})
            if k % 3 == 0:
                rows.append({"event": "action", "event_time": T0 + k * gap_ms + 7, "action": "click", **base})
            if k % 5 == 0:
                look = {"event": "behaviour", "event_time": T0 + k * gap_ms + 8, "type": "look"}
                rows.append(look | {"user_id": base["user_id"], "item_id": base["item_id"]})
        self.table = conform(pl.DataFrame(rows, infer_schema_length=None))

    def info(self) -> LogInfo:
        return summarise(self)

    def chunks(self, rows: int = 65_536) -> Iterator[pl.DataFrame]:
        yield from self.table.iter_slices(rows)


@asynccontextmanager
async def consumer(broker: str) -> AsyncIterator[AIOKafkaConsumer]:
    client = AIOKafkaConsumer(bootstrap_servers=broker, enable_auto_commit=False)
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


async def read(broker: str, topics: Topics) -> dict[tuple[str, int], list[ConsumerRecord]]:
    """Every record of the source topics, by topic and partition."""
    async with consumer(broker) as client:
        partitions = [TopicPartition(name, p) for name in topics.sources for p in range(topics.partitions)]
        client.assign(partitions)
        await client.seek_to_beginning(*partitions)
        ends = await client.end_offsets(partitions)
        found: dict[tuple[str, int], list[ConsumerRecord]] = {tuple(tp): [] for tp in partitions}
        left = sum(ends.values())
        while left:
            for tp, records in (await client.getmany(timeout_ms=1000)).items():
                found[tuple(tp)] += records
                left -= len(records)
    return found


async def test_a_consumer_reads_the_log(broker: str, scenario_factory: Callable[..., Scenario]) -> None:
    scenario = scenario_factory()
    log = Steady(20_000)
    begin = time.time() * 1000 - 1
    seen: list[Progress] = []
    report = await asyncio.to_thread(play, log, scenario, broker, rows=3000, on_progress=seen.append)
    found = await read(broker, scenario.topics)

    info = log.info()
    assert (report.impressions, report.by_action) == (info.impressions, info.by_action)
    assert report.behaviours == info.behaviours == 4_000
    assert seen[-1].events == report.events == info.events
    assert (report.first_ms, report.last_ms) == (info.first_ms, info.last_ms)
    assert report.watermark_ms == info.last_ms + scenario.times.closing_ms  # type: ignore[operator]
    assert report.watermarks == 3 * scenario.topics.partitions

    sent: dict[str, list[tuple[int, str]]] = {kind: [] for kind in KINDS}
    for (topic, partition), records in found.items():
        last = msgspec.json.decode(records[-1].value, type=Watermark)
        assert (last.watermark, records[-1].key) == (report.watermark_ms, None)
        times = []
        for record in records[:-1]:
            kind = scenario.topics.sources.index(topic)
            event = msgspec.json.decode(record.value, type=EVENTS[kind])
            assert record.key == event.user_id.encode()
            # Brokers delete by record timestamp: with the log's own time an old log would be gone.
            assert record.timestamp >= begin
            times.append(event.event_time)
            assert (murmur2(record.key) & 0x7FFFFFFF) % scenario.topics.partitions == partition
            what = event.item_id if isinstance(event, Behaviour) else event.impression_id
            sent[KINDS[kind]].append((event.event_time, what))
        assert times == sorted(times)
    rows = log.table.select("event", "event_time", pl.coalesce("impression_id", "item_id")).rows()
    for kind in KINDS:
        assert sorted(sent[kind]) == sorted((time, key) for event, time, key in rows if event == kind)


async def test_a_live_replay_is_stamped_now(broker: str, scenario_factory: Callable[..., Scenario]) -> None:
    """The whole log of 10 s passes at 50 times its speed, no event is sent ahead of its own time."""
    scenario = scenario_factory()
    log = Steady(1000)
    report = await asyncio.to_thread(play, log, scenario, broker, "50x", time="now", watermark=False)
    found = await read(broker, scenario.topics)
    schema = dict(zip(scenario.topics.sources, EVENTS, strict=True))
    times = sorted(
        msgspec.json.decode(record.value, type=schema[topic]).event_time
        for (topic, _), records in found.items()
        for record in records
    )
    assert len(times) == report.events == log.info().events
    assert report.watermarks == 0
    assert times[0] > T0 and abs((times[-1] - times[0]) - 9990 / 50) <= 2
    assert report.lateness_p99_s <= report.lateness_max_s


async def test_stop_ends_after_a_batch_with_an_exact_count(
    broker: str, scenario_factory: Callable[..., Scenario]
) -> None:
    scenario = scenario_factory()
    player = Player(Steady(20_000), scenario, broker, Pace(), rows=1000)
    seen: list[Progress] = []

    def watch(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == 3:
            player.stop()

    report = await player.run(on_progress=watch)
    found = await read(broker, scenario.topics)
    assert report.interrupted and report.watermarks == 0
    assert report.events == 3000 == sum(len(records) for records in found.values())


def test_ctrl_c_prints_what_was_sent_and_exits_130(
    broker: str, scenario_factory: Callable[..., Scenario], tmp_path: Path
) -> None:
    scenario = scenario_factory()
    (tmp_path / "scenario.toml").write_text(_toml(scenario.topics))
    log = tmp_path / "log.parquet"
    write_log(Steady(2000, gap_ms=100).chunks(), log)
    command = [sys.executable, "-m", "surgeline.cli", "replay", str(log), "--speed", "1x"]
    command += ["--scenario", str(tmp_path / "scenario.toml"), "--bootstrap", broker]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    asyncio.run(_until_some_arrive(broker, scenario.topics))
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    sent = re.search(r"stopped: sent ([\d,]+) impressions, ([\d,]+) actions .*, ([\d,]+) behaviours", output)
    assert sent is not None, output
    found = asyncio.run(read(broker, scenario.topics))
    printed = sum(int(count.replace(",", "")) for count in sent.groups())
    assert sum(len(records) for records in found.values()) == printed


def _toml(topics: Topics) -> str:
    return "[topics]\n" + "".join(f"{k} = {v!r}\n" for k, v in msgspec.to_builtins(topics).items())


async def _until_some_arrive(broker: str, topics: Topics) -> None:
    async with consumer(broker) as client:
        for _ in range(300):
            known = await client.topics()
            if topics.impressions in known:
                partitions = [TopicPartition(topics.impressions, p) for p in range(topics.partitions)]
                if sum((await client.end_offsets(partitions)).values()):
                    return
            await asyncio.sleep(0.1)
    pytest.fail("the player sent nothing within 30 s")


async def test_topics_that_cannot_be_joined_are_refused(
    broker: str, scenario_factory: Callable[..., Scenario]
) -> None:
    one, other = scenario_factory(), scenario_factory()
    topics = other.topics
    odd = msgspec.structs.replace(
        topics, actions=f"{topics.actions}-odd", behaviours=f"{topics.behaviours}-odd", partitions=3
    )
    await asyncio.to_thread(ensure_topics, Connection(broker), one)
    await asyncio.to_thread(
        ensure_topics,
        Connection(broker),
        msgspec.structs.replace(
            other, topics=msgspec.structs.replace(odd, impressions=f"{other.topics.impressions}-odd")
        ),
    )
    with pytest.raises(BrokerError, match=r"has 4, .*-odd has 3"):
        async with Sender(Connection(broker), (one.topics.impressions, odd.actions)):
            pytest.fail("topics with different partition counts were taken")


async def test_lag_is_what_the_engines_group_has_not_committed(
    broker: str, scenario_factory: Callable[..., Scenario], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replay.lag.EVERY_S", 0.05)
    scenario = scenario_factory()
    topic = scenario.topics.impressions
    await asyncio.to_thread(ensure_topics, Connection(broker), scenario)
    ends = {(topic, 0): 10, (topic, 1): 4}
    async with LagProbe(Connection(broker), scenario.name, ends) as probe:
        assert probe.value is None
        engine = AIOKafkaConsumer(bootstrap_servers=broker, group_id=scenario.name, enable_auto_commit=False)
        await engine.start()
        try:
            engine.assign([TopicPartition(topic, 0)])
            await engine.commit({TopicPartition(topic, 0): 7})
        finally:
            await engine.stop()
        for _ in range(200):
            if probe.value is not None:
                break
            await asyncio.sleep(0.05)
        assert probe.value == 3 + 4
