"""A scenario whose features can be computed: a wrong declaration is told with its file and line, at once."""

from __future__ import annotations

import os

from contracts.events import ACTIONS
from contracts.scenario import Scenario, load_scenario, written, wrong
from features.declared import plan_from
from features.errors import FeaturesError


def load_declared(path: str | os.PathLike[str] | None = None) -> Scenario:
    """As ``contracts.scenario.load_scenario``; raises ``ScenarioError`` for features that cannot be, too."""
    scenario = load_scenario(path)
    try:
        plan_from(scenario.features, ACTIONS)
    except FeaturesError as error:
        source, text = written(path)
        raise wrong(source, text, str(error).partition(": ")[0], str(error)) from error
    return scenario
