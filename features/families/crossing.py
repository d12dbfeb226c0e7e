"""Crossings of any columns as one hashed key an impression, for sparse experts: ``Pass.crossings``.

``key = hash(name, values)``: a crossing has a namespace of its own. Key columns enter as they are. Numbers
are binned: a position as it is, other numbers of impressions by floor(2 log2(1 + x)) (half powers of two), a
feature of another entry by floor(bins x). "Unknown" is a bin. 0 where a key column has no value.

Source: hashed crossings as in Vowpal Wabbit's namespaces (Weinberger and others, "Feature hashing for large
scale multitask learning", ICML 2009), and McMahan and others, "Ad click prediction" (KDD 2013).
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from features.events import FloatArray
from features.family import Feature
from features.hashing import Keys, cross, hash_numbers, hash_texts
from features.passes import Block, Pass
from features.scope import NUMBERS, Scope, check_columns

#: The bin of an unknown number.
UNKNOWN = np.iinfo(np.int64).min


class Crossing(msgspec.Struct, forbid_unknown_fields=True, frozen=True, cache_hash=True):
    """``[[features.crossing]]``: ``keys`` are key columns, ``numbers`` numbers of impressions or features.
    ``bins``: how many bins a feature has from one whole number to the next.
    """

    DECLARED: ClassVar[str] = "crossing"

    keys: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    bins: Annotated[float, msgspec.Meta(gt=0.0, le=1000.0)] = 4.0

    @property
    def name(self) -> str:
        """Of the crossing among ``Pass.crossings``."""
        return "*".join((*self.keys, *self.numbers))

    def kinds(self) -> tuple[str, ...]:
        """None."""
        return ()

    def check(self, scope: Scope, where: str) -> None:
        """Raises ``FeaturesError``."""
        if self.keys or not self.numbers:
            check_columns(self.keys, scope, f"{where}.keys")

    def reads_keys(self) -> tuple[str, ...]:
        """The key columns."""
        return self.keys

    def reads_columns(self, scope: Scope) -> tuple[str, ...]:
        """Features of other families."""
        return tuple(name for name in self.numbers if name not in NUMBERS)

    def blocks(self, scope: Scope) -> tuple[Block, ...]:
        """None."""
        return ()

    def features(self, scope: Scope) -> tuple[Feature, ...]:
        """None: see ``Pass.crossings``."""
        return ()

    def compute(self, batch: Pass, scope: Scope) -> list[FloatArray]:
        """See ``features.family.Family``."""
        parts: list[Keys] = [np.repeat(hash_texts([self.name]), batch.impressions)]
        parts += [batch.shown(batch.keys[column]) for column in self.keys]
        parts += [hash_numbers(self._bin(batch, name)) for name in self.numbers]
        batch.crossings[self.name] = cross(parts)
        return []

    def _bin(self, batch: Pass, name: str) -> npt.NDArray[np.int64]:
        values = batch.shown(batch.number(name)) if name in NUMBERS else batch.columns[name]
        if name not in NUMBERS:
            values = values * self.bins
        elif name != "position":
            values = 2.0 * np.log2(1.0 + values)
        unknown = np.isnan(values)
        return np.where(unknown, UNKNOWN, np.where(unknown, 0.0, np.floor(values)).astype(np.int64))
