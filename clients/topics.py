"""The topics of a scenario: created where missing, checked where present."""

from __future__ import annotations

import logging
import time
from uuid import UUID

from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from clients.connection import Connection
from clients.refusal import check
from contracts.errors import SurgelineError
from contracts.scenario import Scenario

#: Largest record of the dead-letter and weights topics, in bytes. A dead letter holds a refused record in
#: base64, so it outgrows the broker's usual limit (1 MiB) where the record itself did not; weights hold the
#: posterior of a wide last layer.
MAX_RECORD_BYTES = 8 * 1024 * 1024
#: How long one attempt to reach a broker takes.
TRY_MS = 5_000
#: How long workers and jobs wait for a broker that is started beside them.
BROKER_WAIT_S = 25.0
#: Within this a broker shows a topic that exists, also on a machine that has much else to do.
SHOWN_S = 30.0

logger = logging.getLogger(__name__)


class TopicsError(SurgelineError, RuntimeError):
    """The topics cannot be used as they are, or the broker cannot be reached."""


def wanted_topics(scenario: Scenario) -> dict[str, tuple[int, dict[str, str]]]:
    """Topic -> (partitions, configuration)."""
    names = scenario.topics
    large = {"max.message.bytes": str(MAX_RECORD_BYTES)}
    compact = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.1", "segment.ms": "600000"}
    return {
        **dict.fromkeys(names.sources, (names.partitions, {})),
        names.dead_letter: (1, large),
        names.weights: (1, compact | large),
        names.features: (names.partitions, compact),
    }


def connect(connection: Connection, wait_s: float = 0.0) -> KafkaAdminClient:
    """An administration client, once a broker answers; one that is not up yet is waited for ``wait_s``.

    Raises ``TopicsError``, and ``BrokerRefused`` at once where one answers and does not take us.
    """
    deadline = time.monotonic() + wait_s
    while True:
        check(connection)
        try:
            return KafkaAdminClient(
                **connection.kafka_python(),
                client_id="surgeline-topics",
                request_timeout_ms=15_000,
                bootstrap_timeout_ms=TRY_MS,
            )
        except (KafkaError, OSError) as error:
            left = deadline - time.monotonic()
            if left <= 0.0:
                raise TopicsError(
                    f"no Kafka broker at {connection.bootstrap} ({type(error).__name__}); set "
                    "KAFKA_BOOTSTRAP, or start one with `surgeline broker`"
                ) from error
            logger.warning("No Kafka broker at %s yet; trying for %.0f s more", connection.bootstrap, left)


def ensure_topics(connection: Connection, scenario: Scenario, wait_s: float = 0.0) -> dict[str, int]:
    """Create what is missing; returns every topic's partition count.

    A broker that does not answer yet is waited for ``wait_s``. Raises ``BrokerRefused`` where one does not
    take us; ``TopicsError`` where none is reachable, or where source topics differ in partition count: a
    user's events would then meet in different workers.
    """
    wanted = wanted_topics(scenario)
    admin = connect(connection, wait_s)
    try:
        existing = partition_counts(admin, list(wanted))
        sources = scenario.topics.sources
        for name, (partitions, config) in wanted.items():
            if name in existing:
                continue
            if name in sources:
                # One that is added later is as wide as those that it must match, which may have grown.
                partitions = next((existing[one] for one in sources if one in existing), partitions)
            topic = NewTopic(name, partitions, scenario.topics.replication, topic_configs=config)
            try:
                admin.create_topics([topic])
                existing[name] = partitions
            except TopicAlreadyExistsError:  # made just now by another one, perhaps with other partitions
                existing |= _once_shown(admin, name)
        counts = partition_counts(admin, list(wanted))
    except KafkaError as error:
        raise TopicsError(f"topics at {connection.bootstrap} cannot be prepared: {error}") from error
    finally:
        admin.close()
    counts = {name: counts.get(name, partitions) for name, (partitions, _) in wanted.items()}
    if differ := differing(counts, scenario):
        raise TopicsError(differ)
    return counts


def _once_shown(admin: KafkaAdminClient, name: str) -> dict[str, int]:
    """The partition count of a topic that was made just now. Raises ``TopicsError`` where it stays hidden:
    others must be as wide, and a guess cannot be taken back."""
    deadline = time.monotonic() + SHOWN_S
    while not (found := partition_counts(admin, [name])):
        if time.monotonic() >= deadline:
            raise TopicsError(f"topic {name} exists, and the broker does not say how wide it is; try again")
        time.sleep(0.1)
    return found


def differing(counts: dict[str, int], scenario: Scenario) -> str:
    """What is wrong with the partition counts of the source topics, in words; empty where they agree.

    >>> differing({"surgeline-impressions": 4, "surgeline-actions": 7}, Scenario()).partition(";")[0]
    'surgeline-impressions has 4 partitions and surgeline-actions has 7'
    """
    first, *others = [name for name in scenario.topics.sources if name in counts] or [""]
    for other in others:
        if counts[first] != counts[other]:
            return (
                f"{first} has {counts[first]} partitions and {other} has {counts[other]}; they must have the "
                "same number so that a user's events meet"
            )
    return ""


def partition_counts(admin: KafkaAdminClient, names: list[str]) -> dict[str, int]:
    """Partition counts of those of ``names`` that exist."""
    return {
        topic["name"]: len(topic["partitions"])
        for topic in admin.describe_topics(names)
        if not topic.get("error_code") and topic["partitions"]
    }


def topic_ids(connection: Connection, names: list[str]) -> dict[str, str]:
    """Ids of those of ``names`` that exist and have one (brokers before Kafka 2.8 have none).

    A topic that is deleted and made anew has another id. Raises ``TopicsError``.
    """
    admin = connect(connection)
    try:
        topics = admin.describe_topics(names)
    except KafkaError as error:
        raise TopicsError(f"topics at {connection.bootstrap} cannot be described: {error}") from error
    finally:
        admin.close()
    ids = {topic["name"]: topic.get("topic_id") for topic in topics if not topic.get("error_code")}
    return {name: str(found) for name, found in ids.items() if found and UUID(str(found)).int}
