"""Memory that was freed goes back to the machine: glibc keeps it otherwise, for peaks that may not return."""

from __future__ import annotations

import ctypes
import sys
import time

#: Fewer objects than this are not worth the call.
SMALLEST_PEAK = 50_000
#: Seconds between two calls: a worker that breathes must not pay for it every second.
REST_S = 30.0


def give_back() -> bool:
    """Return freed pages to the machine. True where any went; False on a C library that has no such call."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return False
    return bool(trim(0))


class Peaks:
    """Decides when to give memory back: once what is held has fallen to half of its peak."""

    def __init__(self) -> None:
        self._peak = 0
        self._last = float("-inf")

    def follow(self, held: int, now: float | None = None) -> bool:
        """``held``: objects that are held now. Gives back where it is time; returns whether it was."""
        now = time.monotonic() if now is None else now
        self._peak = max(self._peak, held)
        if self._peak < SMALLEST_PEAK or held > self._peak // 2 or now - self._last < REST_S:
            return False
        self._peak, self._last = held, now
        give_back()
        return True
