"""Failure: a rehearsal says one thing and production does another.

Mechanism: the same simulated log once through a broker and a real worker, which takes it in whatever
batches and order over partitions Kafka gives, and once through ``rehearse``. Required: the same weights,
bit for bit, and the same counts; evaluation then speaks about production.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl

from contracts.scenario import Scenario
from models.deep.trunk import Trunk
from replay.files import FileLog, write_log
from replay.player import play
from replay.simulate import Double11, Double11Config
from state.store import Store
from stream.engine import Engine
from surgeline.evaluation.rehearse import rehearse
from tests.integration.harness import TIMES, Worker


def test_a_worker_learns_what_the_rehearsal_learned(
    broker: str, scenario_factory: Callable[..., Scenario], tmp_path: Path
) -> None:
    config = Double11Config(minutes=1.0, rate=60.0, jump_ratio=4.0, seed=3, users=500, items=200)
    write_log((log for log, _ in Double11(config).frames()), tmp_path / "night.parquet")
    log = FileLog(tmp_path / "night.parquet")
    # `idle_s` of an hour: only events and the final watermarks close anything.
    scenario = scenario_factory(times=TIMES)
    expected = rehearse(log.chunks(500), scenario, Trunk.empty())
    assert expected.positives > 50

    worker = Worker(scenario, broker, tmp_path / "home")
    try:
        worker.ready()
        report = play(log, scenario, broker, "max", time="keep")
        assert report.events == expected.events
        worker.reached(samples=expected.samples)
        assert worker.stop() == 0, worker.text()[-3000:]
    finally:
        worker.end()

    with Store(worker.state_folder) as store:
        engine = Engine(scenario, store, Trunk.empty(), worker.worker_id)
        counts = engine.joins.counts
        assert (counts.samples, counts.positives) == (expected.samples, expected.positives)
        assert engine.totals.late == 0
        assert engine.totals.behaviours_read == expected.behaviours > 50
        assert engine.weights_digest() == expected.weights_digest
        assert engine.panel.metrics() == expected.metrics
    impressions = pl.concat(log.chunks()).filter(pl.col("event") == "impression").height
    assert expected.samples == impressions
