"""Names of the items that were shown last, for people: rows know them by number only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from features.hashing import Keys
from features.rows import Rows

#: Names that are kept; the ones that were seen first go first.
LIMIT = 100_000


class ItemNames:
    """The name of an item by its key, where it was shown lately."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        #: The keys of ``_names``, to look many of them up at once.
        self._known = Rows(0)

    def see(self, keys: Keys, texts: Callable[[npt.NDArray[np.intp]], list[str]]) -> None:
        """These were shown. ``texts`` gives the names of some of them, by their number among ``keys``."""
        new = np.flatnonzero(self._known.find(keys) < 0)
        if not len(new):
            return
        known = self._names
        known.update(zip(keys[new].tolist(), texts(new), strict=True))
        surplus = len(known) - LIMIT
        if surplus > 0:
            for key in list(known)[: surplus + LIMIT // 10]:
                del known[key]
            self._known = Rows(0)
            keys = np.array(list(known), dtype=np.uint64)
        self._known.locate(keys, np.ones(len(keys), dtype=np.bool_))

    def name(self, key: int) -> str:
        """Its name, or its number in hex where that is not known."""
        return self._names.get(key) or f"{key:016x}"
