"""``kill -9`` at any moment changes nothing, and an outage of the broker neither."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import surgeline.local.broker as brokers
from contracts.scenario import Scenario
from tests.integration.harness import (
    TIMES,
    Kept,
    Playing,
    Sale,
    Worker,
    kept,
    rehearse,
    until,
    versions,
)

IMPRESSIONS = 6000


@pytest.mark.parametrize("seed", [1])
def test_kills_leave_no_trace(
    seed: int, broker: str, scenario_factory: Callable[..., Scenario], tmp_path: Path
) -> None:
    """Failure: events lost or counted twice, or learners that differ, after a process died.

    Mechanism: one log into one pair of topics that two workers read as two groups. One is never touched.
    The other is killed with SIGKILL within a second of its first tick, while it starts again, and in the
    middle of the log, at seeded moments; events go on coming while it is dead. Required: the same counts
    and the same digest, which are also those of an engine without Kafka; every version once and in order.
    Static membership gives the restarted worker its partitions at once, also on a broker that never
    expires a dead member.
    """
    moments = random.Random(seed)
    killed = scenario_factory(times=TIMES)
    untouched = beside(killed)
    parts = Sale(IMPRESSIONS, 60.0, seed=seed).parts(4)
    home = tmp_path / "home"
    other = Worker(untouched, broker, home)
    worker = Worker(killed, broker, home).ready()
    try:
        playing = Playing(parts[0], killed, broker, rate=1500, watermark=False)
        time.sleep(moments.uniform(0.0, 1.0))
        worker.kill()
        playing.report()

        worker = Worker(killed, broker, home)
        time.sleep(moments.uniform(0.5, 3.0))
        worker.kill()
        Playing(parts[1], killed, broker, watermark=False).report()

        worker = Worker(killed, broker, home).ready()
        before = worker.totals()["impressions"]
        playing = Playing(parts[2], killed, broker, rate=1000, watermark=False)
        worker.reached(impressions=max(before, round(moments.uniform(0.3, 0.7) * IMPRESSIONS)))
        worker.kill()
        playing.report()

        worker = Worker(killed, broker, home).ready()
        Playing(parts[3], killed, broker).report()
        states = []
        for one in (worker, other):
            one.reached(impressions=IMPRESSIONS, samples=IMPRESSIONS)
            assert one.stop() == 0
            states.append(kept(one.scenario, one.state_folder))
        states.append(rehearse(killed, broker, tmp_path / "rehearsed"))
        assert counts(states[0]) == counts(states[1]) == counts(states[2])
        assert states[0].samples == IMPRESSIONS
        assert states[0].digest == states[1].digest == states[2].digest
    finally:
        worker.end()
        other.end()
    chain = published(broker, killed)
    assert chain == sorted(set(chain))
    assert chain[-1] == states[0].version


def beside(scenario: Scenario) -> Scenario:
    """Another group on the same source topics, with topics of its own for what it writes."""
    topics = scenario.topics
    changes = {role: f"{getattr(topics, role)}-beside" for role in ("dead_letter", "weights", "features")}
    return msgspec.structs.replace(
        scenario, name=f"{scenario.name}-beside", topics=msgspec.structs.replace(topics, **changes)
    )


def counts(state: Kept) -> tuple[int, ...]:
    return (
        state.impressions,
        state.actions,
        state.samples,
        state.positives,
        state.duplicates,
        len(state.ids),
    )


def published(broker: str, scenario: Scenario) -> list[int]:
    return [weights.version for weights in versions(broker, scenario)]


def test_an_outage_of_the_broker_is_survived(
    running_broker: brokers.Broker, scenario_factory: Callable[..., Scenario], tmp_path: Path
) -> None:
    """Failure: a worker that dies, hangs or loses events when its broker does not answer for a while.

    Mechanism: the broker's process is stopped (SIGSTOP) in the middle of a log for longer than the session
    timeout of ten seconds, then goes on. Required: the same process of the worker goes on too, with every
    event once, and publishes what it learned.
    """
    scenario = scenario_factory(times=TIMES)
    broker = running_broker.bootstrap
    worker = Worker(scenario, broker, tmp_path).ready()
    try:
        playing = Playing(Sale(3000, 30.0), scenario, broker, rate=1000)
        worker.reached(impressions=500)
        pid = process_of(running_broker)
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(12.0)
        finally:
            os.kill(pid, signal.SIGCONT)
        playing.report()
        worker.reached(impressions=3000, samples=3000)
        version = worker.view()["moments"][-1]["version"]
        until(lambda: published(broker, scenario)[-1] > version, "it publishes again")
        assert worker.stop() == 0
    finally:
        worker.end()
    state = kept(scenario, worker.state_folder)
    assert counts(state) == counts(rehearse(scenario, broker, tmp_path / "rehearsed"))
    assert (state.impressions, state.duplicates) == (3000, 0)
    chain = published(broker, scenario)
    assert chain == sorted(set(chain))


def process_of(broker: brokers.Broker) -> Any:
    assert broker._child is not None
    return broker._child.pid
