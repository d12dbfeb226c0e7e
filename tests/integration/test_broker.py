"""Fails when a broker that we start does not serve Kafka clients, or survives the one who started it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic

import surgeline.local.broker as brokers
from clients.connection import Connection
from clients.topics import ensure_topics
from contracts.scenario import Scenario, Topics
from surgeline.cli import main

HOLD = """
import sys, time
from surgeline.local.broker import Broker
with Broker(sys.argv[1], data_dir=sys.argv[2]) as broker:
    print(broker.port, broker._child.pid, flush=True)
    time.sleep(600)
"""


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.05)


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_records_come_back_in_order(broker: str, topics: Topics) -> None:
    """A client creates a topic, writes keyed records and reads the same ones from the start."""
    admin = KafkaAdminClient(bootstrap_servers=broker)
    admin.create_topics([NewTopic(topics.impressions, num_partitions=1, replication_factor=1)])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=broker)
    sent = [(b"user-%d" % (n % 3), b"value-%d" % n) for n in range(50)]
    for key, value in sent:
        producer.send(topics.impressions, key=key, value=value)
    producer.flush()
    producer.close()
    consumer = KafkaConsumer(
        topics.impressions, bootstrap_servers=broker, auto_offset_reset="earliest", consumer_timeout_ms=10_000
    )
    read = []
    for record in consumer:
        read.append((record.key, record.value))
        if len(read) == len(sent):
            break
    consumer.close()
    assert read == sent


def test_the_kind_is_the_one_asked_for(
    running_broker: brokers.Broker, broker: str, broker_kind: str, request: pytest.FixtureRequest
) -> None:
    """The id in the test's name is the broker that served it, on localhost only."""
    assert f"[{broker_kind}]" in request.node.name
    process = psutil.Process(running_broker._child.pid)  # type: ignore[union-attr]
    assert ("java" in process.name()) == (broker_kind == "kafka")
    listening = [c.laddr for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert running_broker.port in {address.port for address in listening}
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


# Starting Kafka takes ten seconds, so that the hardest signal stands for all there.
DEATHS: list[tuple[brokers.Kind, signal.Signals]] = [
    ("embedded", signal.SIGINT),
    ("embedded", signal.SIGTERM),
    ("embedded", signal.SIGKILL),
]
if brokers.kafka_home() is not None:
    DEATHS.append(("kafka", signal.SIGKILL))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with a parent that is killed")
@pytest.mark.parametrize(("kind", "number"), DEATHS, ids=lambda value: getattr(value, "name", value))
def test_the_broker_ends_with_its_parent(kind: brokers.Kind, number: signal.Signals, tmp_path: Path) -> None:
    """However the parent dies, no broker and no helper of it stays behind."""
    parent = subprocess.Popen(
        [sys.executable, "-c", HOLD, kind, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert parent.stdout is not None
        port, pid = map(int, parent.stdout.readline().split())
        assert brokers.answers(port)
        parent.send_signal(number)
        parent.wait(30)
        wait_for(lambda: is_gone(pid), f"broker {pid} after {number.name}")
        assert not brokers.answers(port)
        left = [
            p.info for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in (p.info["cmdline"] or [])
        ]
        assert left == []
    finally:
        parent.kill()
        parent.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_the_command_runs_until_told_to_stop(
    tmp_path: Path, free_port: Callable[[], int], number: signal.Signals
) -> None:
    """`surgeline broker` prints its address, serves, and ends with status 0 and without the broker."""
    port = free_port()
    arguments = ["broker", "--port", str(port), "--data-dir", str(tmp_path)]
    run = subprocess.Popen(
        [sys.executable, "-m", "surgeline.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert run.stdout is not None
        assert run.stdout.readline() == f"127.0.0.1:{port}\n"
        assert brokers.answers(port)
        run.send_signal(number)
        _out, error = run.communicate(timeout=30)
        assert run.returncode == 0, error
        assert "GLIBC" not in error and "Traceback" not in error
        wait_for(lambda: not brokers.answers(port), "the broker is gone")
    finally:
        run.kill()
        run.wait()


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    """Not waited for, and whoever listens there is not mistaken for our broker."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(brokers.BrokerError, match=f"127.0.0.1:{port} is taken"):
            brokers.Broker("embedded", port, tmp_path).start()


def test_a_broker_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error holds the exit status, what was printed last, and the log."""
    fake = tmp_path / "noida-db"
    fake.write_text("#!/bin/sh\necho cannot open the store >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setattr(brokers, "embedded_binary", lambda: fake)
    with pytest.raises(brokers.BrokerError, match=r"status 3: cannot open the store .*broker\.log"):
        brokers.Broker("embedded", data_dir=tmp_path / "data").start()


@pytest.mark.parametrize("kind", ["embedded", "kafka"])
def test_a_machine_without_it_is_told_the_other_ways(
    kind: brokers.Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No wheel, no Kafka: the message names what else works."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.delenv("KAFKA_HOME", raising=False)
    with pytest.raises(brokers.BrokerUnavailable) as caught:
        brokers.Broker(kind, data_dir=tmp_path).start()
    assert re.search("KAFKA_BOOTSTRAP=.*KAFKA_HOME=.*docker compose up kafka", str(caught.value))


@pytest.mark.skipif(os.name != "posix", reason="the stand-ins are shell scripts")
def test_a_standard_distribution_is_formatted_once_and_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bin/kafka-storage.sh and bin/kafka-server-start.sh are called as Apache's own are.

    Stand-ins: the server is the embedded broker on the port of the settings that it was given.
    """
    home, data, calls = tmp_path / "kafka", tmp_path / "data", tmp_path / "calls"
    scripts = home / "bin"
    scripts.mkdir(parents=True)
    storage = scripts / "kafka-storage.sh"
    storage.write_text(
        f'#!/bin/sh\necho "$1" >> {calls}\n'
        '[ "$1" = random-uuid ] && echo id-1 && exit\n'
        f"mkdir -p {data}/log && touch {data}/log/meta.properties\n"
    )
    server = scripts / "kafka-server-start.sh"
    server.write_text(
        '#!/bin/sh\nport=$(sed -n "s/^listeners=PLAINTEXT:..127.0.0.1:\\([0-9]*\\),.*/\\1/p" "$1")\n'
        f'exec {brokers.embedded_binary()} start --only kafka --kafka-port "$port" --data-dir {data}/x\n'
    )
    java = tmp_path / "java" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.touch()
    for script in (storage, server):
        script.chmod(0o755)
    monkeypatch.setenv("KAFKA_HOME", str(home))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "java"))
    for _ in range(2):
        with brokers.Broker("kafka", data_dir=data) as broker:
            assert brokers.answers(broker.port)
    assert calls.read_text().split() == ["random-uuid", "format"]


def test_topics_are_created_shown_and_left_alone(
    broker: str, scenario_factory: Callable[..., Scenario], tmp_path: Path
) -> None:
    """`surgeline topics`: show fails before create and not after; a second create changes nothing."""
    scenario = scenario_factory()
    path = tmp_path / "scenario.toml"
    names = {role: getattr(scenario.topics, role) for role in scenario.topics.__struct_fields__}
    path.write_text("[topics]\n" + "".join(f"{role} = {json.dumps(name)}\n" for role, name in names.items()))

    def topics_command(verb: str) -> tuple[int, str]:
        arguments = ["topics", verb, "--bootstrap", broker, "--scenario", str(path)]
        result = CliRunner().invoke(main, arguments)
        return result.exit_code, result.output

    assert topics_command("show")[0] == 1
    created = topics_command("create")
    assert created[0] == 0, created[1]
    assert topics_command("show") == created
    assert topics_command("create") == created
    assert scenario.topics.impressions in created[1] and "missing" not in created[1]


def test_a_source_topic_that_comes_later_is_as_wide_as_the_others(
    broker: str, scenario_factory: Callable[..., Scenario]
) -> None:
    """Failure: an upgrade that brings a topic refuses to run on topics that had grown."""
    scenario = scenario_factory()
    topics = scenario.topics
    admin = KafkaAdminClient(bootstrap_servers=broker)
    admin.create_topics([NewTopic(name, 7, 1) for name in (topics.impressions, topics.actions)])
    admin.close()
    counts = ensure_topics(Connection(broker), scenario)
    assert {counts[name] for name in topics.sources} == {7}
    assert counts[topics.features] == topics.partitions
