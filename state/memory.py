"""Freed memory goes back to the machine.

The C library keeps what was freed below memory that is still in use, for a peak that may never return; after
a burst that is most of it. ``malloc_trim`` gives it back, at the price of some ten milliseconds.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

#: So much must have become free since the last time; less is not worth the call.
WORTH_BYTES = 64 * 1024 * 1024
#: Seconds between two looks: what one second frees, the next one usually needs.
LOOK_S = 30.0


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks")
    ] + [("fordblks", ctypes.c_size_t), ("keepcost", ctypes.c_size_t)]


def _glibc() -> tuple[Callable[[], int], Callable[[], object]] | None:
    """(bytes that are free inside the C library, give them back); None where it is no glibc from 2.33 on."""
    try:
        library = ctypes.CDLL(None)
        info, trim = library.mallinfo2, library.malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    info.restype = _Mallinfo
    return lambda: int(info().fordblks), lambda: trim(0)


class FreedMemory:
    """Gives freed memory back when there is much of it. Call ``follow`` now and then: a look costs 50 µs.

    ``calls`` are those of the C library: bytes that are free inside it, and the one that gives them back.
    """

    def __init__(self, calls: tuple[Callable[[], int], Callable[[], object]] | None = None) -> None:
        self._calls = calls or _glibc()
        self._looked = float("-inf")
        # What was given back still counts as free, so only what has become free since then is of interest.
        self._known = 0

    def follow(self, now: float | None = None) -> bool:
        """Look, at most every ``LOOK_S`` seconds; returns whether anything was given back."""
        now = time.monotonic() if now is None else now
        if self._calls is None or now - self._looked < LOOK_S:
            return False
        free, give_back = self._calls
        self._looked, found = now, free()
        if found - self._known < WORTH_BYTES:
            self._known = min(self._known, found)
            return False
        give_back()
        self._known = free()
        return True
