"""Scenarios and topics that no other test has, and no earlier run of the same fixture.

A process that takes tests from another one may make a module's fixture again, on the broker that it has.
"""

from __future__ import annotations

import uuid
from typing import Any

from stream.scenario import Scenario, Topics

_ROLES = ("impressions", "actions", "dead_letter", "weights", "features")


def fresh_topics() -> Topics:
    """Topics of four partitions."""
    mark = uuid.uuid4().hex[:8]
    return Topics(**{role: f"{role.replace('_', '-')}-{mark}" for role in _ROLES})


def fresh_scenario(name: str, topics: Topics | None = None, **settings: Any) -> Scenario:
    """A scenario whose name begins with ``name``, on topics of its own where none are given."""
    return Scenario(name=f"{name}-{uuid.uuid4().hex[:8]}", topics=topics or fresh_topics(), **settings)
