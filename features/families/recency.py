"""How long ago, how often and for how long: what a user did with this item before it is shown again.

Of each kind of event ``log(1 + seconds since the last) / 10``, ``log(1 + the user's steps since) / 3``,
``log(1 + times)``, and the times faded by the user's steps with half-lives of 4 and 20 steps (a "linearly
decayed" and a "reciprocal" touch count of the trivago solutions in one form). Of the pair also
``log(1 + seconds) / 5`` of all, of the longest and of the mean dwell after its events.

Source: RecSys Challenge 2019, solutions of LogicAI, Layer 6 and rn5l (recency and faded touches carry most of
their gain). Ranges: 0..5; unknown seconds and steps are 2.5 and 2, an item that was never touched.
"""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from features.errors import FeaturesError
from features.events import FloatArray
from features.families.recency_rows import DWELL, EACH, RecencyRows
from features.families.session_rows import session_rows
from features.family import Feature
from features.passes import Block, Pass
from features.scope import ANY, Scope, check_columns

As = Literal["seconds", "first_seconds", "steps", "count", "faded", "dwell"]
NEVER_SECONDS, NEVER_STEPS = 2.5, 2.0


class Recency(msgspec.Struct, forbid_unknown_fields=True, frozen=True, cache_hash=True):
    """``[[features.recency]]``: ``of`` kinds of events (``any``: every action and behaviour) of ``keys``.

    ``as``: what is told of each kind.
    """

    DECLARED: ClassVar[str] = "recency"

    keys: tuple[str, ...] = ("user_id", "item_id")
    of: tuple[str, ...] = (ANY, "click")
    take: tuple[As, ...] = msgspec.field(
        name="as", default=("seconds", "first_seconds", "steps", "count", "faded", "dwell")
    )

    def kinds(self) -> tuple[str, ...]:
        """The kinds that are looked for."""
        return self.of

    def check(self, scope: Scope, where: str) -> None:
        """Raises ``FeaturesError``."""
        check_columns(self.keys, scope, f"{where}.keys")
        if not self.of:
            raise FeaturesError(f"{where}.of: needs at least one kind of events")
        if "user_id" not in self.keys and "steps" in self.take:
            raise FeaturesError(f"{where}.as: steps are a user's, and the keys have no user_id")

    def blocks(self, scope: Scope) -> tuple[Block, ...]:
        """One block, after the user's session."""
        return (self.rows(scope),)

    def rows(self, scope: Scope) -> RecencyRows:
        """The block."""
        return recency_rows(scope, self.keys, self.of)

    def features(self, scope: Scope) -> tuple[Feature, ...]:
        """By kind, in the order of ``as``; dwell last."""
        name, found = "*".join(self.keys), []
        for kind in self.of:
            for what in self.take:
                if what == "seconds":
                    found.append(Feature(f"{name}.{kind}.seconds", 0.0, 5.0, NEVER_SECONDS))
                elif what == "first_seconds":
                    found.append(Feature(f"{name}.{kind}.first_seconds", 0.0, 5.0, NEVER_SECONDS))
                elif what == "steps":
                    found.append(Feature(f"{name}.{kind}.steps", 0.0, 5.0, NEVER_STEPS))
                elif what == "count":
                    found.append(Feature(f"{name}.{kind}.count", 0.0, 5.0))
                elif what == "faded":
                    found.append(Feature(f"{name}.{kind}.faded_4", 0.0, 10.0))
                    found.append(Feature(f"{name}.{kind}.faded_20", 0.0, 40.0))
        if "dwell" in self.take:
            found += [Feature(f"{name}.dwell", 0.0, 5.0), Feature(f"{name}.longest_dwell", 0.0, 5.0)]
            found.append(Feature(f"{name}.mean_dwell", 0.0, 5.0))
        return tuple(found)

    def compute(self, batch: Pass, scope: Scope) -> list[FloatArray]:
        """See ``features.family.Family``."""
        raw, out = batch.raw[self.rows(scope)], []
        step = batch.shown(batch.known["step"])
        for k in range(len(self.of)):
            first, last, at, count, short, long = (raw[:, len(EACH) * k + i] for i in range(len(EACH)))
            # Most impressions are of items that the user never touched.
            known = np.flatnonzero(count > 0)
            times = batch.times[known]
            for what in self.take:
                if what == "seconds":
                    out.append(_where(known, log_seconds(times - last[known]), len(raw)))
                elif what == "first_seconds":
                    out.append(_where(known, log_seconds(times - first[known]), len(raw)))
                elif what == "steps":
                    steps = np.maximum(step[known] - at[known], 0.0)
                    out.append(_where(known, np.log1p(steps) / 3.0, len(raw)))
                elif what == "count":
                    out.append(np.log1p(count))
                elif what == "faded":
                    out += [short, long]
        if "dwell" in self.take:
            dwell, longest, dwells = (raw[:, -len(DWELL) + k] for k in range(len(DWELL)))
            out += [np.log1p(x) / 5.0 for x in (dwell, longest, dwell / np.maximum(dwells, 1.0))]
        return out


def _where(known: npt.NDArray[np.intp], values: FloatArray, size: int) -> FloatArray:
    """``values`` at the places ``known``, NaN elsewhere."""
    column = np.full(size, np.nan)
    column[known] = values
    return column


@lru_cache(maxsize=1024)
def recency_rows(scope: Scope, keys: tuple[str, ...], of: tuple[str, ...]) -> RecencyRows:
    """The block for kinds of events by name."""
    groups = tuple(scope.numbers(kind) for kind in of)
    return RecencyRows(keys, groups, session_rows(scope))


def log_seconds(elapsed_ms: FloatArray) -> FloatArray:
    """``log(1 + seconds) / 10``: 0.7 after a quarter of an hour, 1.1 after a day."""
    scaled: FloatArray = np.log1p(np.maximum(elapsed_ms, 0.0) / 1000.0) / 10.0
    return scaled
