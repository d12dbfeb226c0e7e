"""The price beside what it was and beside what this user pays.

``log``: log(1 + price) / 10. ``cut``: log(1 + price) minus that of the item's first price (a cut is
negative). ``over_usual``: minus the item's slow mean. ``over_touched``, ``over_clicked``: minus the mean of
what this user touched and clicked (half-life ``half_life_s``); ``over_last_clicked`` as over_clicked, with
the short memory ``short_half_life_s``. Works out the key column ``price_band`` (half powers of two).

Source: RecSys Challenge 2019 solutions (price beside the prices that this session clicked). Ranges: log 0..5,
the others +-20; unknown is 0.
"""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from features.events import FloatArray
from features.families.count_rows import CountRows, HalfLife, Quantity, count_rows
from features.families.price_rows import PriceRows
from features.family import Feature
from features.hashing import hash_numbers
from features.passes import Block, Pass
from features.scope import ANY, IMPRESSION, Scope

NAMES = ("log", "cut", "over_usual", "over_touched", "over_clicked", "over_last_clicked")
_PRICES = PriceRows()
#: A decayed number of prices below which their mean is unknown.
FEWEST = 1e-3
WEIGHT, PRICED = "item_log_price", "item_priced"


class Price(msgspec.Struct, forbid_unknown_fields=True, frozen=True, cache_hash=True):
    """``[[features.price]]``: half-lives of what a user pays, and of what an item usually costs.

    ``half_life_s``: of what a user touched and clicked. ``short_half_life_s``: of what was clicked just now.
    ``usual_half_life_s``: of what an item usually costs. ``clicks``: the kind of event that shows
    what a user pays.
    """

    DECLARED: ClassVar[str] = "price"

    half_life_s: HalfLife = 86_400.0
    short_half_life_s: HalfLife = 600.0
    usual_half_life_s: HalfLife = 604_800.0
    clicks: str = "click"

    def kinds(self) -> tuple[str, ...]:
        """The click."""
        return (self.clicks,)

    def check(self, scope: Scope, where: str) -> None:
        """Nothing can be wrong."""

    def provides(self) -> tuple[str, ...]:
        """Key columns that it works out."""
        return ("price_band",)

    def blocks(self, scope: Scope) -> tuple[Block, ...]:
        """The item's prices, and decayed sums of log prices."""
        return (_PRICES, self._usual(scope), self._user(scope))

    def features(self, scope: Scope) -> tuple[Feature, ...]:
        """See the module."""
        return (
            Feature("price.log", 0.0, 5.0),
            *(Feature(f"price.{name}", -20.0, 20.0) for name in NAMES[1:]),
        )

    def compute(self, batch: Pass, scope: Scope) -> FloatArray:
        """See ``features.family.Family``."""
        own = batch.shown(batch.known[WEIGHT])
        rows = batch.raw[_PRICES]
        seen = rows[:, 2] > 0
        if batch.wants("price_band"):
            band = np.where(np.isnan(own), -1.0, np.floor(own / np.log(2.0) * 2.0)).astype(np.int64)
            batch.provide("price_band", hash_numbers(band))
        touched, clicked = scope.numbers(ANY), scope.numbers(self.clicks)

        out = np.empty((len(NAMES), batch.impressions))
        out[0] = own / 10.0
        out[1] = np.where(seen, own - rows[:, 0], np.nan)
        ran, raw = batch.read(self._usual(scope))
        out[2] = own - _mean(raw, *_columns(ran, scope.numbers(IMPRESSION), self.usual_half_life_s))
        ran, raw = batch.read_alike(self._user(scope))
        paid = [
            _mean(raw, *_columns(ran, kinds, half_life_s))
            for kinds, half_life_s in (
                (touched, self.half_life_s),
                (clicked, self.half_life_s),
                (clicked, self.short_half_life_s),
            )
        ]
        np.subtract(own, batch.spread(np.array(paid)), out=out[3:])
        return out

    def _usual(self, scope: Scope) -> CountRows:
        shown = scope.numbers(IMPRESSION)
        quantities = (Quantity(shown, WEIGHT), Quantity(shown, PRICED))
        return count_rows(("item_id",), quantities, (self.usual_half_life_s,), (_PRICES,))

    def _user(self, scope: Scope) -> CountRows:
        quantities = tuple(
            Quantity(scope.numbers(kind), weight)
            for weight in (WEIGHT, PRICED)
            for kind in (ANY, self.clicks)
        )
        return count_rows(("user_id",), quantities, (self.short_half_life_s, self.half_life_s), (_PRICES,))


@lru_cache(maxsize=4096)
def _columns(ran: CountRows, kinds: tuple[int, ...], half_life_s: float) -> npt.NDArray[np.int64]:
    """Where the sum and the number of prices are read."""
    return ran.columns((Quantity(kinds, weight), half_life_s) for weight in (WEIGHT, PRICED))


def _mean(raw: FloatArray, total: int, number: int) -> FloatArray:
    """The mean price of each row, NaN where there are too few."""
    prices = raw[:, number]
    mean: FloatArray = raw[:, total] / np.where(prices >= FEWEST, prices, np.nan)
    return mean
