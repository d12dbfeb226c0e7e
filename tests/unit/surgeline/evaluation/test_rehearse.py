"""Fails when what a rehearsal learns depends on how the log was cut, or what it refuses stays unsaid."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

from contracts.scenario import Scenario, State, Times
from models.deep.trunk import Trunk
from state.keys import ROWS
from surgeline.evaluation.rehearse import Rehearsal, RehearsalReport, rehearse

if TYPE_CHECKING:
    from tests.unit.surgeline.conftest import Night

SCENARIO = Scenario(times=Times(label_window_s=3.0, lateness_s=0.5, join_limit_s=60.0))


def run(table: pl.DataFrame, rows: int) -> RehearsalReport:
    return rehearse(table.iter_slices(rows), SCENARIO, Trunk.empty())


@pytest.mark.parametrize("rows", [37, 1000])
def test_the_cut_of_the_frames_changes_nothing(night: Night, rows: int) -> None:
    table = night.table.head(1500)
    whole, cut = run(table, 1500), run(table, rows)
    assert cut.weights_digest == whole.weights_digest
    assert cut.metrics == whole.metrics
    assert (cut.samples, cut.positives) == (whole.samples, whole.positives)


def test_every_impression_becomes_a_sample_at_the_end(night: Night) -> None:
    report = run(night.table, 500)
    shown = night.table.filter(pl.col("event") == "impression").height
    assert report.samples == report.impressions == shown
    assert report.events == night.table.height and report.refused == 0
    assert 0 < report.positives <= report.actions["click"]


def test_refused_events_are_counted_with_a_reason(night: Night) -> None:
    """A worker would send them to the dead-letter topic."""
    future = night.table.head(50).with_columns(pl.col("event_time") + 100 * 365 * 86_400_000)
    report = run(future, 50)
    assert report.refused == 50 and report.impressions == 0
    assert "future" in report.refused_because or "ahead" in report.refused_because


def test_a_long_log_keeps_no_more_rows_in_memory_than_the_scenario_allows(
    night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failure: a rehearsal's memory grows with the log's users. Mechanism: a row that waits to be published
    is never evicted, and in a rehearsal nobody publishes."""
    monkeypatch.setattr("surgeline.evaluation.rehearse.CHECKPOINT_S", 0.0)
    shown = night.table.filter(pl.col("event") == "impression").head(3000)
    shown = shown.with_columns(user_id=pl.int_range(pl.len()).cast(pl.String))
    assert shown.height == 3000
    rehearsal = Rehearsal(
        Scenario(times=SCENARIO.times, state=State(cached_rows=1000)), Trunk.empty(), tmp_path
    )
    with contextlib.closing(rehearsal.engine.store):
        for frame in shown.iter_slices(300):
            rehearsal.feed(frame)
        rehearsal.finish()
        features = rehearsal.engine.features
        # A user's rows: as many as were shown, in each table that knows users by their id alone.
        assert sum(1 for _ in rehearsal.engine.store.keys(ROWS)) > 3000
        assert len(features) < 1500
        assert features.evicted > 0
