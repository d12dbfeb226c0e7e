"""How fast an item sells, what is left, and when the sale begins.

With the stock s of the impression (or the item's last known one), S the most there ever was, and v units a
second (purchases, decayed over ``half_life_s``): ``sold``: 1 - s / S. ``speed``: log(1 + 1000 v) / 5.
``to_sold_out``: log(1 + s / (v + 1e-6)) / 10. ``few_left``: 1 where 0 < s <= ``few``; ``sold_out``: 1 where
s = 0. ``exposure``: log of the item's share of its category's impressions, (c + 1) / (C + 1). With
``features.sale_starts_at`` also ``to_start``: sign(x) log(1 + |x|) / 10 of the seconds x since it began.

Source: handcrafted real-time features of the sales of the eleventh of November. Ranges: 0..1 of ``sold``,
``few_left`` and ``sold_out``, -20..0 of the exposure, +-5 of the start, else 0..5; where the stock is unknown
0, and 2.5 until sold out.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np

from features.events import FloatArray
from features.families.count_rows import CountRows, Quantity, count_rows
from features.families.stock_rows import StockRows
from features.family import Feature
from features.passes import Block, Pass
from features.scope import IMPRESSION, Scope

_STOCK = StockRows()
UNKNOWN_SECONDS = 2.5


class Stock(msgspec.Struct, forbid_unknown_fields=True, frozen=True, cache_hash=True):
    """``[[features.stock]]``: ``sales`` is the kind of event that takes a unit.

    ``half_life_s``: after so long a sale counts half in the speed. ``few``: units that are few.
    """

    DECLARED: ClassVar[str] = "stock"

    half_life_s: Annotated[float, msgspec.Meta(gt=0.0, le=1e9)] = 60.0
    few: Annotated[float, msgspec.Meta(ge=0.0, le=1e9)] = 10.0
    sales: str = "purchase"

    def kinds(self) -> tuple[str, ...]:
        """The sale."""
        return (self.sales,)

    def check(self, scope: Scope, where: str) -> None:
        """Nothing else can be wrong."""

    def blocks(self, scope: Scope) -> tuple[Block, ...]:
        """The item's stock, its sales and impressions, its category's impressions."""
        return (_STOCK, self._item(scope), self._category(scope))

    def features(self, scope: Scope) -> tuple[Feature, ...]:
        """See the module."""
        found = (
            Feature("stock.sold", 0.0, 1.0),
            Feature("stock.speed", 0.0, 5.0),
            Feature("stock.to_sold_out", 0.0, 5.0, UNKNOWN_SECONDS),
            Feature("stock.few_left", 0.0, 1.0),
            Feature("stock.sold_out", 0.0, 1.0),
            Feature("stock.exposure", -20.0, 0.0),
        )
        return found if scope.sale_starts_at is None else (*found, Feature("stock.to_start", -5.0, 5.0))

    def compute(self, batch: Pass, scope: Scope) -> list[FloatArray]:
        """See ``features.family.Family``."""
        most, left, known_at = batch.raw[_STOCK].T
        known = known_at > 0
        shown, sold = Quantity(scope.numbers(IMPRESSION)), Quantity(scope.numbers(self.sales))
        sales, seen = self._sum(batch, self._item(scope), sold), self._sum(batch, self._item(scope), shown)
        of_all = self._sum(batch, self._category(scope), shown)
        categorised = batch.shown(batch.keys["category_id"]) > 0
        speed = sales * (np.log(2.0) / self.half_life_s)
        out: list[FloatArray] = [
            np.where(known & (most > 0), 1.0 - left / most, np.nan),
            np.log1p(1000.0 * speed) / 5.0,
            np.where(known, np.log1p(left / (speed + 1e-6)) / 10.0, np.nan),
            (known & (left > 0) & (left <= self.few)).astype(np.float64),
            (known & (left <= 0)).astype(np.float64),
            np.where(categorised, np.log((seen + 1.0) / (of_all + 1.0)), np.nan),
        ]
        if scope.sale_starts_at is not None:
            seconds = (batch.times - scope.sale_starts_at) / 1000.0
            out.append(np.sign(seconds) * np.log1p(np.abs(seconds)) / 10.0)
        return out

    def _item(self, scope: Scope) -> CountRows:
        quantities = (Quantity(scope.numbers(IMPRESSION)), Quantity(scope.numbers(self.sales)))
        return count_rows(("item_id",), quantities, (self.half_life_s,))

    def _category(self, scope: Scope) -> CountRows:
        return count_rows(("category_id",), (Quantity(scope.numbers(IMPRESSION)),), (self.half_life_s,))

    def _sum(self, batch: Pass, block: CountRows, quantity: Quantity) -> FloatArray:
        ran, raw = batch.read(block)
        total: FloatArray = raw[:, ran.columns([(quantity, self.half_life_s)])[0]]
        return total
