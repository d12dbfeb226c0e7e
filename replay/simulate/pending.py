"""Events that are drawn but not due yet: what follows from an impression, and what leads to a list.

Bounded by (rate of actions) x (longest delay kept). A near part is searched for every block; the far part
is touched only when the near horizon moves, so a block costs what it releases.
"""

from __future__ import annotations

import numpy as np

from contracts.events import ACTIONS, IMPRESSION

#: ``due`` ms after the stream's start; ``kind`` index in ``ORDER``; ``serial`` of the impression, or what
#: tells a user's behaviours apart; ``category`` of a behaviour, -1 for none.
ACTION_DTYPE = np.dtype(
    [
        *(("due", "i8"), ("serial", "i8"), ("user", "i4"), ("item", "i4"), ("category", "i4")),
        *(("kind", "i1"), ("value", "f8")),
    ]
)
#: Types of behaviours.
BEHAVIOURS: tuple[str, ...] = ("search", "look")
#: Order of events at one millisecond; an impression precedes every action, and these precede behaviours.
ORDER: tuple[str, ...] = (IMPRESSION, *ACTIONS, *BEHAVIOURS)


def behaviours(
    kind: str, due: np.ndarray, serial: np.ndarray, user: np.ndarray, item: np.ndarray, category: np.ndarray
) -> np.ndarray:
    """Behaviours of one type as an array of ``ACTION_DTYPE``, (n,)."""
    made = actions(kind, due, serial, user, item, np.zeros(due.size))
    made["category"] = category
    return made


def actions(
    kind: str, due: np.ndarray, serial: np.ndarray, user: np.ndarray, item: np.ndarray, value: np.ndarray
) -> np.ndarray:
    """Actions of one kind as an array of ``ACTION_DTYPE``, (n,)."""
    made = np.empty(due.size, dtype=ACTION_DTYPE)
    made["due"], made["serial"], made["user"], made["item"] = due, serial, user, item
    made["kind"], made["value"], made["category"] = ORDER.index(kind), value, -1
    return made


def in_order(made: np.ndarray) -> np.ndarray:
    """``made`` by (due, kind, serial)."""
    return made[np.lexsort((made["serial"], made["kind"], made["due"]))]


class Pending:
    """A calendar of events; ``push`` in any order, ``pop`` everything due before a time.

    >>> pending = Pending(horizon_ms=1000)
    >>> pending.push(np.zeros(3, dtype=ACTION_DTYPE))
    >>> len(pending.pop(1)), len(pending)
    (3, 0)
    """

    def __init__(self, horizon_ms: int) -> None:
        self._width = horizon_ms
        self._horizon = horizon_ms
        self._near: list[np.ndarray] = []
        self._far: list[np.ndarray] = []
        self._size = 0
        self.largest = 0

    def __len__(self) -> int:
        return self._size

    def push(self, made: np.ndarray) -> None:
        """Remember ``made`` (n,) of ``ACTION_DTYPE``."""
        near = made["due"] < self._horizon
        self._near.append(made[near])
        self._far.append(made[~near])
        self._size += made.size
        self.largest = max(self.largest, self._size)

    def pop(self, until_ms: int) -> np.ndarray:
        """All events due before ``until_ms``, in no order."""
        if until_ms > self._horizon:
            self._horizon = until_ms + self._width
            far = np.concatenate([np.empty(0, ACTION_DTYPE), *self._far])
            near = far["due"] < self._horizon
            self._near.append(far[near])
            self._far = [far[~near]]
        every = np.concatenate([np.empty(0, ACTION_DTYPE), *self._near])
        due = every["due"] < until_ms
        self._near = [every[~due]]
        out: np.ndarray = every[due]
        self._size -= out.size
        return out
