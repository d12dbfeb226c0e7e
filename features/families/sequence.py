"""The last events of a user as arrays, for trunks that read sequences: ``Pass.sequences``, no columns.

Of each action and behaviour before the impression: item, category, shop, kind, and how long ago. A row is
``5 * keep + 1`` numbers: 4 kB a user with 100 events.

Source: sequence models of clicks, as Zhou and others, "Deep interest network" (KDD 2018). Ages: 0..100.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np

from features.events import FloatArray
from features.families.sequence_rows import EACH, SequenceRows
from features.family import Feature
from features.passes import Block, Pass, Sequence
from features.scope import Scope, check_columns


class LastEvents(msgspec.Struct, forbid_unknown_fields=True, frozen=True, cache_hash=True):
    """``[[features.sequence]]``: the last ``keep`` events of a ``key``."""

    DECLARED: ClassVar[str] = "sequence"

    key: str = "user_id"
    keep: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 50

    @property
    def name(self) -> str:
        """Of the sequence among ``Pass.sequences``."""
        return self.key

    def kinds(self) -> tuple[str, ...]:
        """None by name: every action and behaviour is kept."""
        return ()

    def check(self, scope: Scope, where: str) -> None:
        """Raises ``FeaturesError``."""
        check_columns((self.key,), scope, f"{where}.key")

    def reads_keys(self) -> tuple[str, ...]:
        """What is kept of an event."""
        return ("item_id", "category_id", "shop_id")

    def blocks(self, scope: Scope) -> tuple[Block, ...]:
        """The ring."""
        return (self._rows(scope),)

    def features(self, scope: Scope) -> tuple[Feature, ...]:
        """None: see ``Pass.sequences``."""
        return ()

    def compute(self, batch: Pass, scope: Scope) -> list[FloatArray]:
        """See ``features.family.Family``."""
        raw = batch.raw[self._rows(scope)].reshape(batch.impressions, self.keep, len(EACH))
        there = raw[:, :, 3] > 0
        seconds = np.maximum(batch.times[:, None] - raw[:, :, 4], 0.0) / 1000.0
        ages = np.where(there, 1.0 + np.floor(2.0 * np.log2(1.0 + seconds)), 0.0)
        items, categories, shops = (raw[:, :, k].astype(np.uint64) for k in range(3))
        kinds = raw[:, :, 3].astype(np.int16)
        batch.sequences[self.key] = Sequence(items, categories, shops, kinds, ages.astype(np.int16))
        return []

    def _rows(self, scope: Scope) -> SequenceRows:
        return SequenceRows((self.key,), self.keep, len(scope.kinds))
