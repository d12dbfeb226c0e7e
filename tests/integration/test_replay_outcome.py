"""What a replay says of the workers is what they did.

Failure: "learned" is said too early or never, the late events that are named are not those of the worker, or
a replay for the second time is dropped as duplicates without a word. Mechanism: one worker; a log, an older
one, that one again with its ids and with new ones, and a log for a worker that is gone. Required: the named
weights hold every sample; counts are the worker's own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from contracts.scenario import Scenario
from replay.outcome import Watch, in_words
from replay.player import PlayReport, play
from tests.integration.harness import T0, TIMES, Sale, Worker, versions

pytestmark = pytest.mark.one_broker


def test_what_a_replay_says_of_the_workers(
    broker: str, scenario_factory: Callable[..., Scenario], tmp_path: Path
) -> None:
    scenario = scenario_factory(times=msgspec.structs.replace(TIMES, idle_s=5.0))
    said: list[str] = []

    def replay(sale: Sale, patience_s: float | None = None, new_ids: bool = False) -> PlayReport:
        said.clear()
        watch = Watch(said.append, patience_s)
        return play(sale, scenario, broker, watch=watch, new_ids=new_ids)

    def samples(report: PlayReport) -> int:
        """Of the first weights that are said to know everything."""
        assert report.outcome is not None, "the broker answers"
        assert report.outcome.behind == 0, report.outcome
        named = report.outcome.versions["0"]
        (found,) = [one for one in versions(broker, scenario) if one.version == named]
        return found.samples

    # A new Kafka first makes the topic in which groups commit.
    first = replay(Sale(200, 20.0), 10.0)
    assert first.outcome is not None
    assert "no worker has done anything" in in_words(first.outcome, scenario.name, scenario.times)[0]

    worker = Worker(scenario, broker, tmp_path).ready()
    try:
        assert samples(replay(Sale(300, 20.0, name="second", start=T0 + 60_000))) == 500
        assert said == []

        week = 7 * 86_400_000
        older = replay(Sale(400, 20.0, name="older", start=T0 - week))
        assert "this log begins at 2023-11-07" in said[0] and "time starts over" in said[0]
        assert samples(older) == 900
        assert older.outcome is not None and older.outcome.older_logs == 1
        assert older.outcome.late == worker.totals()["late"] > 0

        # The same ids within the join limit are duplicates; with ids of its own it is another log. Behaviours
        # have no ids: they are done again, and that is said.
        again = replay(Sale(400, 20.0, name="older", start=T0 - week + 30_000))
        assert again.outcome is not None and again.behaviours > 0
        assert again.outcome.duplicates == again.impressions + again.actions
        assert "behaviours have no ids" in in_words(again.outcome, scenario.name, scenario.times)[-1]
        assert samples(again) == 900
        assert samples(replay(Sale(400, 20.0, name="older", start=T0 - week + 60_000), None, True)) == 1300
        assert worker.stop() == 0
    finally:
        worker.end()
    gone = replay(Sale(10, 1.0, name="gone", start=T0), 0.5)
    assert gone.outcome is not None and gone.outcome.behind is not None
    assert gone.outcome.behind >= gone.events and not gone.outcome.versions
