"""What all arms of a closed loop share: the night, the scenario, and which trunk each is scored with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from replay.simulate import Double11Config
from replay.simulate.policy import Objective

Name = Literal["frozen", "unfed", "live", "oracle", "random", "logged"]
NAMES: tuple[str, ...] = get_args(Name)
#: Trunks of the evening, by their folders: with real-time features, and of ids alone.
WITH_FEATURES, OF_IDS = "trunk", "trunk-of-ids"
#: Arms that a scorer ranks, each with its trunk; of these, ``live`` learns. ``frozen`` reads nothing that a
#: worker would have to bring, ``unfed`` waits for it in vain.
SCORED: Mapping[str, str] = {"frozen": OF_IDS, "unfed": WITH_FEATURES, "live": WITH_FEATURES}

SCENARIO = """\
name = "closed-{run}-{arm}"
trunk = {trunk}

[topics]
impressions = "closed-{run}-{arm}-impressions"
actions = "closed-{run}-{arm}-actions"
behaviours = "closed-{run}-{arm}-behaviours"
dead_letter = "closed-{run}-{arm}-dead-letter"
weights = "closed-{run}-{arm}-weights"
features = "closed-{run}-{arm}-features"
partitions = 2

{settings}"""
#: What a trunk is trained for, and every arm has.
SETTINGS = """\
[times]
label_window_s = 3.0
lateness_s = 0.5
join_limit_s = 120.0

[learners]
half_life_s = 600.0

# Four minutes stand for a night of eight hours: what is an hour there is half a minute here.
[[features.counts]]
keys = ["everything"]
half_lives_s = [10, 60]
velocities = ["impression"]

[[features.counts]]
keys = ["item_id"]
half_lives_s = [10, 60, 600]
velocities = ["impression"]
parent = ["category_id"]

[[features.counts]]
keys = ["category_id"]
half_lives_s = [10, 60, 600]

[[features.counts]]
keys = ["user_id"]
half_lives_s = [60, 600]

[[features.counts]]
keys = ["user_id", "category_id"]
half_lives_s = [600]

[[features.counts]]
keys = ["position"]
half_lives_s = [60, 600]

[[features.recency]]
as = ["seconds", "count"]

[[features.session]]

[[features.price]]
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What all arms share. ``from_s``: where the loop begins, seconds after the night's start. ``name`` is
    part of every topic's, so that a broker that stays does not bring in an earlier loop's events."""

    config: Double11Config
    from_s: float
    speed: float
    folder: Path
    bootstrap: str
    name: str
    objective: Objective = "clicks"
