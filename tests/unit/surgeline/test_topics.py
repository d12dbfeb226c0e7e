"""Fails when `surgeline topics` calls a set of topics fine that a worker could not run on."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from click.testing import CliRunner
from kafka.errors import KafkaTimeoutError

import surgeline.topics
from clients.connection import Connection
from clients.topics import TRY_MS, TopicsError, connect, wanted_topics
from contracts.scenario import Scenario
from surgeline.cli import main
from surgeline.topics import problems, table, wait_for_all

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
    grown = COMPLETE | dict.fromkeys(SCENARIO.topics.sources, 16)
    assert problems(grown, SCENARIO) == []


def test_the_table_says_what_is_compacted() -> None:
    lines = table(COMPLETE, SCENARIO).splitlines()
    assert len(lines) == 6
    assert {line.split()[0] for line in lines if line.endswith("compact")} == {
        "surgeline-weights",
        "surgeline-features",
    }


def test_a_wrong_scenario_is_one_line() -> None:
    result = CliRunner().invoke(main, ["topics", "show", "--scenario", "/nonexistent.toml"])
    assert result.exit_code == 2
    assert result.output.startswith("Error: scenario /nonexistent.toml") and result.output.count("\n") == 1


def test_show_does_not_wait_for_a_broker_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failure: a minute of silence, or a wrong reason. Mechanism: one attempt, which fails."""
    attempts: list[int] = []

    def refuse(**settings: Any) -> None:
        attempts.append(settings["bootstrap_timeout_ms"])
        raise KafkaTimeoutError

    monkeypatch.setattr("clients.topics.KafkaAdminClient", refuse)
    result = CliRunner().invoke(main, ["topics", "show", "--bootstrap", "127.0.0.1:1"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: no Kafka broker at 127.0.0.1:1")
    assert attempts == [TRY_MS]


def test_a_worker_waits_for_its_broker_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Failure: started beside its broker, a worker gives up at once, or waits without a word."""
    answers: list[Exception | None] = [KafkaTimeoutError(), OSError("unreachable"), None]
    client = object()

    def answer(**_settings: Any) -> object:
        error = answers.pop(0)
        if error is not None:
            raise error
        return client

    monkeypatch.setattr("clients.topics.KafkaAdminClient", answer)
    with caplog.at_level(logging.WARNING):
        assert connect(Connection("kafka:9092"), wait_s=3600.0) is client
    assert caplog.text.count("No Kafka broker at kafka:9092 yet") == 2


def test_create_waits_until_every_topic_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka confirms a topic before its metadata has it: a job that ends then lets workers start too soon."""
    views = [{}, {name: n for name, n in COMPLETE.items() if name != SCENARIO.topics.weights}, COMPLETE]
    monkeypatch.setattr(surgeline.topics, "existing", lambda _bootstrap, _scenario: views.pop(0))
    assert wait_for_all(Connection("nowhere:1"), SCENARIO) == COMPLETE
    assert views == []


def test_create_says_what_never_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {name: n for name, n in COMPLETE.items() if name != SCENARIO.topics.weights}
    monkeypatch.setattr(surgeline.topics, "existing", lambda _bootstrap, _scenario: counts)
    with pytest.raises(TopicsError, match="after 0 s: surgeline-weights"):
        wait_for_all(Connection("nowhere:1"), SCENARIO, timeout_s=0.0)
