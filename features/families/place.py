"""Where in lists clicks fall: the mean clicked place of a key beside this impression's place.

``(sum of (place + 1) of clicks + w * m) / (clicks + w) - (place + 1)``, as sign(x) log(1 + |x|) / 3; m is the
mean of everything, which starts at ``FIRST_MEAN``. With ``clicks = "impression"`` it is the usual place of a
key. ``share``: log of the place's share of all clicks over an even share; ``rate``: log of its click rate
over ``RATE``, the neighbours' with half its weight.

Source: RecSys Challenge 2019, rn5l (the mean clicked place of city and platform minus the place carries most
of the gain of 519 features). Ranges: +-2, and +-20 of the logs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from features.errors import FeaturesError
from features.events import FloatArray
from features.families.clicked_places import PLACES, RATE, RATE_WEIGHT, clicked_places
from features.families.count_rows import CountRows, Quantity, count_rows
from features.families.counts import EVERYTHING
from features.family import Feature
from features.passes import Block, Pass
from features.scope import IMPRESSION, Scope, check_columns

#: Mean clicked place (from 1 on) before there is any click, and what it weighs.
FIRST_MEAN, FIRST_WEIGHT = 4.0, 20.0
As = Literal["share", "rate"]
ALL: tuple[As, ...] = ("share", "rate")
#: Weights of an event in sums: its place, from 1 on, and 1 where that is known.
WEIGHT, PLACED = "place_from_1", "placed"


class Place(msgspec.Struct, forbid_unknown_fields=True, frozen=True, cache_hash=True):
    """``[[features.place]]``: ``by`` are keys, each a list of columns.

    ``half_life_s``: after so long a click counts half. ``smoothing``: clicks that the mean of everything
    is worth. ``clicks``: the kind of event whose places are counted. ``as``: what it gives beside.
    """

    DECLARED: ClassVar[str] = "place"

    by: tuple[tuple[str, ...], ...] = ((EVERYTHING,), ("user_id",), ("item_id",))
    half_life_s: Annotated[float, msgspec.Meta(gt=0.0, le=1e9)] = 604_800.0
    smoothing: Annotated[float, msgspec.Meta(gt=0.0, le=1e6)] = 3.0
    clicks: str = "click"
    take: tuple[As, ...] = msgspec.field(name="as", default=ALL)

    def kinds(self) -> tuple[str, ...]:
        """The click."""
        return (self.clicks,)

    def check(self, scope: Scope, where: str) -> None:
        """Raises ``FeaturesError``."""
        if self.clicks == IMPRESSION and self.take:
            raise FeaturesError(f"{where}.as: must be [] where impressions are no clicks")
        for number, keys in enumerate(self.by):
            check_columns(keys, scope, f"{where}.by[{number}]")

    def blocks(self, scope: Scope) -> tuple[Block, ...]:
        """Clicks and their places by each key, and of everything."""
        means = dict.fromkeys(self._rows(key, scope) for key in ((EVERYTHING,), *self.by))
        return (*means, *([clicked_places(scope, self.clicks)] if self.take else []))

    def features(self, scope: Scope) -> tuple[Feature, ...]:
        """One a key, then those of the place itself."""
        name = "place" if self.clicks == "click" else f"place.{self.clicks}"
        return (
            *(Feature(f"{name}.{'*'.join(keys)}", -2.0, 2.0) for keys in self.by),
            *(Feature(f"{name}.{what}", -20.0, 20.0) for what in self.take),
        )

    def compute(self, batch: Pass, scope: Scope) -> list[FloatArray]:
        """See ``features.family.Family``."""
        everything = self._read((EVERYTHING,), batch, scope)
        first = (everything[:, 0] + FIRST_WEIGHT * FIRST_MEAN) / (everything[:, 1] + FIRST_WEIGHT)
        away = np.empty((len(self.by), batch.impressions))
        for mean, key in zip(away, self.by, strict=True):
            if key == (EVERYTHING,):
                mean[:] = batch.spread(first)
                continue
            raw, alike = self._read(key, batch, scope), batch.shares(key)
            near = (raw[:, 0] + self.smoothing * (first if alike else batch.spread(first))) / (
                raw[:, 1] + self.smoothing
            )
            mean[:] = batch.spread(near) if alike else near
        away -= batch.places + 1.0
        out = list(np.sign(away) * np.log1p(np.abs(away)) / 3.0)
        if self.take:
            clicks, total, near, shown = batch.raw[clicked_places(scope, self.clicks)].T
            for what in self.take:
                if what == "share":
                    out.append(np.log((clicks + 1.0) / (total / PLACES + 1.0)))
                else:
                    out.append(np.log((near / RATE + RATE_WEIGHT) / (shown + RATE_WEIGHT)))
        return out

    def _rows(self, key: tuple[str, ...], scope: Scope) -> CountRows:
        clicks = scope.numbers(self.clicks)
        return count_rows(key, (Quantity(clicks, WEIGHT), Quantity(clicks, PLACED)), (self.half_life_s,))

    def _read(self, key: tuple[str, ...], batch: Pass, scope: Scope) -> FloatArray:
        """Sum of clicked places and number of clicks, (impressions or groups that share the key, 2)."""
        block = self._rows(key, scope)
        ran, raw = batch.read_alike(block)
        return raw[:, _columns(ran, block)]


@lru_cache(maxsize=1024)
def _columns(ran: CountRows, block: CountRows) -> npt.NDArray[np.int64]:
    return ran.columns(block.cells)
