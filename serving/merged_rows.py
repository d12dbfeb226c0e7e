"""The rows of one table, merged over the workers that count them."""

from __future__ import annotations

import numpy as np

from features.hashing import Keys
from features.plan import SEEN, Plan
from features.rows import Rows, Values

#: More than these are not workers but garbage.
MAX_WORKERS = 1024


class MergedRows:
    """Table ``name`` of ``plan``: ``rows`` holds one row a key, whoever sent it.

    While a single worker counts, its rows are ``rows`` itself; with a second one the merged rows stand beside
    those of each. ``rows`` may be replaced by another object whenever something is put.
    """

    def __init__(self, plan: Plan, name: str) -> None:
        self.rows = Rows(plan.tables[name].width)
        self._plan, self._name = plan, name
        self._workers: dict[str, Rows] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def put(self, worker: str, keys: Keys, values: Values) -> bool:
        """Take rows (n, width) of different keys of ``worker``. False where there are too many workers."""
        own = self._workers.get(worker)
        if own is None:
            if len(self._workers) >= MAX_WORKERS:
                return False
            own = self._begin(worker)
        _put(own, keys, values)
        if own is not self.rows:
            _put(self.rows, keys, self._merge(keys, own, values))
        return True

    def delete(self, worker: str, keys: Keys) -> None:
        """Forget rows of different keys of ``worker``."""
        own = self._workers.get(worker)
        if own is None:
            return
        own.delete(keys)
        if own is self.rows:
            return
        known = np.zeros(len(keys), dtype=np.bool_)
        for rows in self._workers.values():
            known |= rows.find(keys) >= 0
        self.rows.delete(keys[~known])
        left = keys[known]
        if len(left):
            _put(self.rows, left, self._merge(left, own, np.zeros((len(left), own.width))))

    def drop_oldest(self, count: int) -> int:
        """Forget the ``count`` rows that were seen longest ago; returns how many there were."""
        count = min(count, len(self.rows))
        seen = self.rows.values[: len(self.rows), SEEN]
        keys = self.rows.keys[np.argpartition(seen, count - 1)[:count]]
        for rows in {id(rows): rows for rows in (self.rows, *self._workers.values())}.values():
            rows.delete(keys)
        return count

    def _begin(self, worker: str) -> Rows:
        """The rows of a worker that sends its first."""
        if not self._workers:
            own = self.rows
        else:
            own = Rows(self.rows.width)
            if len(self._workers) == 1:
                first, used = self.rows, len(self.rows)
                self.rows = Rows(first.width)
                _put(self.rows, first.keys[:used], first.values[:used])
        self._workers[worker] = own
        return own

    def _merge(self, keys: Keys, own: Rows, values: Values) -> Values:
        """What all workers know of ``keys``; ``values`` is what the one with the rows ``own`` does."""
        # By name: floating sums depend on the order, and two readers should agree to the last bit.
        workers = [self._workers[worker] for worker in sorted(self._workers)]
        found = [None if rows is own else rows.find(keys) for rows in workers]
        shared = np.zeros(len(keys), dtype=np.bool_)
        for slots in found:
            if slots is not None:
                shared |= slots >= 0
        if not shared.any():
            return values
        several = np.zeros((int(np.count_nonzero(shared)), len(workers), own.width))
        for k, (rows, slots) in enumerate(zip(workers, found, strict=True)):
            if slots is None:
                several[:, k] = values[shared]
            else:
                known = slots[shared] >= 0
                several[known, k] = rows.values[slots[shared][known]]
        merged = values.copy()
        merged[shared] = self._plan.merge(self._name, several)
        return merged


def _put(rows: Rows, keys: Keys, values: Values) -> None:
    slots = rows.locate(keys, np.ones(len(keys), dtype=np.bool_))
    rows.values[slots] = values
