"""Which items of the shown list the user has touched before, and where they stand.

Touched: an action or a behaviour of this user was about the item. r is an impression's place. Features: is
touched; is the last touched, the one before; rank by recency and by number of touches as 1 / rank (0: not
touched); log(1 + touched in the list) and of those above; r minus the place of the last touched, of the last
clicked, of the highest and of the lowest touched, as sign(x) log(1 + |x|) / 3; r minus where the walk goes
next (the last touched place plus the step from the one before).

Works out the key columns ``touch_offset`` (r minus the last touched place, +-12 at most), ``touch_age``
(powers of two of seconds since the item's last touch), ``touches`` (0 to 4, 4 for more), ``touch_rank`` and
``touched`` (offset and rank together; the place where nothing of the list was touched), for running tables of
P(click): the strongest single feature of the trivago lists.

Source: RecSys Challenge 2019, LogicAI, PVZ and rn5l (offset to the last clicked place, recency ranks).
Ranges: +-2; unknown (no touched item in the list) is 0.
"""

from __future__ import annotations

import msgspec
import numpy as np

from features.compiled import kernel
from features.events import FloatArray
from features.families import session_rows as columns
from features.families.recency import recency_rows
from features.families.recency_rows import EACH
from features.families.session_rows import session_rows
from features.family import Feature
from features.hashing import cross, hash_numbers
from features.passes import Block, Pass
from features.scope import ANY, Scope

#: (name, lowest, highest)
COLUMNS = (
    ("is_touched", 0.0, 1.0),
    ("is_last", 0.0, 1.0),
    ("is_before_last", 0.0, 1.0),
    ("recency_rank", 0.0, 1.0),
    ("count_rank", 0.0, 1.0),
    ("in_list", 0.0, 5.0),
    ("above", 0.0, 5.0),
    ("to_last", -2.0, 2.0),
    ("to_clicked", -2.0, 2.0),
    ("to_highest", -2.0, 2.0),
    ("to_lowest", -2.0, 2.0),
    ("to_next", -2.0, 2.0),
)
MOST_OFFSET = 12
NO_OFFSET = 99


class Touched(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """``[[features.touched]]``: ``clicks`` is the kind of event that counts as a click."""

    clicks: str = "click"

    def kinds(self) -> tuple[str, ...]:
        """The click."""
        return (self.clicks,)

    def check(self, scope: Scope, where: str) -> None:
        """Nothing else can be wrong."""

    def provides(self) -> tuple[str, ...]:
        """Key columns that it works out."""
        return ("touch_offset", "touch_age", "touches", "touch_rank", "touched")

    def blocks(self, scope: Scope) -> tuple[Block, ...]:
        """The user's session and what is known of (user, item)."""
        return (session_rows(scope), self._rows(scope))

    def features(self, scope: Scope) -> tuple[Feature, ...]:
        """See the module."""
        return tuple(Feature(f"touched.{name}", low, high) for name, low, high in COLUMNS)

    def compute(self, batch: Pass, scope: Scope) -> list[FloatArray]:
        """See ``features.family.Family``."""
        raw, session = batch.raw[self._rows(scope)], batch.raw[session_rows(scope)]
        count, last, clicked = raw[:, 3], raw[:, 1], raw[:, len(EACH) + 1]
        out = np.full((batch.impressions, len(COLUMNS)), np.nan)
        offset = np.full(batch.impressions, NO_OFFSET, dtype=np.int64)
        lists = batch.lists
        _compute(lists.order, lists.starts, batch.places, count, last, raw[:, 2], clicked, out, offset)
        items = batch.shown(batch.keys["item_id"])
        for column, (high, low) in (
            (1, (columns.HIGH, columns.LOW)),
            (2, (columns.HIGH_2, columns.LOW_2)),
        ):
            joined = (session[:, high].astype(np.uint64) << np.uint64(32)) | session[:, low].astype(np.uint64)
            out[:, column] = (items == joined) & (items != 0)
        seconds = np.maximum(batch.times - last, 0.0) / 1000.0
        age = np.where(count > 0, np.floor(np.log2(1.0 + seconds)), 40.0).astype(np.int64)
        rank = np.where(count > 0, np.rint(1.0 / np.maximum(out[:, 3], 0.05)), 21.0).astype(np.int64)
        batch.provide("touch_offset", hash_numbers(offset))
        batch.provide("touch_age", hash_numbers(age))
        batch.provide("touches", hash_numbers(np.minimum(count, 4.0).astype(np.int64)))
        batch.provide("touch_rank", hash_numbers(rank))
        where = np.clip(batch.places, 0, 25).astype(np.int64)
        plain = np.where(offset == NO_OFFSET, 100 + where, offset)
        batch.provide("touched", cross([hash_numbers(plain), hash_numbers(np.minimum(rank, 4))]))
        out[:, 5:7] = np.log1p(out[:, 5:7])
        out[:, 7:] = _signed_log(out[:, 7:])
        return [out[:, k] for k in range(len(COLUMNS))]

    def _rows(self, scope: Scope) -> Block:
        return recency_rows(scope, ("user_id", "item_id"), (ANY, self.clicks))


def _signed_log(x: FloatArray) -> FloatArray:
    scaled: FloatArray = np.sign(x) * np.log1p(np.abs(x)) / 3.0
    return scaled


@kernel
def _compute(order, starts, places, count, last, step, clicked, out, offset):  # type: ignore[no-untyped-def]
    for k in range(len(starts) - 1):
        begin, end = starts[k], starts[k + 1]
        touched, newest, before, click = 0, -1, -1, -1
        highest, lowest = -1, -1
        for i in range(begin, end):
            a = order[i]
            if count[a] == 0.0:
                continue
            touched += 1
            if highest < 0:
                highest = a
            lowest = a
            if newest < 0 or last[a] > last[newest] or (last[a] == last[newest] and step[a] > step[newest]):
                before = newest
                newest = a
            elif before < 0 or last[a] > last[before] or (last[a] == last[before] and step[a] > step[before]):
                before = a
            if clicked[a] > 0.0 and (click < 0 or clicked[a] > clicked[click]):
                click = a
        above = 0
        for i in range(begin, end):
            a = order[i]
            out[a, 0] = 1.0 if count[a] > 0.0 else 0.0
            out[a, 3] = 0.0
            out[a, 4] = 0.0
            out[a, 5] = float(touched)
            out[a, 6] = float(above)
            if count[a] > 0.0:
                above += 1
                newer, more = 1, 1
                for j in range(begin, end):
                    b = order[j]
                    if count[b] > 0.0 and (last[b] > last[a] or (last[b] == last[a] and step[b] > step[a])):
                        newer += 1
                    if count[b] > count[a]:
                        more += 1
                out[a, 3] = 1.0 / newer
                out[a, 4] = 1.0 / more
            if newest >= 0:
                away = places[a] - places[newest]
                out[a, 7] = away
                offset[a] = int(min(max(away, -12.0), 12.0))
                out[a, 9] = places[a] - places[highest]
                out[a, 10] = places[a] - places[lowest]
            if click >= 0:
                out[a, 8] = places[a] - places[click]
            if before >= 0:
                out[a, 11] = places[a] - (2.0 * places[newest] - places[before])
