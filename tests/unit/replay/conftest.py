"""Small canonical frames for tests of the recorded log, through the fixture ``make``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest

from replay.columns import conform
from replay.log import LogInfo, summarise

T0 = 1_700_000_000_000


class MemoryLog:
    """A recorded log over one frame."""

    def __init__(self, table: pl.DataFrame, name: str) -> None:
        self.name = name
        self.table = table

    def info(self) -> LogInfo:
        return summarise(self)

    def chunks(self, rows: int = 65_536) -> Iterator[pl.DataFrame]:
        yield from self.table.iter_slices(rows)


class Make:
    """Rows, frames and logs; times in ms after ``t0``."""

    t0 = T0

    def impression(self, k: int, ms: int, **fields: Any) -> dict[str, Any]:
        base = {"event": "impression", "event_time": T0 + ms, "impression_id": f"i{k}"}
        return {**base, "user_id": f"u{k}", "item_id": f"x{k}", **fields}

    def action(self, k: int, ms: int, name: str = "click", **fields: Any) -> dict[str, Any]:
        base = {"event": "action", "event_time": T0 + ms, "impression_id": f"i{k}"}
        return {**base, "user_id": f"u{k}", "item_id": f"x{k}", "action": name, **fields}

    def behaviour(self, k: int, ms: int, kind: str = "look", **fields: Any) -> dict[str, Any]:
        base = {"event": "behaviour", "event_time": T0 + ms, "user_id": f"u{k}", "type": kind}
        return {**base, "item_id": f"x{k}", **fields}

    def frame(self, *rows: dict[str, Any]) -> pl.DataFrame:
        return conform(pl.DataFrame(list(rows), infer_schema_length=None))

    def log(self, *rows: dict[str, Any], name: str = "memory") -> MemoryLog:
        return MemoryLog(self.frame(*rows), name)

    def steady(self, count: int, gap_ms: int = 100) -> MemoryLog:
        """``count`` impressions ``gap_ms`` apart, every tenth clicked half a gap later."""
        rows = []
        for k in range(count):
            rows.append(self.impression(k, k * gap_ms))
            if k % 10 == 0:
                rows.append(self.action(k, k * gap_ms + gap_ms // 2))
        return self.log(*rows, name="steady")

    def events(self, table: pl.DataFrame) -> list[tuple[int, str, str]]:
        """(ms after ``t0``, impression id, or the item of a behaviour, what) of each row."""
        columns = ("event_time", pl.coalesce("impression_id", "item_id"), pl.coalesce("action", "type"))
        return [(time - T0, name, kind or "shown") for time, name, kind in table.select(columns).iter_rows()]


@pytest.fixture(scope="session")
def make() -> Make:
    return Make()
