"""Fails when a producer that puts a user's events into other partitions is not noticed by a worker.

Failure: librdkafka's default partitioner in one producer, and joins across workers break without a word.
Mechanism: real producers with crc32 and with murmur2 into a real worker. Required: crc32 counted by topic and
said once with what to set; murmur2 not; both topics by crc32 said as what it is.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka.partitioner import murmur2
from kafka import KafkaProducer
from kafka.partitioner import Partitioner

from contracts.scenario import Scenario
from tests.integration.harness import T0, TIMES, Worker, until

pytestmark = pytest.mark.one_broker

USERS = [f"user-{k}" for k in range(200)]
MISPLACED = [u for u in USERS if zlib.crc32(u.encode()) % 4 != (murmur2(u.encode()) & 0x7FFFFFFF) % 4]
KCAT = shutil.which("kcat")


class Crc32(Partitioner):
    """librdkafka's ``consistent``, in kafka-python's producer."""

    def partition(
        self, topic: str, key: Any, serialized_key: bytes, value: Any, serialized_value: bytes, cluster: Any
    ) -> int:
        return zlib.crc32(serialized_key) % len(cluster.partitions_for_topic(topic))


def event(topic: str, user: str, k: int) -> bytes:
    base = {"impression_id": f"{user}-{k}", "event_time": T0 + k, "user_id": user, "item_id": "x"}
    return msgspec.json.encode(base | ({"action": "click"} if topic.startswith("actions") else {}))


def send(bootstrap: str, topic: str, **options: object) -> None:
    """One event a user by a producer with these options."""
    with KafkaProducer(bootstrap_servers=bootstrap, **options) as producer:
        sent = [producer.send(topic, key=u.encode(), value=event(topic, u, k)) for k, u in enumerate(USERS)]
        for future in sent:
            future.get(30)


def counted(worker: Worker, name: str, topic: str) -> dict[str, float]:
    """Values of a counter for a topic, by its reason ("" where it has none)."""
    found = re.findall(rf"^surgeline_{name}_total{{(.*)}} ([\d.e+]+)$", worker.metrics(), re.MULTILINE)
    reasons = {}
    for labels, value in found:
        if f'topic="{topic}"' in labels:
            reason = re.search(r'reason="(\w+)"', labels)
            reasons[reason[1] if reason else ""] = float(value)
    return reasons


def said(worker: Worker) -> list[str]:
    """Lines about keys in the worker's log."""
    return [line for line in worker.text().splitlines() if "murmur2" in line]


@pytest.fixture
def worker(broker: str, scenario_factory: Callable[..., Scenario], tmp_path: Path) -> Worker:
    return Worker(scenario_factory(times=TIMES), broker, tmp_path)


def test_crc32_is_counted_and_said_and_murmur2_is_not(worker: Worker, broker: str) -> None:
    """Impressions by crc32, actions by murmur2: what librdkafka beside a Java producer does."""
    shown, done = worker.scenario.topics.impressions, worker.scenario.topics.actions
    try:
        worker.ready()
        send(broker, done)
        until(lambda: counted(worker, "checked_keys", done).get(""), "keys of actions are looked at")
        send(broker, shown, partitioner=Crc32())
        until(lambda: said(worker), "it is said")
        until(lambda: counted(worker, "misplaced_keys", shown)["partitioner"], "it is counted")
        (line,) = said(worker)
        assert "WARN" in line and shown in line and "partitioner=murmur2_random" in line
        checked = counted(worker, "checked_keys", shown)[""]
        assert 0 < counted(worker, "misplaced_keys", shown)["partitioner"] <= min(checked, len(MISPLACED))
        assert set(counted(worker, "misplaced_keys", done).values()) == {0.0}
    finally:
        worker.end()


def test_both_by_crc32_is_said_as_what_it_is(worker: Worker, broker: str) -> None:
    """Joins hold: one line that is no warning, and a reason that no alert counts."""
    shown, done = worker.scenario.topics.impressions, worker.scenario.topics.actions
    try:
        worker.ready()

        def both_go_on() -> list[str]:
            for topic in (shown, done):
                send(broker, topic, partitioner=Crc32())
            return said(worker)

        until(both_go_on, "it is said")
        until(lambda: counted(worker, "misplaced_keys", shown)["agreed"], "it is counted")
        (line,) = said(worker)
        assert "INFO" in line and "crc32" in line and shown in line and done in line
        assert counted(worker, "misplaced_keys", shown)["partitioner"] == 0.0
    finally:
        worker.end()


if KCAT:

    def written(bootstrap: str, topic: str, user: str, options: list[str], worker: Worker) -> float:
        """Keys that the worker has looked at once kcat has written one more event."""
        before = counted(worker, "checked_keys", topic)[""]
        argv = [str(KCAT), "-b", bootstrap, *options, "-t", topic, "-K:", "-P"]
        line = f"{user}:".encode() + event(topic, user, round(before)) + b"\n"
        subprocess.run(argv, input=line, check=True, timeout=60)
        until(lambda: counted(worker, "checked_keys", topic)[""] > before, "the worker looked at it")
        return counted(worker, "checked_keys", topic)[""]

    def test_the_line_of_the_readme_puts_users_where_they_belong(worker: Worker, broker: str) -> None:
        """The options of kcat in the README, against kcat itself; without them it warns."""
        text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
        (options,) = re.findall(r"kcat -b \S+ (.*)-t surgeline-impressions", text)
        topic, user = worker.scenario.topics.impressions, MISPLACED[0]
        try:
            worker.ready()
            assert written(broker, topic, user, options.split(), worker) == 1
            assert written(broker, topic, user, [], worker) == 2
            until(lambda: said(worker), "the line without options is said")
            assert "1 of 1 keys" in said(worker)[0], "so the README's line was right"
        finally:
            worker.end()
