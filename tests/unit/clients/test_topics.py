"""Failure: a topic is made with other partitions than those it must match, because the broker does not show
yet what was made just before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from kafka.admin import NewTopic
from kafka.errors import TopicAlreadyExistsError

import clients.topics
from clients.connection import Connection
from clients.topics import TopicsError, ensure_topics
from contracts.scenario import Scenario


class Broker:
    """Topics with partitions; each is shown from the ``hidden``-th look at it on."""

    def __init__(self, topics: dict[str, int], hidden: int) -> None:
        self.topics, self._left = topics, dict.fromkeys(topics, hidden)

    def describe_topics(self, names: Sequence[str]) -> list[dict[str, Any]]:
        found = []
        for name in names:
            self._left[name] = self._left.get(name, 0) - 1
            if name in self.topics and self._left[name] < 0:
                found.append({"name": name, "partitions": list(range(self.topics[name]))})
        return found

    def create_topics(self, topics: Sequence[NewTopic]) -> None:
        for topic in topics:
            if topic.name in self.topics:
                raise TopicAlreadyExistsError
            self.topics[topic.name] = topic.num_partitions

    def close(self) -> None:
        pass


@pytest.mark.parametrize("hidden", [0, 1, 2])
def test_a_later_topic_is_as_wide_as_those_that_another_one_makes_now(
    hidden: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = Scenario()
    names = scenario.topics
    broker = Broker({names.impressions: 7, names.actions: 7}, hidden)
    monkeypatch.setattr(clients.topics, "connect", lambda *_: broker)
    counts = ensure_topics(Connection("nowhere:9"), scenario)
    assert {counts[name] for name in names.sources} == {7}
    assert counts[names.features] == names.partitions


def test_nothing_is_made_beside_a_topic_whose_width_nobody_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failure: topics of differing widths, for good, because a busy broker took its time."""
    names = Scenario().topics
    broker = Broker({names.impressions: 7, names.actions: 7}, hidden=10**6)
    monkeypatch.setattr(clients.topics, "connect", lambda *_: broker)
    monkeypatch.setattr(clients.topics, "SHOWN_S", 0.0)
    with pytest.raises(TopicsError, match=rf"{names.impressions} exists.*try again"):
        ensure_topics(Connection("nowhere:9"), Scenario())
    assert set(broker.topics) == {names.impressions, names.actions}
