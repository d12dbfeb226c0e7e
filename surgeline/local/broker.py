"""A broker on this machine: the embedded one from PyPI, or Apache Kafka under ``KAFKA_HOME``.

For demos, tests and trying things. It listens on 127.0.0.1 only, without authentication. The embedded
broker never expires a dead group member, so failover is rehearsed on Apache Kafka.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import shutil
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Literal

import click

from clients.launch import Child, finish
from clients.patience import wait_for_port
from contracts.errors import SurgelineError
from contracts.scenario import home

Kind = Literal["embedded", "kafka"]
HOST = "127.0.0.1"
#: In its folder: all that the embedded broker has, written whole about once a second while records come.
EMBEDDED_DATA = "kafka.json"
#: From here on that writing takes a good part of a core.
LARGE_BYTES = 50_000_000
#: A start takes 0.1 s and 6 s on an idle machine; a busy one must not look like a broken broker.
PATIENCE_S: dict[Kind, float] = {"embedded": 60.0, "kafka": 180.0}

_OTHER_WAYS = (
    "other ways: KAFKA_BOOTSTRAP=host:port for any Kafka that runs, KAFKA_HOME=/path for a local Apache "
    "Kafka (with Java 17), or `docker compose up kafka`"
)


class BrokerUnavailable(SurgelineError, RuntimeError):  # noqa: N818 - a state of the machine, not a fault
    """This machine cannot run this kind of broker; the message names the other ways."""


class BrokerError(SurgelineError, RuntimeError):
    """The broker was started and did not come up; the message names its log."""


#: Names of ports that this process has given out.
_promised: list[socket.socket] = []


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As a server would: a port in TIME_WAIT is free, one that someone listens on is not.
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _promise(port: int) -> bool:
    """Promise a port to whoever asked; false where somebody has it already.

    What starts on it may take seconds until it listens. The promise is a name that the kernel lends out once
    and takes back when this process ends (Linux has such names; elsewhere nothing is promised).
    """
    if sys.platform == "linux":
        name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            name.bind(f"\0surgeline-port-{port}")
        except OSError:
            name.close()
            return False
        _promised.append(name)
    return True


def free_port(count: int = 1) -> int:
    """The first of ``count`` neighbouring ports that nothing listens on.

    Below the range from which the system gives ports to outgoing connections, so that none of these
    takes it before it is used. Nor is it given to another process that asks here, while this one lives.
    """
    for _ in range(1000):
        port = random.randrange(20_000, 32_000 - count)
        if all(_is_free(port + offset) and _promise(port + offset) for offset in range(count)):
            return port
    raise BrokerError("no free port between 20000 and 32000 on 127.0.0.1")


def answers(port: int, timeout_s: float = 2.0) -> bool:
    """Whether a Kafka broker on 127.0.0.1 answers a metadata request and knows at least one broker."""
    # Metadata version 1 for no topic: header (key 3, version 1, correlation 7, client id), empty array.
    client = b"surgeline"
    request = struct.pack(">hhih", 3, 1, 7, len(client)) + client + struct.pack(">i", 0)
    try:
        with socket.create_connection((HOST, port), timeout=timeout_s) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            head = b""
            while len(head) < 12:
                piece = connection.recv(12 - len(head))
                if not piece:
                    return False
                head += piece
    except OSError:
        return False
    _size, correlation, brokers = struct.unpack(">iii", head)
    return bool(correlation == 7 and brokers > 0)


def embedded_binary() -> Path:
    """The broker binary inside the ``noida_db`` package, without its Python wrapper.

    The wrapper starts the binary as a child that outlives it, so we never call it.
    """
    spec = importlib.util.find_spec("noida_db")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    binary = folder / ("noida-db.exe" if os.name == "nt" else "noida-db") if folder else None
    if binary is None or not binary.is_file():
        raise BrokerUnavailable(
            f"the embedded broker (noida-db on PyPI) has no wheel for {sys.platform} here; {_OTHER_WAYS}"
        )
    return binary


def kafka_home() -> Path | None:
    """``KAFKA_HOME`` if it is set, holds a Kafka that we can start, and Java exists; else None."""
    value = os.environ.get("KAFKA_HOME")
    if not value or not has_java():
        return None
    scripts = Path(value) / "bin"
    known = ("kafka-start", "kafka-server-start.sh")
    return Path(value).resolve() if any((scripts / name).is_file() for name in known) else None


def has_java() -> bool:
    """Whether Kafka's scripts would find Java: ``JAVA_HOME``, else ``PATH``."""
    java_home = os.environ.get("JAVA_HOME")
    if java_home and (Path(java_home) / "bin" / "java").is_file():
        return True
    return shutil.which("java") is not None


