"""Logs played with faults into a worker, and what could be seen of it afterwards."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

import surgeline.local.broker as brokers
from contracts.events import ACTIONS, DeadLetter
from contracts.scenario import Scenario
from features.declared import plan_from
from features.row_bytes import unpack
from features.rows import Values
from features.topic import KEY_DIGITS, parse_keys, parse_prefix
from models.deep.trunk import Trunk
from replay.columns import conform
from replay.faulty import FaultyLog
from replay.player import PlayReport, play
from state.joins.columns import JoinCounts
from state.store import Store
from stream.engine import Engine
from tests.integration.harness import T0, Sale, Worker, read_topic, until

#: Between the logs that one worker gets: farther than it remembers.
APART_MS = 600_000


@dataclass
class Seen:
    """One log in a worker: ``did`` is what each fault counted, by name; totals and letters are the log's."""

    log: Sale
    report: PlayReport
    did: dict[str, dict[str, int]]
    totals: dict[str, int]
    metrics: dict[str, Any]
    letters: list[DeadLetter]

    @property
    def actions(self) -> dict[str, int]:
        """Actions in the log, by kind."""
        return self.log.info().by_action

    @property
    def joined(self) -> dict[str, int]:
        """Actions that the worker joined, of the kinds in the log."""
        return {name: self.totals[name] for name in self.actions}

    def refused(self, topic: str) -> int:
        """Dead letters that came from ``topic``."""
        return sum(letter.topic == topic for letter in self.letters)


class Laboratory:
    """A worker that gets one log after the other, each later than the one before."""

    def __init__(self, broker: str, scenario: Scenario, home: Path) -> None:
        self.broker, self.scenario = broker, scenario
        self.worker = Worker(scenario, broker, home).ready()
        self._logs = 0
        self._totals: dict[str, int] = {}
        self._letters = 0

    def sale(self, impressions: int, seconds: float) -> Sale:
        """A log of its own ids and time."""
        self._logs += 1
        start = T0 + APART_MS * self._logs
        return Sale(impressions, seconds, seed=self._logs, name=f"sale{self._logs}", start=start)

    def under(self, faults: Sequence[str], log: Sale | None = None, **options: Any) -> Seen:
        """Play ``log`` (default: 1500 impressions over 30 s) with faults until the worker did all of it."""
        log = log or self.sale(1500, 30.0)
        faulty = FaultyLog(log, faults, seed=7)
        report = play(faulty, self.scenario, self.broker, **options)
        view = finished(self.worker, report)
        totals, before = view["totals"], self._totals
        letters = dead_letters(self.broker, self.scenario)
        self._totals, self._letters, new = totals, len(letters), letters[self._letters :]
        return Seen(
            log=log,
            report=report,
            did={text.partition("=")[0]: did for text, did in faulty.counts},
            totals={name: count - before.get(name, 0) for name, count in totals.items()},
            metrics=view["metrics"],
            letters=new,
        )

    def rows(self, table: str) -> dict[int, Values]:
        """The newest published row of each key of a table: its numbers."""
        version = newest(self.worker.view(), "version")
        # A tick publishes rows after it is seen, and is over when the next one is seen.
        until(lambda: newest(self.worker.view(), "version") > version + 1, "the rows are published")
        width = plan_from(self.scenario.features, ACTIONS).tables[table].width
        found: dict[int, Values] = {}
        for record in read_topic(self.broker, self.scenario.topics.features):
            prefix = parse_prefix(record.key[:-KEY_DIGITS])
            assert prefix is not None, record.key
            if prefix.table == table:
                keys = parse_keys([record.key[-KEY_DIGITS:]])
                found[int(keys[0])] = unpack(keys, [record.value], width)[0][0]
        return found

    def stop(self) -> JoinCounts:
        """End the worker cleanly; the join's counts over its life."""
        assert self.worker.stop() == 0
        with Store(self.worker.state_folder) as store:
            return Engine(self.scenario, store, Trunk.empty()).joins.counts

    def end(self) -> None:
        """Whatever its state, for clean-up."""
        self.worker.end()


@contextmanager
def laboratory(broker: str, scenario: Scenario, home: Path) -> Iterator[Laboratory]:
    """A worker for one test."""
    room = Laboratory(broker, scenario, home)
    try:
        yield room
    finally:
        room.end()


class Table(Sale):
    """A log of these rows, in this order."""

    def __init__(self, table: pl.DataFrame, name: str) -> None:
        self.table, self.name = table, name

    @classmethod
    def of(cls, rows: list[dict[str, Any]], name: str) -> Table:
        return cls(conform(pl.DataFrame(rows)).sort("event_time", maintain_order=True), name)


def newest(view: Any, field: str) -> int:
    """A field of the last moment of a live view; -1 before there is one."""
    return int(view["moments"][-1][field]) if view and view["moments"] else -1


def finished(worker: Worker, report: PlayReport) -> Any:
    """The worker's view once its ticks went as far as the watermark that ended the log."""
    assert report.watermark_ms is not None
    tick_ms = round(worker.scenario.times.tick_s * 1000)
    end = report.watermark_ms // tick_ms * tick_ms

    def done() -> Any:
        view = worker.view()
        return view if newest(view, "watermark") >= end else None

    return until(done, f"worker {worker.worker_id} is done with the log ({worker.log})")


def dead_letters(broker: str, scenario: Scenario) -> list[DeadLetter]:
    """Everything in the dead-letter topic."""
    records = read_topic(broker, scenario.topics.dead_letter)
    return [msgspec.json.decode(record.value, type=DeadLetter) for record in records]


def broker_pid(broker: brokers.Broker) -> int:
    """The process that leads the broker's own."""
    assert broker._child is not None
    return broker._child.pid


@contextmanager
def paused(broker: brokers.Broker) -> Iterator[None]:
    """Within it the broker neither answers nor dies: SIGSTOP, then SIGCONT, to all of its processes."""
    group = os.getpgid(broker_pid(broker))
    os.killpg(group, signal.SIGSTOP)
    try:
        # A thread of the process must run to take the signal, and on a busy machine others run before it.
        until(lambda: _stopped(group), "the broker's processes are stopped")
        yield
    finally:
        os.killpg(group, signal.SIGCONT)


def _stopped(group: int) -> bool:
    """Whether every process of a group is stopped (Linux; elsewhere the signal is taken at its word)."""
    stats = [_stat(folder) for folder in Path("/proc").glob("[0-9]*")]
    return all(state in "TZ" for state, its_group in stats if its_group == group)


def _stat(folder: Path) -> tuple[str, int]:
    """State and process group; the command's name before them may hold spaces."""
    try:
        state, _, group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
    except OSError:
        return "", 0
    return state, int(group)
