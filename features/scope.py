"""What the names in declarations mean: kinds of events, columns, and settings that families share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from features.errors import FeaturesError

IMPRESSION = "impression"
#: Every action and every behaviour that is about an item.
ANY = "any"
#: A behaviour of a type that no declaration names.
OTHER = "other"

#: Columns of keys that every event may have; a context's columns are ``context.<name>``.
KEY_COLUMNS = ("user_id", "item_id", "category_id", "shop_id", "position", "query", "hour", "everything")
CONTEXT = "context."
#: Columns of numbers.
NUMBERS = ("price", "position", "stock", "value")


class Scope(msgspec.Struct, frozen=True, cache_hash=True):
    """``kinds[number]``: the kinds of events; 0 is the impression, actions follow, then types of behaviours.

    ``gap_s``: a longer pause of a user begins a session. ``smoothing``: impressions that a rate's parent is
    worth. ``derived``: key columns that families work out, beside ``KEY_COLUMNS``.
    """

    kinds: tuple[str, ...]
    actions: tuple[str, ...]
    gap_s: float
    smoothing: float
    sale_starts_at: int | None
    derived: frozenset[str] = frozenset()

    def number(self, kind: str) -> int:
        """The number of a kind. Raises ``FeaturesError`` where there is none."""
        if kind not in self.kinds:
            raise FeaturesError(f"no kind of events {kind!r}; there are {', '.join(self.kinds)}")
        return self.kinds.index(kind)

    def numbers(self, kind: str) -> tuple[int, ...]:
        """The numbers that a name stands for: ``any`` for all but the impression."""
        if kind == ANY:
            return tuple(range(1, len(self.kinds)))
        return (self.number(kind),)


def check_columns(columns: Sequence[str], scope: Scope, where: str) -> None:
    """Raises ``FeaturesError`` for a key column that no event has."""
    if not columns:
        raise FeaturesError(f"{where}: needs at least one column")
    for column in columns:
        if column in KEY_COLUMNS or column in scope.derived or column.startswith(CONTEXT):
            continue
        allowed = ", ".join((*KEY_COLUMNS, *sorted(scope.derived), f"{CONTEXT}<name>"))
        raise FeaturesError(f"{where}: no column {column!r}; allowed are {allowed}")


def kinds_of(actions: Sequence[str], named: Iterable[str]) -> tuple[str, ...]:
    """All kinds in the order of their numbers: the impression, actions, named behaviours, other ones."""
    kinds = [IMPRESSION, *actions]
    for name in named:
        if name not in kinds and name not in (ANY, OTHER):
            kinds.append(name)
    return (*kinds, OTHER)
