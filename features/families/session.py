"""The user's session as of the impression: how far it is, when it was last alive, what was done last.

``step``: log(1 + steps of the session) / 3. ``seconds_since_last``, ``seconds_since_start``,
``seconds_known``: log(1 + seconds) / 10. ``sessions``, ``steps``: log(1 + number) / 5 of all time. ``pace``:
log(1 + seconds a step) / 5. Works out the key columns ``last_kind`` (the kind of the session's last event)
and ``last_kinds`` (of the last two), for counts that ask what comes after what.

Source: RecSys Challenge 2019 solutions (session length, step, last actions). Ranges: 0..5.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec
import numpy as np

from features.events import FloatArray
from features.families import session_rows as columns
from features.families.recency import log_seconds
from features.families.session_rows import session_rows
from features.family import Feature
from features.hashing import cross, hash_numbers
from features.passes import Block, Pass
from features.scope import Scope

NAMES = ("step", "seconds_since_last", "seconds_since_start", "seconds_known", "sessions", "steps", "pace")


class Session(msgspec.Struct, forbid_unknown_fields=True, frozen=True, cache_hash=True):
    """``[[features.session]]``: no settings but the scenario's ``features.session_gap_s``."""

    DECLARED: ClassVar[str] = "session"

    def kinds(self) -> tuple[str, ...]:
        """None by name: every action and behaviour is a step."""
        return ()

    def check(self, scope: Scope, where: str) -> None:
        """Nothing can be wrong."""

    def provides(self) -> tuple[str, ...]:
        """Key columns that it works out."""
        return ("last_kind", "last_kinds")

    def blocks(self, scope: Scope) -> tuple[Block, ...]:
        """The user's session."""
        return (session_rows(scope),)

    def features(self, scope: Scope) -> tuple[Feature, ...]:
        """See the module."""
        return tuple(Feature(f"session.{name}", 0.0, 5.0) for name in NAMES)

    def compute(self, batch: Pass, scope: Scope) -> list[FloatArray]:
        """See ``features.family.Family``."""
        raw = batch.raw[session_rows(scope)]
        known = raw[:, columns.SESSIONS] > 0
        step, times = raw[:, columns.STEP], batch.times
        fresh = known & (times - raw[:, columns.LAST] > scope.gap_s * 1000.0)
        last = np.where(known, log_seconds(times - raw[:, columns.LAST]), np.nan)
        since_start = np.where(known & ~fresh, times - raw[:, columns.START], 0.0)
        if batch.wants("last_kind") or batch.wants("last_kinds"):
            both = (hash_numbers(raw[:, k].astype(np.int64)) for k in (columns.KIND_1, columns.KIND_2))
            kind_1, kind_2 = both
            batch.provide("last_kind", kind_1)
            batch.provide("last_kinds", cross([kind_1, kind_2]))
        return [
            np.log1p(step) / 3.0,
            last,
            log_seconds(since_start),
            np.where(known, log_seconds(times - raw[:, columns.BEGAN]), 0.0),
            np.log1p(raw[:, columns.SESSIONS]) / 5.0,
            np.log1p(raw[:, columns.BEFORE] + step) / 5.0,
            np.log1p(since_start / 1000.0 / np.maximum(step, 1.0)) / 5.0,
        ]
