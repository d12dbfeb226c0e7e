"""When an impression is shown, on the calendar of the shop's own time.

With the local time t = UTC + ``utc_offset_h``: ``hour_sin`` and ``hour_cos``: sin and cos of 2 pi t / day, so
that midnight lies beside 23:59. ``weekend``: 1 on a Saturday or a Sunday. ``day_of_month``: the day, 1..31,
over 31, for what follows pay days.

Source: cyclic coding of the time of day, as in most click models. Ranges: -1..1, 0 or 1, 0..1.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np

from features.events import FloatArray
from features.family import Feature
from features.passes import Block, Pass
from features.scope import Scope

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
#: 1970-01-01 was a Thursday, the fourth day from Monday on.
FIRST_WEEKDAY, SATURDAY = 3, 5


class Calendar(msgspec.Struct, forbid_unknown_fields=True, frozen=True, cache_hash=True):
    """``[[features.calendar]]``: ``utc_offset_h`` is the shop's, in hours."""

    DECLARED: ClassVar[str] = "calendar"

    utc_offset_h: Annotated[float, msgspec.Meta(ge=-14.0, le=14.0)] = 0.0

    def kinds(self) -> tuple[str, ...]:
        """None: it asks for no event but the impression itself."""
        return ()

    def check(self, scope: Scope, where: str) -> None:
        """Nothing else can be wrong."""

    def blocks(self, scope: Scope) -> tuple[Block, ...]:
        """None: it keeps no rows."""
        return ()

    def features(self, scope: Scope) -> tuple[Feature, ...]:
        """See the module."""
        return (
            Feature("calendar.hour_sin", -1.0, 1.0),
            Feature("calendar.hour_cos", -1.0, 1.0),
            Feature("calendar.weekend", 0.0, 1.0),
            Feature("calendar.day_of_month", 0.0, 1.0),
        )

    def compute(self, batch: Pass, scope: Scope) -> list[FloatArray]:
        """See ``features.family.Family``."""
        local = batch.times + round(self.utc_offset_h * HOUR_MS)
        angle = (local % DAY_MS) * (2.0 * np.pi / DAY_MS)
        weekday = (local // DAY_MS + FIRST_WEEKDAY) % 7
        days = local.astype("datetime64[ms]").astype("datetime64[D]")
        day = (days - days.astype("datetime64[M]")).astype(np.int64) + 1
        return [np.sin(angle), np.cos(angle), (weekday >= SATURDAY).astype(np.float64), day / 31.0]
