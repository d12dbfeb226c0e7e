"""A number over the impressions of one list: how this one compares with the others that are shown beside it.

``rank``: share of the list that is smaller (ties half), 0..1. ``log_over_mean``, ``log_over_least``:
log((1 + x) / (1 + mean or least of the list)). ``gap_above``, ``gap_below``: log((1 + x) / (1 + the
neighbour's)). ``size``: log(1 + impressions in the list) / 5. Impressions whose number is unknown are left
out of the others' figures. A feature x of another entry, a logarithm mostly, counts as exp(x) - 1.

Source: RecSys Challenge 2019 solutions (price rank and price beside its neighbours). Ranges: +-20.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec
import numpy as np

from features.compiled import kernel
from features.errors import FeaturesError
from features.events import FloatArray, IntArray
from features.family import Feature
from features.passes import Block, Pass
from features.scope import NUMBERS, Scope

As = Literal["rank", "log_over_mean", "log_over_least", "gap_above", "gap_below", "size"]
ALL: tuple[As, ...] = ("rank", "log_over_mean", "log_over_least", "gap_above", "gap_below", "size")
#: Impressions up to which a list is compared pair by pair.
SHORT = 30
BOUNDS = {"rank": (0.0, 1.0, 0.5), "size": (0.0, 5.0, 0.0)}


class Listed(msgspec.Struct, forbid_unknown_fields=True, frozen=True, cache_hash=True):
    """``[[features.list]]``: ``of`` is a number of impressions, or any feature that another entry gives.

    ``as``: the features that it gives.
    """

    DECLARED: ClassVar[str] = "list"

    of: str = "price"
    take: tuple[As, ...] = msgspec.field(name="as", default=ALL)

    def kinds(self) -> tuple[str, ...]:
        """None."""
        return ()

    def check(self, scope: Scope, where: str) -> None:
        """Raises ``FeaturesError``."""
        if not self.take:
            raise FeaturesError(f"{where}.as: needs at least one of {', '.join(ALL)}")

    def reads_columns(self, scope: Scope) -> tuple[str, ...]:
        """The feature of another family."""
        return () if self.of in NUMBERS else (self.of,)

    def blocks(self, scope: Scope) -> tuple[Block, ...]:
        """None: a list is all that it needs."""
        return ()

    def features(self, scope: Scope) -> tuple[Feature, ...]:
        """In the order of ``as``."""
        return tuple(
            Feature(f"list.{self.of}.{what}", *BOUNDS.get(what, (-20.0, 20.0, 0.0))) for what in self.take
        )

    def compute(self, batch: Pass, scope: Scope) -> list[FloatArray] | FloatArray:
        """See ``features.family.Family``."""
        out = np.full((len(ALL), batch.impressions), np.nan)
        if self.of in NUMBERS:
            values = batch.shown(batch.number(self.of)).astype(np.float64)
        else:
            values = np.expm1(batch.columns[self.of])
        order, starts = batch.lists
        _compute(order, starts, values, _sorted(order, starts, values), SHORT, out)
        np.log(out[1:], out=out[1:])
        out[5] /= 5.0
        return out if self.take == ALL else [out[ALL.index(what)] for what in self.take]


def _sorted(order: IntArray, starts: IntArray, values: FloatArray) -> IntArray:
    """Long lists in the order of their values, unknown ones at the end, each in its part of the result."""
    by = np.empty(len(order), dtype=np.int64)
    for k in np.flatnonzero(np.diff(starts) > SHORT).tolist():
        part = slice(starts[k], starts[k + 1])
        by[part] = order[part][np.argsort(values[order[part]])]
    return by


@kernel
def _compute(order, starts, values, by, short, out):  # type: ignore[no-untyped-def]
    for k in range(len(starts) - 1):
        begin, end = starts[k], starts[k + 1]
        known, total, least = 0, 0.0, np.inf
        for i in range(begin, end):
            x = values[order[i]]
            if x == x:
                known += 1
                total += x
                least = min(least, x)
        # Of a long list in order, whose unknown ones sort to the end; of a short one by looking at each.
        if end - begin > short:
            first = 0
            while first < known:
                x = values[by[begin + first]]
                last = first + 1
                while last < known and values[by[begin + last]] == x:
                    last += 1
                for i in range(begin + first, begin + last):
                    out[0, by[i]] = (first + 0.5 * (last - first)) / known
                first = last
        for i in range(begin, end):
            a = order[i]
            out[5, a] = 1.0 + end - begin
            x = values[a]
            if x != x:
                continue
            if end - begin <= short:
                smaller, equal = 0, 0
                for j in range(begin, end):
                    y = values[order[j]]
                    smaller += y < x
                    equal += y == x
                out[0, a] = (smaller + 0.5 * equal) / known
            out[1, a] = (1.0 + x) / (1.0 + total / known)
            out[2, a] = (1.0 + x) / (1.0 + least)
            if i > begin:
                out[3, a] = (1.0 + x) / (1.0 + values[order[i - 1]])
            if i + 1 < end:
                out[4, a] = (1.0 + x) / (1.0 + values[order[i + 1]])
