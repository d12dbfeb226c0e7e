"""Clicks and impressions by their place in lists: what a place is worth before any item is known.

Works out of every impression, when its list is read: ``expected``, the click rate of its place, so that
clicks over expected clicks show a good item low in lists; and ``examined``, the share of clicks that fall at
its place or below, so that what nobody scrolled to hardly counts as seen.

Source: clicks over expected clicks, Zhang and Jones, "Comparing click logs and editorial labels" (WSCD 2007);
examination from the top down as in the cascade model, Craswell and others (WSDM 2008).
"""

from __future__ import annotations

import numpy as np

from features.compiled import kernel
from features.events import IMPRESSION, FloatArray
from features.families.count_rows import RESCALE
from features.passes import Pass, RowBlock, empty_reads
from features.powers import power_of_two
from features.rows import Slots, Values
from features.scope import Scope

#: Places that are told apart; what lies below shares the last one.
PLACES = 32
HALF_LIFE_S = 86_400.0
#: A place's click rate before anything was seen, its weight in impressions; clicks that say all is examined.
RATE, RATE_WEIGHT, EXAMINED_WEIGHT = 0.02, 50.0, 10.0
HEAD = 2
#: Clicks at the place and of all places; clicks and impressions of the place and, by half, its neighbours.
READS = ("clicks", "all_clicks", "near_clicks", "near_shown")


class ClickedPlaces(RowBlock, frozen=True, cache_hash=True):
    """One row: clicks of these kinds and impressions by place, decayed; times as in ``count_rows``."""

    clicks: tuple[int, ...]
    key: tuple[str, ...] = ("everything",)

    @property
    def width(self) -> int:
        """Numbers in a row: landmark and newest event (ms), clicks by place, impressions by place."""
        return HEAD + 2 * PLACES

    @property
    def reads(self) -> int:
        """Numbers read an impression."""
        return len(READS)

    def kinds(self) -> tuple[int, ...]:
        """Clicks and impressions."""
        return (IMPRESSION, *self.clicks)

    def merge(self, rows: Values) -> Values:
        """Counts of several workers add, brought to the newest landmark."""
        merged: Values = rows.max(axis=-2)  # of landmark and newest event
        since = (rows[..., :1] - merged[..., None, :1]) / (HALF_LIFE_S * 1000.0)
        merged[..., HEAD:] = (rows[..., HEAD:] * 2.0**since).sum(axis=-2)
        return merged

    def run(self, batch: Pass, rows: Values, *slots: Slots) -> FloatArray:
        """What is known of each impression's place."""
        out = empty_reads(batch, self)
        events, reads = batch.events, batch.reads
        expected, examined = np.full(len(events), RATE), np.ones(len(events))
        clicks = np.zeros(1 + max(self.clicks), dtype=np.bool_)
        clicks[list(self.clicks)] = True
        _run(
            reads.steps, reads.at, events.kinds, events.times, reads.times, batch.known["place_from_1"],
            clicks, rows, slots[0], out, expected, examined,
        )  # fmt: skip
        batch.known |= {"expected": expected, "examined": examined}
        return out


def clicked_places(scope: Scope, clicks: str) -> ClickedPlaces:
    """The block as a scope has it."""
    return ClickedPlaces(scope.numbers(clicks))


@kernel
def _run(  # type: ignore[no-untyped-def]
    steps, at, kinds, times, read_times, place, clicks, rows, slots, out, expected, examined
):
    rate = 1.0 / (HALF_LIFE_S * 1000.0)
    for step in steps:
        e = step if step >= 0 else ~step
        slot = slots[e]
        if slot < 0 or place[e] != place[e]:
            continue
        row = rows[slot]
        where = min(int(place[e]), PLACES) - 1
        if step < 0:
            faded = power_of_two((row[0] - max(float(read_times[e]), row[1])) * rate)
            below, total = 0.0, 0.0
            for p in range(PLACES):
                total += row[HEAD + p]
                if p >= where:
                    below += row[HEAD + p]
            above, under = max(where - 1, 0), min(where + 1, PLACES - 1)
            clicked, shown = HEAD, HEAD + PLACES
            a = at[e]
            out[a, 0] = row[clicked + where] * faded
            out[a, 1] = total * faded
            out[a, 2] = faded * (
                0.5 * row[clicked + where] + 0.25 * row[clicked + above] + 0.25 * row[clicked + under]
            )
            out[a, 3] = faded * (
                0.5 * row[shown + where] + 0.25 * row[shown + above] + 0.25 * row[shown + under]
            )
            expected[e] = (row[clicked + where] * faded + RATE_WEIGHT * RATE) / (
                row[shown + where] * faded + RATE_WEIGHT
            )
            examined[e] = (below * faded + EXAMINED_WEIGHT) / (total * faded + EXAMINED_WEIGHT)
            continue
        kind = kinds[e]
        if kind < 0 or (kind != IMPRESSION and (kind >= len(clicks) or not clicks[kind])):
            continue
        now = max(float(times[e]), row[1])
        if (now - row[0]) * rate > RESCALE:
            faded = power_of_two((row[0] - now) * rate)
            for c in range(2 * PLACES):
                row[HEAD + c] *= faded
            row[0] = now
        row[1] = now
        first = HEAD if kind != IMPRESSION else HEAD + PLACES
        row[first + where] += power_of_two((now - row[0]) * rate)
