"""``surgeline topics``: create the scenario's topics, or compare what a broker has with it."""

from __future__ import annotations

import time

import click
from kafka.errors import KafkaError

from clients.connection import Connection, connection
from clients.topics import (
    BROKER_WAIT_S,
    TopicsError,
    connect,
    differing,
    ensure_topics,
    partition_counts,
    wanted_topics,
)
from contracts.scenario import Scenario, load_scenario


def existing(connection: Connection, scenario: Scenario) -> dict[str, int]:
    """Partition counts of those of the scenario's topics that the broker has."""
    admin = connect(connection)
    try:
        return partition_counts(admin, list(wanted_topics(scenario)))
    except (KafkaError, OSError) as error:
        raise TopicsError(
            f"no answer from Kafka at {connection.bootstrap} ({type(error).__name__})"
        ) from error
    finally:
        admin.close()


def wait_for_all(connection: Connection, scenario: Scenario, timeout_s: float = 60.0) -> dict[str, int]:
    """Partition counts once every topic shows: Kafka answers a creation before its metadata has it."""
    deadline = time.monotonic() + timeout_s
    while True:
        counts = existing(connection, scenario)
        missing = [name for name in wanted_topics(scenario) if name not in counts]
        if not missing:
            return counts
        if time.monotonic() > deadline:
            raise TopicsError(f"created, but not there after {timeout_s:g} s: {', '.join(missing)}")
        time.sleep(0.1)


def problems(counts: dict[str, int], scenario: Scenario) -> list[str]:
    """What keeps a worker from running on topics with these partition counts, in words."""
    said = [f"{name} is missing" for name in wanted_topics(scenario) if name not in counts]
    if differ := differing(counts, scenario):
        said.append(differ)
    return said


def table(counts: dict[str, int], scenario: Scenario) -> str:
    """One line a topic: its name, how many partitions it has, how its old records go."""
    wanted = wanted_topics(scenario)
    width = max(map(len, wanted))
    lines = []
    for name, (_partitions, settings) in wanted.items():
        have = f"{counts[name]} partitions" if name in counts else "missing"
        lines.append(f"{name:<{width}}  {have:<14}  {settings.get('cleanup.policy', 'delete')}")
    return "\n".join(lines)


_bootstrap = click.option(
    "--bootstrap", default=None, help="host:port.  [default: KAFKA_BOOTSTRAP or 127.0.0.1:9092]"
)
_scenario = click.option(
    "--scenario",
    "path",
    type=click.Path(dir_okay=False),
    default=None,
    help="Scenario file.  [default: SURGELINE_SCENARIO]",
)


@click.group(help="Create the scenario's topics, or show them.")
def command() -> None:
    """The group; its two commands share their options."""


@command.command(help="Create what is missing; what exists is left as it is.")
@_bootstrap
@_scenario
def create(bootstrap: str | None, path: str | None) -> None:
    """Safe to repeat: one-shot jobs run it at every start."""
    scenario = load_scenario(path)
    kafka = connection(scenario.kafka, bootstrap)
    ensure_topics(kafka, scenario, BROKER_WAIT_S)
    click.echo(table(wait_for_all(kafka, scenario), scenario))


@command.command(help="Show the scenario's topics; status 1 where a worker could not run on them.")
@_bootstrap
@_scenario
def show(bootstrap: str | None, path: str | None) -> None:
    """Print what is there, then say what is wrong."""
    scenario = load_scenario(path)
    counts = existing(connection(scenario.kafka, bootstrap), scenario)
    click.echo(table(counts, scenario))
    wrong = problems(counts, scenario)
    if wrong:
        raise TopicsError("; ".join(wrong))
