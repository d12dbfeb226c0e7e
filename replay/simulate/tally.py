"""Running counts of what was generated: a few numbers and one array over items, however long the stream."""

from __future__ import annotations

import numpy as np

from replay.simulate.config import Double11Config
from replay.simulate.delays import WITHIN_S
from replay.simulate.pending import ORDER
from replay.simulate.shown import Shown
from replay.simulate.world import Response, World

#: Rows of the before/after counts.
BEFORE, AFTER = 0, 1


class Tally:
    """Counts of one stream; clicks and purchases of people are by the time of the impression."""

    def __init__(self, config: Double11Config) -> None:
        self._config = config
        self.events = np.zeros(len(ORDER), dtype=np.int64)
        self.shown_by_item = np.zeros(config.items, dtype=np.int64)
        self.minutes = np.zeros(int(np.ceil(config.night_h * 60.0)), dtype=np.int64)
        self.shown = np.zeros(2, dtype=np.int64)
        self.people_shown = np.zeros(2, dtype=np.int64)
        self.people_clicks = np.zeros(2, dtype=np.int64)
        self.people_orders = np.zeros(2, dtype=np.int64)
        self.segments: dict[str, int] = dict.fromkeys(
            ("hot", "sold_out", "bot", "new_item", "shifted", "intent"), 0
        )
        self.expected_clicks = 0.0
        self.conversions = 0
        self.conversions_soon = 0
        self.too_late = 0
        self.unseen = 0
        self.refused = 0
        self.revenue = 0.0
        self.refunded = 0.0

    def drawn(self, kind: str, wait_s: np.ndarray) -> None:
        """Count conversions by their delay in seconds of the night, before anything is cut off."""
        if kind == "purchase":
            self.conversions += wait_s.size
            self.conversions_soon += int((wait_s <= WITHIN_S).sum())

    def add(
        self,
        world: World,
        shown: Shown,
        response: Response,
        p_purchase: np.ndarray,
        truth: dict[str, np.ndarray],
        done: np.ndarray,
    ) -> None:
        """Count one block."""
        config = self._config
        half = world.sale(shown.t).astype(np.int64)
        person = ~truth["bot"]
        self.events[0] += shown.serial.size
        self.events += np.bincount(done["kind"], minlength=len(ORDER))
        self.shown_by_item += np.bincount(shown.item, minlength=config.items)
        minute = np.minimum((shown.t * config.speed / 60.0).astype(np.int64), self.minutes.size - 1)
        if minute.size:
            counted = np.bincount(minute - minute[0])
            self.minutes[minute[0] : minute[0] + counted.size] += counted
        self.shown += np.bincount(half, minlength=2)
        self.people_shown += np.bincount(half[person], minlength=2)
        self.people_clicks += np.bincount(half[person & response.clicked], minlength=2)
        self.people_orders += np.bincount(half[response.later["purchase"][0]], minlength=2)
        self.expected_clicks += float(response.p_click.sum())
        for name in self.segments:
            self.segments[name] += int(truth[name].sum())
        self.revenue += float(done["value"][done["kind"] == ORDER.index("purchase")].sum())
        self.refunded += float(done["value"][done["kind"] == ORDER.index("refund")].sum())
