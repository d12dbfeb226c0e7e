"""The items that are clicked most now, for the live page."""

from __future__ import annotations

import msgspec
import numpy as np

from features.events import FloatArray
from features.families.count_rows import HEAD, NEWEST, CountRows, Quantity
from features.plan import Plan, table_name
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
    landmark, clicks, impressions, half_life_s = found
    now = engine.done_until

    def decayed(rows: Values, column: int) -> FloatArray:
        # Where time has started over, rows of the pass before are as of their newest event.
        at = np.maximum(rows[:, landmark + NEWEST], now)
        grown: FloatArray = rows[:, column] * np.exp2((rows[:, landmark] - at) / (half_life_s * 1000.0))
        return grown

    keys, rows = engine.features.tables[table_name(ITEM)].top(lambda rows: decayed(rows, clicks), n)
    names = [engine.item_names.name(key) for key in keys.tolist()]
    figures = zip(names, decayed(rows, clicks).tolist(), decayed(rows, impressions).tolist(), strict=True)
    return [HotItem(*one) for one in figures], half_life_s


def _counts(plan: Plan) -> tuple[int, int, int, float] | None:
    """Columns of an item's row: its counts' landmark, clicks and impressions; and their half-life (s)."""
    click, shown = (Quantity(plan.scope.numbers(kind)) for kind in (CLICK, IMPRESSION))
    found = []
    for block, part in plan.rows_of(ITEM):
        if isinstance(block, CountRows):
            both = [h for quantity, h in block.cells if quantity == click and (shown, h) in block.cells]
            for h in both:
                first, second = (part.start + HEAD + block.cells.index((one, h)) for one in (click, shown))
                found.append((part.start, first, second, h))
    return min(found, key=lambda one: one[3], default=None)