def server_properties(port: int, data: Path, changes: Mapping[str, str] | None = None) -> str:
    """Settings of one Kafka broker, KRaft, bound to 127.0.0.1; its controller is on ``port + 1``."""
    settings = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{port + 1}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.voters": f"1@{HOST}:{port + 1}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": (data / "log").as_posix(),
        "num.partitions": "4",
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "log.cleaner.dedupe.buffer.size": "16777216",
        **(changes or {}),
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


class Broker:
    """One broker for as long as the ``with`` block lasts; ``bootstrap`` is where it listens.

    It ends with the block, with the interpreter, and on Linux with this process however it dies. What it
    prints goes to ``broker.log`` in ``data_dir``. Without ``port`` a free one is taken; without
    ``data_dir`` data lives in a folder under ``home()``. ``settings`` are put over those of Apache Kafka's
    ``server.properties``; the embedded broker has none.
    """

    def __init__(
        self,
        kind: Kind = "embedded",
        port: int | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        timeout_s: float | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.kind: Kind = kind
        self.port = port if port is not None else free_port(2)
        self.data_dir = Path(data_dir) if data_dir is not None else home() / "broker" / kind
        self.timeout_s = PATIENCE_S[kind] if timeout_s is None else timeout_s
        self._settings = dict(settings or {})
        self._child: Child | None = None

    @property
    def bootstrap(self) -> str:
        """``host:port`` for Kafka clients."""
        return f"{HOST}:{self.port}"

    @property
    def log(self) -> Path:
        """What the broker prints."""
        return self.data_dir / "broker.log"

    def __enter__(self) -> Broker:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Broker:
        """Start it and wait until it answers. Raises ``BrokerUnavailable`` or ``BrokerError``."""
        argv, env = self._command()
        if not _is_free(self.port):
            raise BrokerError(f"{self.bootstrap} is taken: choose another port, or use what runs there")
        self.data_dir.mkdir(parents=True, exist_ok=True)
        if self.kind == "kafka":
            argv = self._prepare_kafka(argv)
        self._child = Child(argv, self.log, env)
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End it. Safe to call again."""
        if self._child is not None:
            self._child.stop()

    def died(self) -> int | None:
        """The exit status of a broker that ended by itself, or None while it runs."""
        return self._child.poll() if self._child is not None else None

    def _command(self) -> tuple[list[str], dict[str, str]]:
        env = dict(os.environ)
        data = self.data_dir.absolute()
        if self.kind == "embedded":
            binary = embedded_binary()
            flags = ["--only", "kafka", "--kafka-port", str(self.port), "--host", HOST]
            return [str(binary), "start", *flags, "--data-dir", str(data)], env
        found = kafka_home()
        if found is None:
            raise BrokerUnavailable(
                "Apache Kafka cannot be started: KAFKA_HOME must name a distribution (a folder with "
                f"bin/kafka-server-start.sh) and Java 17 must be on PATH; {_OTHER_WAYS}"
            )
        simple = found / "bin" / "kafka-start"
        if simple.is_file():
            changes = [f"{name}={value}" for name, value in self._settings.items()]
            return [str(simple), str(self.port), str(data), *changes], env
        env.setdefault("KAFKA_HEAP_OPTS", "-Xms256m -Xmx768m")
        env["LOG_DIR"] = str(data / "logs")
        return [str(found / "bin" / "kafka-server-start.sh"), str(data / "server.properties")], env

    def _prepare_kafka(self, argv: list[str]) -> list[str]:
        """Write a distribution's settings and format its storage once."""
        if not _is_free(self.port + 1):
            raise BrokerError(f"port {self.port + 1} is taken; Kafka's controller needs it")
        start = Path(argv[0])
        if start.name == "kafka-start":
            return argv
        data = self.data_dir.absolute()
        properties = data / "server.properties"
        properties.write_text(server_properties(self.port, data, self._settings), encoding="utf-8")
        if not (data / "log" / "meta.properties").exists():
            storage = str(start.with_name("kafka-storage.sh"))
            identity = self._run([storage, "random-uuid"]).strip().splitlines()[-1]
            self._run([storage, "format", "-t", identity, "-c", str(properties)])
        return argv

    def _run(self, argv: list[str]) -> str:
        result = finish(argv, self.timeout_s)
        if result.returncode:
            lines = (result.stderr or result.stdout).strip().splitlines() or ["no output"]
            raise BrokerError(f"{Path(argv[0]).name} failed with {result.returncode}: {lines[-1]}")
        return result.stdout

    def _wait(self) -> None:
        assert self._child is not None
        deadline = time.monotonic() + self.timeout_s
        while time.monotonic() < deadline:
            status = self._child.poll()
            if status is not None:
                raise BrokerError(
                    f"the {self.kind} broker ended with status {status}: {self._child.last_line()} "
                    f"(log: {self.log})"
                )
            if answers(self.port):
                return
            time.sleep(0.05)
        raise BrokerError(
            f"the {self.kind} broker did not answer on {self.bootstrap} within {self.timeout_s:g} s "
            f"(log: {self.log})"
        )


def keep_or_forget(data: Path, fresh: bool) -> None:
    """Delete what the embedded broker kept from before, or say where it is so much that it slows it down."""
    if fresh:
        data.unlink(missing_ok=True)
    elif data.exists() and (size := data.stat().st_size) > LARGE_BYTES:
        click.echo(
            f"{data} keeps {size / 1e6:,.0f} MB from before, which the embedded broker writes again and "
            "again while it runs; `surgeline broker --fresh` begins empty",
            err=True,
        )


@click.command(help="Run a broker on this machine until Ctrl-C.")
@click.option("--kind", type=click.Choice(["embedded", "kafka"]), default="embedded", show_default=True)
@click.option("--port", type=click.IntRange(1, 65_534), default=9092, show_default=True)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Where it keeps its data.  [default: broker/KIND under SURGELINE_HOME]",
)
@click.option("--fresh", is_flag=True, help="Begin empty: forget what the embedded broker kept from before.")
def command(kind: Kind, port: int, data_dir: Path | None, fresh: bool) -> None:
    """Print the bootstrap address, then stay until SIGINT or SIGTERM."""
    if fresh and kind != "embedded":
        raise click.UsageError("--fresh is of the embedded broker; delete Apache Kafka's folder yourself")
    stopping = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    # What stays taken is refused by the broker's own start, in its words.
    with contextlib.suppress(OSError):
        wait_for_port(HOST, port, lambda line: click.echo(line, err=True))
    made = Broker(kind, port, data_dir)
    if kind == "embedded":
        keep_or_forget(made.data_dir / EMBEDDED_DATA, fresh)
    with made as broker:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, end)
        click.echo(broker.bootstrap)
        click.echo(f"{kind} broker, log {broker.log}; Ctrl-C ends it", err=True)
        while not stopping.wait(0.2):
            status = broker.died()
            if status is not None:
                raise BrokerError(f"the {kind} broker ended with status {status} (log: {broker.log})")
