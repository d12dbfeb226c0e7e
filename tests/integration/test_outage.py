"""Fails when an outage of the broker fills the log of a worker, of serving or of a replay.

Failure: 110 ERROR lines a second, in which nobody finds when it began and whether it is over. Mechanism: a
broker of its own ends, and on Apache Kafka comes back. Required: one line when it begins, and one when
it ends, with its age and the number of lines held back; the work goes on.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import surgeline.local.broker as brokers
from clients.quiet import _CONSEQUENCES, install
from contracts.scenario import Scenario
from replay.errors import BrokerError
from tests.integration.harness import TIMES, Playing, Process, Sale, Serving, Worker, until

#: How long the broker is away. Without the filter a worker logs 2,000 lines in it.
AWAY_S = 15.0
#: What Kafka's client says of a broker that turns it away.
FOLLOWS = [
    re.compile(re.escape(text).replace("%s", ".*"))
    for text in (*_CONSEQUENCES["aiokafka"], *_CONSEQUENCES["aiokafka.consumer.group_coordinator"])
]


def lines(process: Process, before: int) -> list[str]:
    """What a process has said since, without what Faust says of its own timers on a busy machine, and
    without what follows from an outage that it has not seen yet: a broker that ends in order turns its
    clients away before it closes their connections."""
    said = [line for line in process.text()[before:].splitlines() if "woke up too" not in line]
    begun = next(i for i, line in enumerate(said) if "Kafka does not answer: " in line)
    return [
        line for i, line in enumerate(said) if i >= begun or not any(text.search(line) for text in FOLLOWS)
    ]


def test_an_outage_is_a_few_lines(
    broker_kind: brokers.Kind,
    scenario_factory: Callable[..., Scenario],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A worker, serving and a replay lose their broker at once."""
    scenario = scenario_factory(times=TIMES)
    with brokers.Broker(broker_kind, data_dir=tmp_path / "broker") as broker:
        worker = Worker(scenario, broker.bootstrap, tmp_path).ready()
        programs: list[Process] = [worker]
        try:
            programs.append(Serving(worker, broker.bootstrap).ready())
            playing = Playing(Sale(20_000, 400.0), scenario, broker.bootstrap, rate=200)
            worker.reached(impressions=200)
            marks = [len(program.text()) for program in programs]
            caplog.clear()
            process_filter = install()
            broker.stop()
            for program, mark in zip(programs, marks, strict=True):
                until(lambda p=program, m=mark: "does not answer" in p.text()[m:], "the outage is said")
            time.sleep(AWAY_S)
            for program, mark in zip(programs, marks, strict=True):
                said = lines(program, mark)
                assert len(said) == 1 and "Kafka does not answer: " in said[0], said
            with pytest.raises(BrokerError, match="stopped taking records"):
                playing.report()
            ours = [r for r in caplog.records if r.name.startswith(("aiokafka", "clients.quiet"))]
            assert [record.name for record in ours] == ["clients.quiet"]
            assert not process_filter.lasts, "a replay that has ended waits for nobody"
            if broker_kind == "embedded":
                return  # it holds its data in memory: what comes back would be another broker
            broker.start()
            for program, mark in zip(programs, marks, strict=True):
                end = until(lambda p=program, m=mark: _end(p.text()[m:]), "its end is said")
                assert int(end[1].replace(",", "")) >= 10
            shown = worker.totals()["impressions"]
            Playing(Sale(100, 10.0, seed=3, name="after"), scenario, broker.bootstrap).report()
            worker.reached(impressions=shown + 1)
        finally:
            for program in programs:
                program.end()


def _end(text: str) -> re.Match[str] | None:
    return re.search(r"Kafka answers again after .* \(([\d,]+) lines? of its clients held back\)", text)
