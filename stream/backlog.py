"""How long a checkpoint may wait while a worker works off a backlog.

A checkpoint writes and publishes every row that changed since the last one. In a backlog the same rows
change again soon, so that a checkpoint each second writes them several times, for readers who wait for the
end of the backlog anyway: half as many checkpoints save a tenth of a worker's CPU (``python -m bench
throughput``).
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: What is published in a backlog is behind by the time that the backlog takes. It gets older by this part of
#: it at most, and by no more seconds than ``MOST_S``: so much is done again after a crash.
SHARE, MOST_S = 0.5, 5.0


class Backlog:
    """Says when the next checkpoint is due, by how fast the worker is. ``clock`` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock()
        self._done = 0

    def checkpoint(self, done: int) -> None:
        """A checkpoint was taken; ``done`` events had been done in all."""
        self._at, self._done = self._clock(), done

    def due(self, done: int, waiting: int) -> bool:
        """Whether a checkpoint is due with ``done`` events done in all and ``waiting`` ones still to do.

        Due at once where nothing was done since the last one: then nobody knows how long a backlog takes.

        >>> now = [0.0]
        >>> backlog = Backlog(lambda: now[0])
        >>> backlog.checkpoint(0)
        >>> now[0] = 1.0
        >>> backlog.due(50_000, waiting=25_000), backlog.due(50_000, waiting=500_000), backlog.due(0, 500_000)
        (True, False, True)
        """
        since = self._clock() - self._at
        left_s = waiting * since / (done - self._done) if done > self._done else 0.0
        return since >= min(SHARE * left_s, MOST_S)
