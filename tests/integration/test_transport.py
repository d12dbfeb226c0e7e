"""The batch transport as a library: an ordinary Faust app without an engine, whose offsets Kafka keeps."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

from tests.integration.harness import Process, get, produce, until

PARTITIONS = 3

#: Batches, single records and a table side by side. An agent's effect is a line in a file.
APP = """
import asyncio, os
from pathlib import Path
import faust
from stream.transport import batch_topic

here = Path(os.environ["APP_HOME"])
name = os.environ["APP_NAME"]
app = faust.App(
    name, broker="batch://" + os.environ["KAFKA_BOOTSTRAP"], store="memory://", datadir=str(here / "data"),
    consumer_auto_offset_reset="earliest", broker_commit_interval=0.3, topic_partitions=3,
    consumer_group_instance_id=name + "-0", broker_session_timeout=10.0, broker_heartbeat_interval=3.0,
    topic_disable_leader=True, stream_wait_empty=True,
)
totals = app.Table("totals", default=int, partitions=3)

def note(file, lines):
    with (here / file).open("a") as out:
        out.write("".join(line + "\\n" for line in lines))

@app.agent(batch_topic(app, name + "-batched"))
async def whole(batches):
    async for batch in batches:
        if batch.partition == 0 and (here / "hold").exists():
            note("held", [f"{r.offset}" for r in batch.records])
            while (here / "hold").exists():
                await asyncio.sleep(0.05)
        note("batched", [f"{batch.partition} {r.offset} {r.value.decode()}" for r in batch.records])

@app.agent(app.topic(name + "-single", value_serializer="raw", key_serializer="raw"))
async def single(records):
    async for event in records.events():
        message = event.message
        totals[event.key.decode()] += 1
        note("single", [f"{message.partition} {message.offset} {event.value.decode()}"])

@app.page("/totals")
async def show(self, request):
    return self.json(dict(totals.items()))
