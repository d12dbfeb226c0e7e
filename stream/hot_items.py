"""The items that are clicked most now, for the live page."""

from __future__ import annotations

import msgspec
import numpy as np

from features.events import FloatArray
from features.families.count_rows import HEAD, CountRows, Quantity
from features.plan import Plan
from features.rows import Values
from features.scope import IMPRESSION
from stream.engine import Engine

CLICK = "click"
ITEM = ("item_id",)


class HotItem(msgspec.Struct):
    """An item and its decayed clicks and impressions at the shortest half-life."""

    item: str
    clicks: float
    impressions: float


def hottest(engine: Engine, n: int) -> tuple[list[HotItem], float]:
    """The ``n`` items in memory with most clicks, and the half-life (s) that these are counted with.

    None where the plan does not count clicks and impressions of items.
    """
    found = _counts(engine.plan)
    if found is None:
        return [], 0.0
    block, part = found
    clicks, impressions = (
        part.start + HEAD + block.index(Quantity(engine.plan.scope.numbers(kind)), 0)
        for kind in (CLICK, IMPRESSION)
    )
    now, half_life_s = engine.done_until, block.half_lives_s[0]

    def decayed(rows: Values, column: int) -> FloatArray:
        grown: FloatArray = rows[:, column] * np.exp2((rows[:, part.start] - now) / (half_life_s * 1000.0))
        return grown

    keys, rows = engine.features.tables[ITEM[0]].top(lambda rows: decayed(rows, clicks), n)
    names = [engine.item_names.name(key) for key in keys.tolist()]
    figures = zip(names, decayed(rows, clicks).tolist(), decayed(rows, impressions).tolist(), strict=True)
    return [HotItem(*one) for one in figures], half_life_s


def _counts(plan: Plan) -> tuple[CountRows, slice] | None:
    """The block of items' counts with the shortest half-life that has clicks and impressions."""
    wanted = {Quantity(plan.scope.numbers(kind)) for kind in (CLICK, IMPRESSION)}
    fitting = [
        (block, part)
        for block, part in plan.rows_of(ITEM)
        if isinstance(block, CountRows) and wanted <= set(block.quantities)
    ]
    return min(fitting, key=lambda one: one[0].half_lives_s[0], default=None)
