"""Failure: a part of the system reaches a plaintext Kafka and no other.

Mechanism: an Apache Kafka whose listeners want TLS, a login, or both; settings from the environment, as a
deployment gives them.
Required: worker, serving, replay and topics do over SSL and over SASL_SSL what they do in the open, and
every client that we use gets in by every way.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth
from kafka.admin import KafkaAdminClient

from clients.connection import Connection, connection
from clients.refusal import check
from clients.topics import connect, ensure_topics, partition_counts, wanted_topics
from contracts.scenario import Scenario
from replay.files import write_log
from replay.lag import LagProbe
from tests.integration.harness import (
    TIMES,
    Process,
    Sale,
    Serving,
    Worker,
    read_topic,
    to_toml,
    until,
    versions,
)
from tests.integration.secured import PASSWORD, Secured

pytestmark = pytest.mark.kafka


@pytest.fixture(params=["SSL", "SASL_SSL SCRAM-SHA-256"])
def way(request: pytest.FixtureRequest, secured: Secured, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of this test and of what it starts."""
    return enter(secured, request.param, monkeypatch)


def enter(secured: Secured, name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    way = secured.ways()[name]
    for variable, value in way.items():
        monkeypatch.setenv(variable, value)
    return way


def surgeline(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "surgeline.cli", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)


def without_secrets(process: Process) -> None:
    assert "Traceback" not in process.text()
    assert PASSWORD not in process.text()


def test_topics(
    secured: Secured, way: dict[str, str], scenario_factory: Callable[..., Scenario], tmp_path: Path
) -> None:
    scenario = scenario_factory()
    path = tmp_path / "sale.toml"
    path.write_text(to_toml(scenario))
    for verb in ("create", "show"):
        done = surgeline("topics", verb, "--scenario", str(path))
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("partitions") == len(wanted_topics(scenario))
    admin = connect(Connection(secured.plaintext))
    try:
        assert set(partition_counts(admin, list(wanted_topics(scenario)))) == set(wanted_topics(scenario))
    finally:
        admin.close()


def test_replay(
    secured: Secured, way: dict[str, str], scenario_factory: Callable[..., Scenario], tmp_path: Path
) -> None:
    scenario = scenario_factory()
    path, log = tmp_path / "sale.toml", tmp_path / "log.parquet"
    path.write_text(to_toml(scenario))
    sale = Sale(400, 10.0)
    write_log(sale.chunks(), log)
    done = surgeline("replay", str(log), "--scenario", str(path))
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert "sent 400 impressions" in done.stdout
    impressions = read_topic(secured.plaintext, scenario.topics.impressions)
    # One watermark a partition.
    assert len(impressions) == 400 + scenario.topics.partitions


def test_worker(
    secured: Secured, way: dict[str, str], scenario_factory: Callable[..., Scenario], tmp_path: Path
) -> None:
    """Its consumer, its producers, its topics; over the wire it commits and publishes."""
    scenario = scenario_factory(times=TIMES)
    log = tmp_path / "log.parquet"
    sale = Sale(300, 20.0)
    write_log(sale.chunks(), log)
    (tmp_path / "sale.toml").write_text(to_toml(scenario))
    assert surgeline("replay", str(log), "--scenario", str(tmp_path / "sale.toml")).returncode == 0
    worker = Worker(scenario, way["KAFKA_BOOTSTRAP"], tmp_path / "home")
    try:
        worker.reached(impressions=300, samples=300)
        page = str(worker.view()) + worker.metrics()
        assert worker.stop() == 0
    finally:
        worker.end()
    without_secrets(worker)
    assert PASSWORD not in page
    assert versions(secured.plaintext, scenario)[-1].samples == 300
    watermarks = len(scenario.topics.sources) * scenario.topics.partitions
    assert sum(committed(secured.plaintext, scenario.name).values()) == sale.table.height + watermarks


def committed(bootstrap: str, group: str) -> dict[Any, int]:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        (offsets,) = admin.list_group_offsets([group]).values()
        return {tp: found.offset for tp, found in offsets.items()}
    finally:
        admin.close()


def test_serve(
    secured: Secured, way: dict[str, str], scenario_factory: Callable[..., Scenario], tmp_path: Path
) -> None:
    """It scores with what a worker publishes."""
    scenario = scenario_factory(times=TIMES)
    worker = Worker(scenario, way["KAFKA_BOOTSTRAP"], tmp_path / "home").ready()
    serving = None
    try:
        serving = follower = Serving(worker, way["KAFKA_BOOTSTRAP"]).ready()
        until(lambda: follower.score("item-1")["stamp"]["version"] > 0, "serving has weights")
        assert serving.stop() == 0
    finally:
        worker.end()
        if serving is not None:
            serving.end()
    assert serving is not None
    without_secrets(serving)


WAYS = (
    "SSL with a client certificate",
    "SASL_PLAINTEXT PLAIN",
    "SASL_PLAINTEXT OAUTHBEARER",
    "SASL_SSL PLAIN",
    "SASL_SSL SCRAM-SHA-512",
    "SASL_SSL OAUTHBEARER",
)


@pytest.mark.parametrize("name", WAYS)
async def test_every_client_gets_in(
    secured: Secured,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    scenario_factory: Callable[..., Scenario],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """aiokafka's consumer, producer and admin, Faust's consumer, kafka-python's admin; nothing in a log."""
    way = enter(secured, name, monkeypatch)
    scenario = scenario_factory()
    kafka = connection(scenario.kafka)
    with caplog.at_level(logging.DEBUG):
        await asyncio.to_thread(check, kafka)
        await asyncio.to_thread(ensure_topics, kafka, scenario)
        producer = AIOKafkaProducer(**kafka.aiokafka())
        await producer.start()
        try:
            await producer.send_and_wait(scenario.topics.impressions, b"{}", partition=0)
        finally:
            await producer.stop()
        fausts = {"security_protocol": "PLAINTEXT", **credentials_to_aiokafka_auth(kafka.faust())}
        consumer = AIOKafkaConsumer(
            scenario.topics.impressions,
            bootstrap_servers=kafka.servers,
            auto_offset_reset="earliest",
            group_id=scenario.name,
            **fausts,
        )
        await consumer.start()
        try:
            assert (await asyncio.wait_for(consumer.getone(), 60)).value == b"{}"
            await consumer.commit()
        finally:
            await consumer.stop()
        async with LagProbe(kafka, scenario.name, {(scenario.topics.impressions, 0): 3}) as probe:
            await asyncio.to_thread(until, lambda: probe.value is not None, "the lag is known")
            assert probe.value == 2
    secrets = [way[n] for n in ("KAFKA_SASL_PASSWORD", "KAFKA_SSL_KEY_PASSWORD") if n in way]
    if kafka.token_file is not None:
        secrets.append(kafka.token_file.read_text().strip())
    assert len(caplog.text) > 1000 and secrets
    assert not [secret for secret in secrets if secret in caplog.text]
