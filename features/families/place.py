"""Where in lists clicks fall: the mean clicked place of a key beside this impression's place.

``(sum of (place + 1) of clicks + w * m) / (clicks + w) - (place + 1)``, as sign(x) log(1 + |x|) / 3; m is the
mean of everything, which starts at ``FIRST_MEAN``.

Source: RecSys Challenge 2019, rn5l (the mean clicked place of city and platform minus the place carries most
of the gain of 519 features). Range: +-2.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from features.events import FloatArray
from features.families.count_rows import CountRows, Quantity, count_rows
from features.families.counts import EVERYTHING
from features.family import Feature
from features.passes import Block, Pass
from features.scope import Scope, check_columns

#: Mean clicked place (from 1 on) before there is any click, and what it weighs.
FIRST_MEAN, FIRST_WEIGHT = 4.0, 20.0
#: The weight of an event in a sum of places: its place, from 1 on.
WEIGHT = "place_from_1"


class Place(msgspec.Struct, forbid_unknown_fields=True, frozen=True, cache_hash=True):
    """``[[features.place]]``: ``by`` are keys, each a list of columns."""

    DECLARED: ClassVar[str] = "place"

    by: tuple[tuple[str, ...], ...] = ((EVERYTHING,), ("user_id",), ("item_id",))
    half_life_s: Annotated[float, msgspec.Meta(gt=0.0, le=1e9)] = 604_800.0
    smoothing: Annotated[float, msgspec.Meta(gt=0.0, le=1e6)] = 3.0
    clicks: str = "click"

    def kinds(self) -> tuple[str, ...]:
        """The click."""
        return (self.clicks,)

    def check(self, scope: Scope, where: str) -> None:
        """Raises ``FeaturesError``."""
        for number, keys in enumerate(self.by):
            check_columns(keys, scope, f"{where}.by[{number}]")

    def blocks(self, scope: Scope) -> tuple[Block, ...]:
        """Clicks and their places by each key, and of everything."""
        return tuple(dict.fromkeys(self._rows(key, scope) for key in ((EVERYTHING,), *self.by)))

    def features(self, scope: Scope) -> tuple[Feature, ...]:
        """One a key."""
        return tuple(Feature(f"place.{'*'.join(keys)}", -2.0, 2.0) for keys in self.by)

    def compute(self, batch: Pass, scope: Scope) -> list[FloatArray]:
        """See ``features.family.Family``."""
        own = batch.places + 1.0
        everything = self._read((EVERYTHING,), batch, scope)
        first = (everything[:, 0] + FIRST_WEIGHT * FIRST_MEAN) / (everything[:, 1] + FIRST_WEIGHT)
        out = []
        for key in self.by:
            raw = self._read(key, batch, scope)
            mean = first
            if key != (EVERYTHING,):
                mean = (raw[:, 0] + self.smoothing * first) / (raw[:, 1] + self.smoothing)
            away = mean - own
            out.append(np.sign(away) * np.log1p(np.abs(away)) / 3.0)
        return out

    def _rows(self, key: tuple[str, ...], scope: Scope) -> CountRows:
        return _rows(key, scope.numbers(self.clicks), self.half_life_s)

    def _read(self, key: tuple[str, ...], batch: Pass, scope: Scope) -> FloatArray:
        """Sum of clicked places and number of clicks, (impressions, 2)."""
        block = self._rows(key, scope)
        ran, raw = batch.read(block)
        return raw[:, _columns(ran, block)]


@lru_cache(maxsize=1024)
def _rows(key: tuple[str, ...], clicks: tuple[int, ...], half_life_s: float) -> CountRows:
    return count_rows(key, (Quantity(clicks, WEIGHT), Quantity(clicks)), (half_life_s,))


@lru_cache(maxsize=1024)
def _columns(ran: CountRows, block: CountRows) -> npt.NDArray[np.int64]:
    return ran.columns(block.cells)
