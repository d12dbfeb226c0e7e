"""Real processes for the tests: a worker as a person starts it, serving, and what stands in topics."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import polars as pl
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from threadpoolctl import threadpool_limits

import surgeline.local.broker as brokers
from clients.launch import Child
from contracts.events import Watermark
from contracts.scenario import Scenario, Times
from contracts.weights import Weights, decode_weights
from features.hashing import cross, hash_texts
from models.deep.trunk import Trunk
from replay.columns import conform, in_event_order
from replay.log import LogInfo, summarise
from replay.player import PlayReport, play
from state.joins.columns import Shown
from state.store import Store
from stream.engine import Engine
from stream.resume import Place
from stream.timeline import Source
from surgeline.local.services import environment, serving_argv

T = TypeVar("T")

T0 = 1_700_000_000_000
#: Machines that run other things too: generous, and only ever waited for in full when a test fails.
PATIENCE_S = 120.0
#: First on the path of a process whose clock is ahead.
MOVED_CLOCK = Path(__file__).parent / "moved_clock"
#: Silence never closes a partition, so that ticks depend on events and watermarks alone.
TIMES = Times(label_window_s=3.0, lateness_s=0.5, join_limit_s=120.0, idle_s=3600.0)


def until(condition: Callable[[], T | None], what: str, seconds: float = PATIENCE_S) -> T:
    """The first true answer of ``condition``."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.1)


def get(url: str, body: Any = None) -> Any:
    """What a local URL answers: JSON decoded, text as it is; None where there is no good answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} if data else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            text = response.read().decode()
            return json.loads(text) if "json" in response.headers["Content-Type"] else text
    except (urllib.error.URLError, OSError, ValueError):
        return None


def to_toml(scenario: Scenario) -> str:
    """The scenario as a file that a person would write."""
    fields = msgspec.to_builtins(scenario)
    tables = {name: value for name, value in fields.items() if isinstance(value, dict)}
    lines = [f"{name} = {json.dumps(value)}" for name, value in fields.items() if name not in tables]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


class Sale:
    """A recorded log: ``impressions`` over ``seconds`` of event time by 300 users, a quarter clicked.

    Every click comes within 2.5 s, so that with ``TIMES`` each is a positive sample. Every third impression
    is followed by a look at its item.
    """

    def __init__(
        self, impressions: int, seconds: float, seed: int = 11, name: str = "sale", start: int = T0
    ) -> None:
        self.name = name
        rng = np.random.default_rng(seed)
        times = np.sort(rng.integers(0, round(seconds * 1000), impressions)) + start
        rows: list[dict[str, Any]] = []
        for k, at in enumerate(times.tolist()):
            item = int(rng.zipf(1.4)) % 40
            base = {
                "impression_id": f"{name}-{k}",
                "user_id": f"user-{rng.integers(300)}",
                "item_id": f"item-{item}",
                "category_id": f"category-{item % 7}",
                "position": int(rng.integers(6)),
                "price": float(item + 1),
            }
            rows.append({"event": "impression", "event_time": at, "action": None, **base})
            if rng.random() < 0.1 + 0.3 * (item % 2):
                after = at + int(rng.integers(200, 2500))
                rows.append({"event": "action", "event_time": after, "action": "click", **base})
                if rng.random() < 0.3:
                    rows.append({"event": "action", "event_time": after + 100, "action": "cart", **base})
            if k % 3 == 0:
                look = {"event": "behaviour", "event_time": at + 150 + k % 100, "type": "look"}
                rows.append(look | {name: base[name] for name in ("user_id", "item_id", "category_id")})
        table = conform(pl.DataFrame(rows, infer_schema_length=None))
        self.table = in_event_order(table)

    def info(self) -> LogInfo:
        return summarise(self)

    def chunks(self, rows: int = 65_536) -> Iterator[pl.DataFrame]:
        yield from self.table.iter_slices(rows)

    def shown(self) -> set[str]:
        """The ids of its impressions."""
        return set(self.table.filter(pl.col("event") == "impression")["impression_id"])

    def parts(self, count: int) -> list[Sale]:
        """The log cut into ``count`` logs that follow each other."""
        size = -(-self.table.height // count)
        parts = []
        for k in range(count):
            part = object.__new__(Sale)
            part.name, part.table = self.name, self.table.slice(k * size, size)
            parts.append(part)
        return parts


class Playing:
    """A replay in a thread of its own."""

    def __init__(self, log: Sale, scenario: Scenario, bootstrap: str, **options: Any) -> None:
        self._report: PlayReport | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run, args=(log, scenario, bootstrap, options), daemon=True
        )
        self._thread.start()

    def _run(self, log: Sale, scenario: Scenario, bootstrap: str, options: Mapping[str, Any]) -> None:
        try:
            self._report = play(log, scenario, bootstrap, **options)
        except BaseException as error:
            self._error = error

    @property
    def running(self) -> bool:
        """Whether it is not over."""
        return self._thread.is_alive()

    def report(self) -> PlayReport:
        """Once it is over."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the replay did not end"
        if self._error is not None:
            raise self._error
        assert self._report is not None
        return self._report


