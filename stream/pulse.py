"""Whether event time goes on: how long no tick has run, and whether events wait for one meanwhile.

Weights are published every second whether anything is learned or not, so a moving version says nothing about
learning. Nor does the watermark: in a silence it stands still, and that is right. Wrong is only this: events
that need not wait any more are there, and no tick takes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from contracts.scenario import Times

#: Seconds beyond what the scenario's times explain: fetches, a busy machine, a broker that answers late.
MARGIN_S = 5.0


class Pulse:
    """Fed by the engine's thread, read by any other. ``clock`` is monotonic, in seconds."""

    def __init__(self, times: Times, clock: Callable[[], float] = time.monotonic) -> None:
        #: For so long events may wait and all is well: until silent partitions no longer hold the watermark.
        self.patience_s = times.idle_s + times.lateness_s + 2 * times.tick_s + MARGIN_S
        self._clock = clock
        self._ticks: int | None = None
        self._ticked_at = clock()
        self._waiting_since: float | None = None

    def see(self, ticks: int, waiting: int) -> None:
        """Note the ticks that have run in all and the events that wait for one (not for their own time)."""
        now = self._clock()
        ran = ticks != self._ticks
        if ran:
            # The first look is at a total that may be years old, so it counts from the start of the process.
            self._ticked_at = self._ticked_at if self._ticks is None else now
            self._ticks = ticks
        if not waiting:
            self._waiting_since = None
        elif ran or self._waiting_since is None:
            self._waiting_since = now

    def since_tick_s(self) -> float:
        """Seconds since an event-time tick last ran; since the start of the process where none has."""
        return self._clock() - self._ticked_at

    def waiting_s(self) -> float:
        """Seconds for which events have waited and no tick has run; 0 where none waits."""
        since = self._waiting_since
        return 0.0 if since is None else self._clock() - since

    def standing_s(self) -> float:
        """As ``waiting_s`` where that is longer than anything but a fault explains, else 0."""
        waiting = self.waiting_s()
        return waiting if waiting > self.patience_s else 0.0
