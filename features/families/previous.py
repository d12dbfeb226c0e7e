"""This list beside the one that the user was shown before: what comes again was passed over once.

``shown``: 1 where the item was in it. ``overlap``: the share of this list's impressions that were.
``seconds``: log(1 + seconds since) / 10.

Source: RecSys Challenge 2019 solutions (changes between a session's lists). Ranges: 0..1, and 0..5 of the
seconds; before the first list 0, and 2.5 of the seconds.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np

from features.events import FloatArray
from features.families.previous_rows import PreviousRows
from features.families.recency import NEVER_SECONDS, log_seconds
from features.family import Feature
from features.passes import Block, Pass
from features.scope import Scope


class Previous(msgspec.Struct, forbid_unknown_fields=True, frozen=True, cache_hash=True):
    """``[[features.previous]]``: ``keep`` items of a list are remembered, in the order of their places."""

    DECLARED: ClassVar[str] = "previous"

    keep: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 25

    def kinds(self) -> tuple[str, ...]:
        """None."""
        return ()

    def check(self, scope: Scope, where: str) -> None:
        """Nothing else can be wrong."""

    def blocks(self, scope: Scope) -> tuple[Block, ...]:
        """The user's last list."""
        return (PreviousRows(self.keep),)

    def features(self, scope: Scope) -> tuple[Feature, ...]:
        """See the module."""
        return (
            Feature("previous.shown", 0.0, 1.0),
            Feature("previous.overlap", 0.0, 1.0),
            Feature("previous.seconds", 0.0, 5.0, NEVER_SECONDS),
        )

    def compute(self, batch: Pass, scope: Scope) -> list[FloatArray]:
        """See ``features.family.Family``."""
        shown, at = batch.raw[PreviousRows(self.keep)].T
        known, numbers = at > 0, batch.shown(batch.events.lists)
        share = np.bincount(numbers, shown) / np.maximum(np.bincount(numbers), 1)
        return [
            np.where(known, shown, np.nan),
            np.where(known, share[numbers], np.nan),
            np.where(known, log_seconds(batch.times - at), np.nan),
        ]
