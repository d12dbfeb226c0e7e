"""The user's session as of the impression: how far it is, when it was last alive, what was done last.

``step``: log(1 + steps of the session) / 3. ``seconds_since_last``, ``seconds_since_start``,
``seconds_known``: log(1 + seconds) / 10. ``sessions``, ``steps``: log(1 + number) / 5 of all time. ``pace``:
log(1 + seconds a step) / 5. Works out the key columns ``last_kind`` (the kind of the session's last event)
and ``last_kinds`` (of the last two), for counts that ask what comes after what.

Source: RecSys Challenge 2019 solutions (session length, step, last actions). Ranges: 0..5.
"""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import msgspec
import numpy as np

from features.events import FloatArray
from features.families import session_rows as columns
from features.families.session_rows import session_rows
from features.family import Feature
from features.hashing import cross, hash_numbers
from features.passes import Block, Pass
from features.scope import Scope

As = Literal[
    "step", "seconds_since_last", "seconds_since_start", "seconds_known", "sessions", "steps", "pace"
]
NAMES: tuple[As, ...] = get_args(As)
SCALES = np.array([[3.0], [10.0], [10.0], [10.0], [5.0], [5.0], [5.0]])


class Session(msgspec.Struct, forbid_unknown_fields=True, frozen=True, cache_hash=True):
    """``[[features.session]]``; the scenario's ``features.session_gap_s`` says where a session ends.

    ``as``: the features that it gives.
    """

    DECLARED: ClassVar[str] = "session"

    take: tuple[As, ...] = msgspec.field(name="as", default=NAMES)

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
        return tuple(Feature(f"session.{name}", 0.0, 5.0) for name in self.take)

    def compute(self, batch: Pass, scope: Scope) -> FloatArray:
        """See ``features.family.Family``."""
        every, heads = batch.raw[session_rows(scope)], batch.alike.heads
        # What a user's session is, impressions that are alike are told alike.
        raw, times = every[heads], batch.times[heads]
        known = raw[:, columns.SESSIONS] > 0
        step, since_last = raw[:, columns.STEP], times - raw[:, columns.LAST]
        going_on = known & (since_last <= scope.gap_s * 1000.0)
        since_start = np.where(going_on, np.maximum(times - raw[:, columns.START], 0.0), 0.0) / 1000.0
        numbers = np.empty((len(NAMES), len(heads)))
        numbers[0] = step
        numbers[1] = np.where(known, np.maximum(since_last, 0.0) / 1000.0, np.nan)
        numbers[2] = since_start
        numbers[3] = np.where(known, np.maximum(times - raw[:, columns.BEGAN], 0.0) / 1000.0, 0.0)
        numbers[4] = raw[:, columns.SESSIONS]
        numbers[5] = raw[:, columns.BEFORE] + step
        numbers[6] = since_start / np.maximum(step, 1.0)
        self._provide(batch, every)
        told = np.log1p(numbers) / SCALES
        if self.take != NAMES:
            told = told[[NAMES.index(name) for name in self.take]]
        return batch.spread(told)

    @staticmethod
    def _provide(batch: Pass, raw: FloatArray) -> None:
        """Work out the key columns that something asks for."""
        if batch.wants("last_kind") or batch.wants("last_kinds"):
            last, before = (
                hash_numbers(raw[:, column].astype(np.int64)) for column in (columns.KIND_1, columns.KIND_2)
            )
            batch.provide("last_kind", last)
            batch.provide("last_kinds", cross([last, before]))
