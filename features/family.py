"""What a family is: a declaration that knows its rows, its features and how one follows from the other."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from features.events import FloatArray
from features.passes import Block, Pass
from features.scope import Scope


class Feature(NamedTuple):
    """A column of real-time numbers. Honest values lie in [low, high]; ``neutral`` stands for "unknown"."""

    name: str
    low: float
    high: float
    neutral: float = 0.0


class Family(Protocol):
    """One entry of a scenario's ``[[features.<family>]]``.

    ``blocks``: the rows that it reads. ``features``: its columns. ``compute`` gives one array (impressions,)
    a feature, NaN for "unknown"; it may read ``batch.raw`` of its blocks. ``kinds``: the kinds of events that
    it names.

    A family may have more: ``provides()``, the key columns that it works out (``batch.provide``);
    ``reads_keys()``, the key columns that it reads beside those of its blocks; ``reads_columns(scope)``, the
    features of others whose ``batch.columns`` it reads; ``name``, where two entries of one name cannot be.
    """

    def kinds(self) -> tuple[str, ...]: ...

    def check(self, scope: Scope, where: str) -> None: ...

    def blocks(self, scope: Scope) -> tuple[Block, ...]: ...

    def features(self, scope: Scope) -> tuple[Feature, ...]: ...

    def compute(self, batch: Pass, scope: Scope) -> list[FloatArray] | FloatArray: ...
