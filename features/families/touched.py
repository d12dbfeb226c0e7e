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

from typing import ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

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
MOST_OFFSET = 12.0
#: log(1 + k): the largest place is 32,767, and a walk may lead twice as far beside it.
_LOGS = np.log1p(np.arange(4 * 32_768))
#: Of an impression in whose list nothing was touched, or that was not touched itself.
NO_OFFSET, NO_AGE, NO_RANK = 99, 40, 21


class Touched(msgspec.Struct, forbid_unknown_fields=True, frozen=True, cache_hash=True):
    """``[[features.touched]]``: ``clicks`` is the kind of event that counts as a click."""

    DECLARED: ClassVar[str] = "touched"

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

    def compute(self, batch: Pass, scope: Scope) -> FloatArray:
        """See ``features.family.Family``."""
        raw, session = batch.raw[self._rows(scope)], batch.raw[session_rows(scope)]
        count, last, clicked = raw[:, 3], raw[:, 1], raw[:, len(EACH) + 1]
        out = np.full((len(COLUMNS), batch.impressions), np.nan)
        offset = np.full(batch.impressions, NO_OFFSET, dtype=np.int64)
        lists = batch.lists
        _compute(
            lists.order, lists.starts, batch.places, count, last, raw[:, 2], clicked, _LOGS, out, offset
        )  # fmt: skip
        items = batch.shown(batch.keys["item_id"])
        session = session[batch.alike.heads]
        for column, (high, low) in (
            (1, (columns.HIGH, columns.LOW)),
            (2, (columns.HIGH_2, columns.LOW_2)),
        ):
            joined = (session[:, high].astype(np.uint64) << np.uint64(32)) | session[:, low].astype(np.uint64)
            out[column] = (items == batch.spread(joined)) & (items != 0)
        self._provide(batch, count, last, out[3], offset)
        return out

    @staticmethod
    def _provide(
        batch: Pass, count: FloatArray, last: FloatArray, rank: FloatArray, offset: npt.NDArray[np.int64]
    ) -> None:
        """Work out the key columns that something asks for."""
        # Most impressions were never touched: all but these have the neutral value.
        seen = np.flatnonzero(count > 0)

        def of_touched(values: FloatArray, else_: int) -> npt.NDArray[np.int64]:
            column = np.full(len(count), else_, dtype=np.int64)
            column[seen] = values
            return column

        if batch.wants("touch_offset"):
            batch.provide("touch_offset", hash_numbers(offset))
        if batch.wants("touch_age"):
            seconds = np.maximum(batch.times[seen] - last[seen], 0.0) / 1000.0
            batch.provide("touch_age", hash_numbers(of_touched(np.floor(np.log2(1.0 + seconds)), NO_AGE)))
        if batch.wants("touches"):
            batch.provide("touches", hash_numbers(of_touched(np.minimum(count[seen], 4.0), 0)))
        if not (batch.wants("touch_rank") or batch.wants("touched")):
            return
        ranks = of_touched(np.rint(1.0 / np.maximum(rank[seen], 0.05)), NO_RANK)
        if batch.wants("touch_rank"):
            batch.provide("touch_rank", hash_numbers(ranks))
        if batch.wants("touched"):
            where = NO_OFFSET + 1 + np.minimum(batch.places, 25.0).astype(np.int64)
            either = np.where(offset == NO_OFFSET, where, offset)
            batch.provide("touched", cross([hash_numbers(either), hash_numbers(np.minimum(ranks, 4))]))

    def _rows(self, scope: Scope) -> Block:
        return recency_rows(scope, ("user_id", "item_id"), (ANY, self.clicks))


@kernel
def _signed_log(x, logs):  # type: ignore[no-untyped-def]
    # Places are whole numbers; what a producer may write at most is in the contract.
    near = min(int(abs(x)), len(logs) - 1)
    return logs[near] / 3.0 if x >= 0.0 else -logs[near] / 3.0


@kernel
def _compute(order, starts, places, count, last, step, clicked, logs, out, offset):  # type: ignore[no-untyped-def]
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
            out[0, a] = 1.0 if count[a] > 0.0 else 0.0
            out[3, a] = 0.0
            out[4, a] = 0.0
            out[5, a] = logs[touched]
            out[6, a] = logs[above]
            if count[a] > 0.0:
                above += 1
                newer, more = 1, 1
                for j in range(begin, end):
                    b = order[j]
                    if count[b] > 0.0 and (last[b] > last[a] or (last[b] == last[a] and step[b] > step[a])):
                        newer += 1
                    if count[b] > count[a]:
                        more += 1
                out[3, a] = 1.0 / newer
                out[4, a] = 1.0 / more
            if newest >= 0:
                away = places[a] - places[newest]
                out[7, a] = _signed_log(away, logs)
                offset[a] = int(min(max(away, -MOST_OFFSET), MOST_OFFSET))
                out[9, a] = _signed_log(places[a] - places[highest], logs)
                out[10, a] = _signed_log(places[a] - places[lowest], logs)
            if click >= 0:
                out[8, a] = _signed_log(places[a] - places[click], logs)
            if before >= 0:
                out[11, a] = _signed_log(places[a] - (2.0 * places[newest] - places[before]), logs)
