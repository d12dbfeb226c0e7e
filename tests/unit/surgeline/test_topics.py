"""Fails when `surgeline topics` calls a set of topics fine that a worker could not run on."""

from __future__ import annotations

from click.testing import CliRunner

from stream.scenario import Scenario
from stream.topics import wanted_topics
from surgeline.cli import main
from surgeline.topics import problems, table

SCENARIO = Scenario()
COMPLETE = {name: partitions for name, (partitions, _settings) in wanted_topics(SCENARIO).items()}


def test_what_the_scenario_asks_for_has_no_problem() -> None:
    assert problems(COMPLETE, SCENARIO) == []


def test_a_missing_topic_is_named() -> None:
    counts = {name: n for name, n in COMPLETE.items() if name != SCENARIO.topics.weights}
    assert problems(counts, SCENARIO) == ["surgeline-weights is missing"]
    assert "surgeline-weights      missing" in table(counts, SCENARIO)


def test_sources_with_different_partition_counts_are_refused() -> None:
    """A user's impressions and clicks would meet in different workers."""
    counts = {**COMPLETE, SCENARIO.topics.actions: 7}
    assert (
        "surgeline-impressions has 4 partitions and surgeline-actions has 7" in problems(counts, SCENARIO)[0]
    )


def test_more_partitions_than_the_scenario_says_are_fine() -> None:
    """Topics grow; the scenario's number is for their making."""
    grown = {**COMPLETE, SCENARIO.topics.actions: 16, SCENARIO.topics.impressions: 16}
    assert problems(grown, SCENARIO) == []


def test_the_table_says_what_is_compacted() -> None:
    lines = table(COMPLETE, SCENARIO).splitlines()
    assert len(lines) == 5
    assert {line.split()[0] for line in lines if line.endswith("compact")} == {
        "surgeline-weights",
        "surgeline-features",
    }


def test_a_wrong_scenario_is_one_line() -> None:
    result = CliRunner().invoke(main, ["topics", "show", "--scenario", "/nonexistent.toml"])
    assert result.exit_code == 2
    assert result.output.startswith("Error: scenario /nonexistent.toml") and result.output.count("\n") == 1