"""


class App(Process):
    """The app above as ``faust -A counting worker``; started again in the same home it goes on."""

    def __init__(self, name: str, bootstrap: str, home: Path, port: int) -> None:
        (home / "counting.py").write_text(APP)
        self.home, self.port = home, port
        env = {
            "APP_HOME": str(home),
            "APP_NAME": name,
            "KAFKA_BOOTSTRAP": bootstrap,
            "PYTHONPATH": os.pathsep.join([str(home), os.environ.get("PYTHONPATH", "")]),
        }
        faust = str(Path(sys.executable).with_name("faust"))
        argv = [faust, "-A", "counting", "worker", "-l", "info", "--web-port", str(port)]
        super().__init__(argv, home / "app.log", env)

    def lines(self, file: str) -> list[str]:
        path = self.home / file
        return path.read_text().splitlines() if path.exists() else []

    def has(self, file: str, count: int) -> None:
        """Wait until the file has that many lines."""
        try:
            until(lambda: len(self.lines(file)) >= count, f"{count} lines in {file}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it has {len(self.lines(file))}:\n{self.text()[-3000:]}") from None

    def counts(self, wanted: dict[str, int]) -> None:
        """Wait until the table holds this."""
        try:
            until(lambda: self.totals() == wanted, "the table", 60.0)
        except AssertionError:
            assert self.totals() == wanted

    def totals(self) -> Any:
        return get(f"http://127.0.0.1:{self.port}/totals")


@pytest.fixture
def make(
    broker: str, tmp_path: Path, free_port: Callable[[], int], request: pytest.FixtureRequest
) -> Iterator[Callable[[], App]]:
    """Start the app, or start it again."""
    name = f"app-{abs(hash(request.node.name)) % 10**8}-{os.getpid()}"
    admin = KafkaAdminClient(bootstrap_servers=broker)
    admin.create_topics(
        [
            NewTopic(f"{name}-{what}", num_partitions=PARTITIONS, replication_factor=1)
            for what in ("batched", "single")
        ]
    )
    admin.close()
    apps: list[App] = []
    port = free_port()

    def start() -> App:
        apps.append(App(name, broker, tmp_path, port))
        apps[-1].name = name  # type: ignore[attr-defined]
        return apps[-1]

    yield start
    for app in apps:
        app.end()


def send(broker: str, topic: str, first: int, count: int) -> None:
    """``count`` records a partition; the value is the number in the partition, the key one of its five."""
    produce(
        broker,
        [
            (topic, partition, b"%d-%d" % (partition, number % 5), b"%d" % number)
            for number in range(first, first + count)
            for partition in range(PARTITIONS)
        ],
    )


def each_key(count: int) -> dict[str, int]:
    """The table where every key of every partition was seen ``count`` times."""
    return {f"{p}-{k}": count for p in range(PARTITIONS) for k in range(5)}


def exactly(lines: list[str], count: int) -> None:
    """Every record once, in order within its partition, each with the offset that it was written at."""
    for partition in range(PARTITIONS):
        mine = [line.split()[1:] for line in lines if line.startswith(f"{partition} ")]
        assert mine == [[str(n), str(n)] for n in range(count)], f"partition {partition}"


def committed(broker: str, group: str, topic: str) -> dict[int, int | None]:
    """What the group has committed of a topic."""
    consumer = KafkaConsumer(bootstrap_servers=broker, group_id=group, enable_auto_commit=False)
    try:
        return {p: consumer.committed(TopicPartition(topic, p)) for p in range(PARTITIONS)}
    finally:
        consumer.close()


def test_batches_and_records_are_seen_once_over_a_restart(broker: str, make: Callable[[], App]) -> None:
    """Failure: records skipped, repeated or out of order, or a changelog that batches disturb.

    Mechanism: batch topic, ordinary topic and a table with a changelog in one app; SIGTERM when all is
    read, more records while it is down, start again. Required: each record once and in order, every end
    committed, and the table is what the ordinary topic holds, also after the restart.
    """
    app = make()
    name = app.name  # type: ignore[attr-defined]
    for what in ("batched", "single"):
        send(broker, f"{name}-{what}", 0, 200)
    for what in ("batched", "single"):
        app.has(what, 200 * PARTITIONS)
        ends = dict.fromkeys(range(PARTITIONS), 200)
        until(lambda w=what, e=ends: committed(broker, name, f"{name}-{w}") == e, f"{what} is committed")
    app.counts(each_key(40))
    assert app.stop() == 0
    for what in ("batched", "single"):
        send(broker, f"{name}-{what}", 200, 50)
    app = make()
    for what in ("batched", "single"):
        app.has(what, 250 * PARTITIONS)
    app.counts(each_key(50))
    assert app.stop() == 0
    for what in ("batched", "single"):
        exactly(app.lines(what), 250)


def test_a_batch_in_work_is_not_committed(broker: str, make: Callable[[], App]) -> None:
    """Failure: a commit past a batch that an agent still works on; after a crash it is lost.

    Mechanism: the agent holds the first batch of one partition while the ordinary topic goes on and is
    committed; then SIGKILL. Required: nothing of the held partition is committed, and a new process sees
    every one of its records.
    """
    app = make()
    name = app.name  # type: ignore[attr-defined]
    hold = app.home / "hold"
    hold.touch()
    send(broker, f"{name}-batched", 0, 20)
    until(lambda: app.lines("held"), "a batch is held")
    send(broker, f"{name}-single", 0, 20)
    app.has("single", 20 * PARTITIONS)
    ends = dict.fromkeys(range(PARTITIONS), 20)
    until(lambda: committed(broker, name, f"{name}-single") == ends, "commits go on")
    assert not committed(broker, name, f"{name}-batched")[0]
    app.kill()
    hold.unlink()
    app = make()
    app.has("batched", 20 * PARTITIONS)
    assert app.stop() == 0
    held = [line.split()[1] for line in app.lines("batched") if line.startswith("0 ")]
    assert held == [str(n) for n in range(20)]
