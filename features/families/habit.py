"""Whether this user goes for new items, and whether somebody else had this one last.

With n events about d different items so far, the habit is p = (d + 1) / (n + 2). ``novelty``: p for an item
that is new to the user, 1 - p for one that is not. ``items``: log(1 + d) / 5. ``mine_last``, ``others_last``:
1 where the last event about the item was this user's, or another one's.

Source: RecSys Challenge 2019 solutions (who clicked the item last; users who return to what they know).
Ranges: 0..1, and 0..5 of ``items``.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec
import numpy as np

from features.events import FloatArray
from features.families.habit_rows import habit_blocks, last_user
from features.family import Feature
from features.passes import Block, Pass
from features.scope import Scope

#: (name, highest, neutral)
COLUMNS = (("novelty", 1.0, 0.5), ("items", 5.0, 0.0), ("mine_last", 1.0, 0.0), ("others_last", 1.0, 0.0))


class Habit(msgspec.Struct, forbid_unknown_fields=True, frozen=True, cache_hash=True):
    """``[[features.habit]]``: no settings."""

    DECLARED: ClassVar[str] = "habit"

    def kinds(self) -> tuple[str, ...]:
        """None by name: every action and behaviour counts."""
        return ()

    def check(self, scope: Scope, where: str) -> None:
        """Nothing can be wrong."""

    def blocks(self, scope: Scope) -> tuple[Block, ...]:
        """Of (user, item), of the user, and of the item."""
        return habit_blocks(scope)

    def features(self, scope: Scope) -> tuple[Feature, ...]:
        """See the module."""
        return tuple(Feature(f"habit.{name}", 0.0, high, neutral) for name, high, neutral in COLUMNS)

    def compute(self, batch: Pass, scope: Scope) -> list[FloatArray]:
        """See ``features.family.Family``."""
        known, habit, last = (batch.raw[block] for block in habit_blocks(scope))
        events, items = habit.T
        likely = (items + 1.0) / (events + 2.0)
        mine = last[:, 0] == last_user(batch.shown(batch.keys["user_id"])).astype(np.float64)
        there = last[:, 1] > 0
        return [
            np.where(known[:, 0] > 0, 1.0 - likely, likely),
            np.log1p(items) / 5.0,
            (there & mine).astype(np.float64),
            (there & ~mine).astype(np.float64),
        ]
