"""The real-time features of a worker: all tables together, and their snapshot as of each impression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from state.errors import StateFormatError
from state.formulas import GLOBAL, GLOBAL_ENTITY, TABLES, feature_names, features
from state.keys import FEATURES
from state.store import Batch, Store
from state.tables import DecayedCounts

IntArray = npt.NDArray[np.int64]


class RealTimeFeatures:
    """Decayed counts of items, users, categories, positions and of everything.

    ``names`` are the columns of what ``observe`` returns.
    """

    def __init__(
        self, store: Store, half_lives_s: Sequence[float], smoothing: float, cached_rows: int
    ) -> None:
        self.half_lives_s = list(half_lives_s)
        self.smoothing = smoothing
        self.names = feature_names(half_lives_s)
        self._check_layout(store)
        self.tables = {
            name: DecayedCounts(name, half_lives_s, store, cached_rows) for name in (*TABLES, GLOBAL)
        }

    def observe(
        self,
        entities: Mapping[str, Sequence[str]],
        columns: IntArray,
        times: IntArray,
        prices: npt.NDArray[np.float64],
        tick: tuple[int, int],
    ) -> npt.NDArray[np.float32]:
        """Count a tick's events; features of its impressions (column 0 of ``COUNTS``), as of each.

        All arguments are aligned and ordered by time; ``prices`` has one entry an impression. Returns
        (impressions, q) float32.
        """
        wanted = columns == 0
        counts = {
            name: self.tables[name].observe(entities[name], columns, times, tick, wanted) for name in TABLES
        }
        global_counts = self.tables[GLOBAL].observe_one(GLOBAL_ENTITY, columns, times, tick, wanted)
        return features(counts, global_counts, prices, self.smoothing)

    def write(self, batch: Batch) -> int:
        """Add every changed row to ``batch``; returns how many."""
        batch.put(FEATURES, self._layout())
        return sum(table.write(batch) for table in self.tables.values())

    def take_changed(self) -> list[tuple[str, str, bytes]]:
        """(table, entity, packed row) of all rows that changed since the last call.

        After a restart parts of ``republish_since`` follow. A list: rows may move before the next tick.
        """
        return [
            (name, entity, row) for name, table in self.tables.items() for entity, row in table.take_changed()
        ]

    def drop_changed(self) -> None:
        """What changed is published by nobody (a rehearsal): ``evict`` need not keep it."""
        for table in self.tables.values():
            table.drop_changed()

    def republish_since(self, at: int) -> None:
        """Publish every stored row again that counts something after ``at`` (ms), part by part."""
        for table in self.tables.values():
            table.republish_since(at)

    @property
    def republishing(self) -> bool:
        """Whether rows of ``republish_since`` are still to be taken."""
        return any(table.republishing for table in self.tables.values())

    def evict(self) -> int:
        """Bring every table back under its bound; call after a checkpoint. Returns rows dropped."""
        return sum(table.evict() for table in self.tables.values())

    def _layout(self) -> bytes:
        return ",".join(f"{half_life:g}" for half_life in self.half_lives_s).encode()

    def _check_layout(self, store: Store) -> None:
        stored = store.get(FEATURES)
        if stored is not None and stored != self._layout():
            raise StateFormatError(
                f"state in {store.path} was written with features.half_lives_s = "
                f"[{stored.decode(errors='replace')}], "
                f"the scenario has [{self._layout().decode()}]; restore that value or use a new state folder"
            )
