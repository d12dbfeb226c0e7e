"""Names of the items that were shown last, for people: rows know them by number only."""

from __future__ import annotations

from collections.abc import Sequence

from features.hashing import Keys

#: Names that are kept; the ones that were seen first go first.
LIMIT = 100_000


class ItemNames:
    """The name of an item by its key, where it was shown lately."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}

    def see(self, keys: Keys, names: Sequence[str]) -> None:
        """These were shown."""
        self._names.update(zip(keys.tolist(), names, strict=True))
        surplus = len(self._names) - LIMIT
        if surplus > 0:
            for key in list(self._names)[: surplus + LIMIT // 10]:
                del self._names[key]

    def name(self, key: int) -> str:
        """Its name, or its number in hex where that is not known."""
        return self._names.get(key) or f"{key:016x}"
