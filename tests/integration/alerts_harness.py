"""What Prometheus would see of real workers, and which alerts that raises, by promtool on the shipped rules.

A scrape each half second is given to promtool as one each five seconds: alerts that wait for minutes are
raised in a test by faults of seconds, and rules and fault are as they are. Rates are therefore a tenth of the
true ones; the rules compare them with zero and with each other only.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import threading
import time
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
from kafka import KafkaProducer
from kafka.partitioner.default import murmur2
from prometheus_client.parser import text_string_to_metric_families

from contracts.scenario import Scenario
from tests.integration.harness import PATIENCE_S, Worker, get

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"
PROMTOOL = shutil.which("promtool")
#: Between two scrapes.
EVERY_S = 0.5

Samples = dict[str, float]


class Scrapes:
    """Scrapes workers until it is closed. ``rows`` are one each ``EVERY_S``: samples by instance and series;
    None where an instance did not answer. ``told_s`` is what promtool is told that ``EVERY_S`` was."""

    def __init__(self, folder: Path, told_s: int = 5) -> None:
        self._folder = folder
        self._told_s = told_s
        self._workers: dict[str, Worker] = {}
        self.rows: list[dict[str, Samples | None]] = []
        self._begun = self._done = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Scrapes:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(PATIENCE_S)

    def watch(self, worker: Worker) -> Worker:
        """From now on; a worker that comes back is the same instance."""
        self._workers[f"worker-{worker.worker_id}"] = worker
        return worker

    def after(self, rows: int) -> int:
        """Wait for so many more rows, the last of a scrape that began after this; the number of rows then."""
        wanted, begun = len(self.rows) + rows, self._begun
        deadline = time.monotonic() + rows * EVERY_S + PATIENCE_S
        while len(self.rows) < wanted or self._done <= begun:
            assert time.monotonic() < deadline, "the scrapes have ended"
            time.sleep(EVERY_S / 5)
        return len(self.rows)

    def of(self, worker: Worker) -> list[Samples | None]:
        """What one worker showed."""
        return [row.get(f"worker-{worker.worker_id}") for row in self.rows]

    def longest_down(self) -> int:
        """The most rows in a row in which one worker did not answer."""
        silent = dict.fromkeys(self._workers, 0)
        longest = 0
        for row in list(self.rows):
            for name, samples in row.items():
                silent[name] = silent[name] + 1 if samples is None else 0
                longest = max(longest, silent[name])
        return longest

    def fired(self, since: int = 0) -> set[str]:
        """Alerts that fired at any time from row ``since`` to now."""
        rows, told_s = list(self.rows), self._told_s
        series: dict[str, list[str]] = {'up{job="surgeline-serving",instance="serving"}': []}
        for number, row in enumerate(rows):
            present = {f'up{{job="surgeline-worker",instance="{name}"}}': "0" for name in row}
            present['up{job="surgeline-serving",instance="serving"}'] = "1"
            for name, samples in row.items():
                if samples is not None:
                    present[f'up{{job="surgeline-worker",instance="{name}"}}'] = "1"
                    present |= {key: f"{value:.6f}" for key, value in samples.items()}
            for key in {*series, *present}:
                values = series.setdefault(key, ["_"] * number)
                # What a scrape does not show any more is gone at once.
                values.append(present.get(key, "_" if values[-1:] in (["_"], ["stale"], []) else "stale"))
        end = (len(rows) - 1) * told_s
        expression = f'count_over_time(ALERTS{{alertstate="firing"}}[{max(len(rows) - since, 1) * told_s}s])'
        story = {
            "interval": f"{told_s}s",
            "input_series": [{"series": key, "values": " ".join(values)} for key, values in series.items()],
            "promql_expr_test": [{"expr": expression, "eval_time": f"{end}s", "exp_samples": []}],
        }
        rules = {"rule_files": [str(RULES)], "evaluation_interval": f"{told_s}s", "tests": [story]}
        file = self._folder / "story.yml"
        file.write_text(json.dumps(rules), encoding="utf-8")  # JSON is YAML
        assert PROMTOOL is not None
        run = subprocess.run([PROMTOOL, "test", "rules", file], capture_output=True, text=True, check=False)
        said = run.stdout + run.stderr
        got = said.partition("got:")[2]
        assert run.returncode == 0 or got, said
        return set(re.findall(r'alertname="(\w+)"', got))

    def _run(self) -> None:
        began = time.monotonic()
        while not self._over.is_set():
            self._begun += 1
            row = {name: _scrape(worker) for name, worker in list(self._workers.items())}
            # A slow answer leaves no hole: promtool has a row for each step.
            while len(self.rows) * EVERY_S <= time.monotonic() - began:
                self.rows.append(row)
            self._done += 1
            self._over.wait(max(len(self.rows) * EVERY_S - (time.monotonic() - began), 0))


def _scrape(worker: Worker) -> Samples | None:
    text = get(f"http://127.0.0.1:{worker.port}/metrics")
    if text is None:
        return None
    instance = f'instance="worker-{worker.worker_id}"'
    samples = {}
    for family in text_string_to_metric_families(str(text)):
        for sample in family.samples:
            ours = sample.name.startswith("surgeline_") and not sample.name.endswith(("_bucket", "_created"))
            if ours and math.isfinite(sample.value):
                labels = ",".join([instance, *(f'{key}="{value}"' for key, value in sample.labels.items())])
                samples[f"{sample.name}{{{labels}}}"] = sample.value
    return samples


def value(samples: Samples | None, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels; NaN where none is shown."""
    found = [
        sample
        for key, sample in (samples or {}).items()
        if key.partition("{")[0] == name and all(f'{k}="{v}"' in key for k, v in labels.items())
    ]
    return sum(found) if found else math.nan


def _users(partitions: int) -> list[str]:
    """A user for each partition: one whom Kafka's default partitioner puts there."""
    found: dict[int, str] = {}
    for number in count():
        user = f"user-{number}"
        found.setdefault((murmur2(user.encode()) & 0x7FFFFFFF) % partitions, user)
        if len(found) == partitions:
            break
    return [found[partition] for partition in range(partitions)]


class Shop:
    """Traffic into every partition until it is closed: impressions of the present, or by clocks that are
    ``ahead_ms`` ahead; ``misplaced``: by a partitioner that puts each key one partition on."""

    def __init__(
        self,
        bootstrap: str,
        scenario: Scenario,
        per_second: int = 40,
        ahead_ms: int = 0,
        misplaced: bool = False,
    ) -> None:
        self._ahead_ms = ahead_ms
        self._misplaced = misplaced
        self._topics = scenario.topics
        self._producer = KafkaProducer(bootstrap_servers=bootstrap)
        self._pause = self._topics.partitions / per_second
        self._users = _users(self._topics.partitions)
        self._number = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Shop:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join(PATIENCE_S)
        self._producer.close()

    @property
    def shown(self) -> int:
        """Impressions so far."""
        return self._number

    def show(self, partition: int, ahead_ms: int = 0) -> None:
        """One impression, by a clock that is so far ahead."""
        with self._lock:
            self._number += 1
            event = {
                "impression_id": f"shop-{self._number}",
                "event_time": round(time.time() * 1000) + ahead_ms,
                "user_id": self._users[partition],
                "item_id": f"item-{self._number % 7}",
            }
        key = self._users[partition].encode()
        partition = (partition + self._misplaced) % self._topics.partitions
        self._producer.send(self._topics.impressions, msgspec.json.encode(event), key, partition=partition)

    def _run(self) -> None:
        while not self._over.wait(self._pause):
            for partition in range(self._topics.partitions):
                self.show(partition, self._ahead_ms)
