"""The calendar once more, by Python's own datetime."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.unit.features.reference import Event, Reference

ENTRIES: dict[str, list[dict[str, Any]]] = {"calendar": [{}], "calendar.offset": [{"utc_offset_h": 5.5}]}


class CalendarReference(Reference):
    """Of the time at which the impression is read."""

    def one(self, event: Event, now: int) -> list[float]:
        local = datetime.fromtimestamp(now / 1000, UTC) + timedelta(hours=self.family.utc_offset_h)
        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
        angle = 2 * math.pi * ((local - midnight) / timedelta(days=1))
        weekend = 1.0 if local.strftime("%a") in ("Sat", "Sun") else 0.0
        return [math.sin(angle), math.cos(angle), weekend, local.day / 31]


REFERENCES = {"calendar": CalendarReference}
