"""Fixtures of the broker tests.

``broker`` is a bootstrap address. Every test that asks for it runs on the embedded broker and, where
``KAFKA_HOME`` and Java are there, on Apache Kafka: the kind stands in the test's id. A broker starts once
a session (with xdist: once a process); topics are fresh a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

import surgeline.broker as brokers
from stream.scenario import Scenario, Topics
from tests.integration.fresh import fresh_scenario, fresh_topics
from tests.integration.secured import Secured, missing
from tests.selection import leave_out

KINDS: list[brokers.Kind] = ["embedded"]
if brokers.kafka_home() is not None:
    KINDS.append("kafka")


PARAMS = [pytest.param(kind, marks=pytest.mark.kafka) for kind in KINDS]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests with the mark ``one_broker`` run on the last kind only: what they are about is not the broker."""

    def on_another(item: pytest.Item) -> bool:
        if item.get_closest_marker("one_broker") is None or not hasattr(item, "callspec"):
            return False
        return bool(item.callspec.params.get("running_broker", KINDS[-1]) != KINDS[-1])

    leave_out(config, items, on_another)


@pytest.fixture(scope="session", params=PARAMS)
def running_broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[brokers.Broker]:
    """The broker itself; pytest groups tests by this parameter, so that each kind starts once."""
    kind: brokers.Kind = request.param
    if kind == "embedded":
        try:
            brokers.embedded_binary()
        except brokers.BrokerUnavailable as error:
            pytest.skip(str(error))
    with brokers.Broker(kind, data_dir=tmp_path_factory.mktemp(f"broker-{kind}")) as broker:
        yield broker


@pytest.fixture(scope="session")
def broker(running_broker: brokers.Broker) -> str:
    """``127.0.0.1:PORT`` of a broker that answers."""
    return running_broker.bootstrap


@pytest.fixture(scope="session")
def broker_kind(running_broker: brokers.Broker) -> str:
    """``embedded`` or ``kafka``: to skip, with the reason, what a broker cannot do."""
    return running_broker.kind


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """An Apache Kafka with TLS and logins."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    with Secured(tmp_path_factory.mktemp("secured")) as running:
        yield running


@pytest.fixture
def topics() -> Topics:
    """Topic names that no other test has, four partitions."""
    return fresh_topics()


@pytest.fixture
def scenario_factory(topics: Topics) -> Callable[..., Scenario]:
    """Make a scenario on this test's topics; keyword arguments replace its fields."""
    first = fresh_scenario("test", topics)

    def make(**changes: Any) -> Scenario:
        return msgspec.structs.replace(first, **changes)

    return make


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Call it for a port that nothing listens on."""
    return brokers.free_port