class Process:
    """One of our programs; its output stands in ``log``."""

    def __init__(self, argv: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self.log = log
        self._offset = log.stat().st_size if log.exists() else 0
        self.child = Child(argv, log, {**os.environ, **env})

    def text(self) -> str:
        """What this process has printed."""
        data = self.log.read_bytes()[self._offset :]
        return data.decode(errors="replace")

    def ended(self, seconds: float = PATIENCE_S) -> int:
        """The exit status, once it ended by itself."""
        return self.child.wait(seconds)

    def kill(self) -> None:
        """``kill -9``."""
        os.kill(self.child.pid, signal.SIGKILL)
        self.child.wait(PATIENCE_S)

    def stop(self) -> int:
        """SIGTERM, and its exit status; a process that does not end by it fails the test."""
        if self.child.poll() is None:
            os.kill(self.child.pid, signal.SIGTERM)
        return self.child.wait(PATIENCE_S)

    def interrupt(self) -> int:
        """Ctrl-C, and its exit status; a process that does not end by it fails the test."""
        if self.child.poll() is None:
            os.kill(self.child.pid, signal.SIGINT)
        return self.child.wait(PATIENCE_S)

    def end(self) -> None:
        """Whatever its state, for clean-up."""
        self.child.stop()


class Worker(Process):
    """``faust -A stream.app worker``; the same arguments again restart it on its state.

    Each start has a web port of its own, as a new container has a host name of its own: a static member
    must get its partitions all the same. ``logs``: a folder for the log where ``home`` may not take it.
    ``clock_ahead_s``: this process's wall clock is ahead by so much.
    """

    def __init__(
        self,
        scenario: Scenario,
        bootstrap: str,
        home: Path,
        worker_id: str = "0",
        logs: Path | None = None,
        clock_ahead_s: float = 0.0,
    ) -> None:
        self.scenario, self.home, self.worker_id = scenario, home, worker_id
        self.port = brokers.free_port()
        logs = logs or home
        logs.mkdir(parents=True, exist_ok=True)
        path = logs / f"{scenario.name}.toml"
        path.write_text(to_toml(scenario))
        faust = Path(sys.executable).with_name("faust")
        env = {
            "KAFKA_BOOTSTRAP": bootstrap,
            "SURGELINE_HOME": str(home),
            "SURGELINE_SCENARIO": str(path),
            "SURGELINE_WORKER_ID": worker_id,
        }
        if clock_ahead_s:
            env |= {
                "MOVED_CLOCK_S": str(clock_ahead_s),
                "PYTHONPATH": os.pathsep.join([str(MOVED_CLOCK), os.environ.get("PYTHONPATH", "")]),
            }
        argv = [str(faust), "-A", "stream.app", "worker", "-l", "info", "--web-port", str(self.port)]
        super().__init__(argv, logs / f"worker-{scenario.name}-{worker_id}.log", env)

    @property
    def state_folder(self) -> Path:
        return self.home / "state" / f"{self.scenario.name}-{self.worker_id}"

    def view(self) -> Any:
        """What /live/data answers now; None before the first tick."""
        status = self.child.poll()
        assert status is None, f"the worker ended with status {status}:\n{self.text()[-3000:]}"
        return get(f"http://127.0.0.1:{self.port}/live/data")

    def ready(self) -> Worker:
        """Wait for its first tick."""
        until(self.view, f"worker {self.worker_id} is up ({self.log})")
        return self

    def totals(self) -> dict[str, int]:
        """Counts since the state began."""
        view = self.view()
        return dict(view["totals"]) if view else {}

    def reached(self, **counts: int) -> dict[str, int]:
        """Wait until every total is at least this."""
        last: dict[str, int] = {}

        def there() -> bool:
            last.update(self.totals())
            return bool(last) and all(last[name] >= count for name, count in counts.items())

        try:
            until(there, f"worker {self.worker_id} reaches {counts}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it has {last}:\n{self.text()[-3000:]}") from None
        return last

    def reading(self) -> int:
        """Source partitions that it was assigned last."""
        found = re.findall(r"Reading (\d+) partitions", self.text())
        return int(found[-1]) if found else 0

    def metrics(self) -> str:
        """What Prometheus would scrape."""
        return str(get(f"http://127.0.0.1:{self.port}/metrics"))


class Serving(Process):
    """``surgeline serve`` on a worker's scenario."""

    def __init__(self, worker: Worker, bootstrap: str) -> None:
        self.url = f"http://127.0.0.1:{brokers.free_port()}"
        env = environment(worker.home, worker.home / f"{worker.scenario.name}.toml", bootstrap)
        argv = serving_argv(int(self.url.rpartition(":")[2]))
        super().__init__(argv, worker.home / f"serving-{worker.scenario.name}.log", env)

    def ready(self) -> Serving:
        """Wait until both topics are read to their end."""
        until(lambda: get(f"{self.url}/ready"), f"serving is ready ({self.log})")
        return self

    def score(self, *items: str) -> Any:
        """Scores and stamp for these items, at one user and position."""
        request = {"user_id": "user-1", "items": [{"item_id": item, "price": 2.0} for item in items]}
        answer = get(f"{self.url}/score", request)
        assert answer is not None, self.text()[-3000:]
        return answer


def read_topic(bootstrap: str, topic: str) -> list[Any]:
    """Every record of a topic, by partition and offset."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    try:
        found = until(lambda: consumer.partitions_for_topic(topic), f"topic {topic} is there")
        partitions = [TopicPartition(topic, p) for p in sorted(found)]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        records: list[Any] = []
        deadline = time.monotonic() + PATIENCE_S
        while any(consumer.position(tp) < end for tp, end in ends.items()):
            assert time.monotonic() < deadline, f"{topic} cannot be read to its end"
            for batch in consumer.poll(timeout_ms=500).values():
                records += batch
    finally:
        consumer.close()
    return sorted(records, key=lambda record: (record.partition, record.offset))


def produce(bootstrap: str, records: Sequence[tuple[str, int, bytes | None, bytes | None]]) -> list[int]:
    """Write (topic, partition, key, value) as they are; the offset of each."""
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    try:
        sent = [producer.send(t, key=k, value=v, partition=p) for t, p, k, v in records]
        return [future.get(PATIENCE_S).offset for future in sent]
    finally:
        producer.close()


def end_log(bootstrap: str, scenario: Scenario, watermark: int) -> None:
    """A watermark into every source partition."""
    value = msgspec.json.encode(Watermark(watermark=watermark))
    topics = scenario.topics
    produce(
        bootstrap,
        [(t, p, None, value) for t in topics.sources for p in range(topics.partitions)],
    )


def versions(bootstrap: str, scenario: Scenario) -> list[Weights]:
    """All weights in the topic, without the empty record by which a fresh state retires its forerunner."""
    values = [record.value for record in read_topic(bootstrap, scenario.topics.weights)]
    return [decode_weights(value) for value in values if value]


class Kept(msgspec.Struct):
    """What a state folder holds: the digest, totals, and what the join remembers of impressions: their ids,
    the keys of their users and the source partitions that they came in."""

    digest: str
    impressions: int
    actions: int
    samples: int
    positives: int
    duplicates: int
    version: int
    ids: set[str]
    users: set[int]
    partitions: set[int]


def kept(scenario: Scenario, folder: Path, worker_id: str = "0") -> Kept:
    """Open a stopped worker's state."""
    with Store(folder) as store:
        return _kept(Engine(scenario, store, Trunk.empty(), worker_id))


def _kept(engine: Engine) -> Kept:
    counts = engine.joins.counts
    shown = remembered(engine)
    user = engine.plan.remembered.index("user_id")
    return Kept(
        digest=engine.digest(),
        impressions=counts.impressions,
        actions=counts.actions,
        samples=counts.samples,
        positives=counts.positives,
        duplicates=counts.duplicate_impressions + counts.duplicate_actions,
        version=engine.version,
        ids={name for segment in shown for name in segment.ids},
        users={key for segment in shown for key in segment.keys[:, user].tolist()},
        partitions={number for segment in shown for number in segment.partitions.tolist()},
    )


def remembered(engine: Engine) -> list[Shown]:
    """The impressions that the joins have written, a tick's together."""
    return list(engine.joins.remembered())


def key_of(*parts: str) -> int:
    """The key of an id, or of several crossed: what rows and the join know of it."""
    return int(cross([hash_texts([part]) for part in parts])[0])


def rehearse(scenario: Scenario, bootstrap: str, folder: Path) -> Kept:
    """An engine without Faust, fed once with what stands in the source topics."""
    with Store(folder) as store, threadpool_limits(1, "blas"):
        engine = Engine(scenario, store, Trunk.empty(), "0")
        topics = scenario.topics
        batches: dict[Source, list[Any]] = {}
        for kind, topic in enumerate(topics.sources):
            for partition in range(topics.partitions):
                batches[Source(kind, partition)] = []
            for record in read_topic(bootstrap, topic):
                batches[Source(kind, record.partition)].append(record)
        for source in batches:
            engine.assign(source, Place())
        for source, records in batches.items():
            engine.ingest(source, records, round(time.time() * 1000))
        engine.advance()
        engine.checkpoint()
        return _kept(engine)
