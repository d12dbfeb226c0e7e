"""What a person should know about the input: one line each, in the worker's log and on the live page.

A notice is about something that is handled and counted, and that still surprises: an older log, a fast
clock, a state that was put back. The same kind is said again only after a while, so that a fault that lasts
does not fill the log.
"""

from __future__ import annotations

import logging
import time
from collections import deque

import msgspec

logger = logging.getLogger(__name__)

#: Notices that are kept for the live page.
KEPT = 20
#: Seconds before a notice of the same kind and subject is said again.
AGAIN_S = 60.0


class Notice(msgspec.Struct):
    """One line. ``at`` is ms UTC of the worker's clock; ``kind`` is a stable name for tests and pages."""

    at: int
    kind: str
    text: str


class Notices:
    """The last notices of a worker. Any thread may add one; a reader gets a copy."""

    def __init__(self) -> None:
        self._kept: deque[Notice] = deque(maxlen=KEPT)
        self._said: dict[tuple[str, str], float] = {}

    def say(self, kind: str, text: str, subject: str = "", level: int = logging.WARNING) -> None:
        """Log ``text`` and keep it, unless the same ``kind`` was said of ``subject`` a moment ago.

        >>> notices = Notices()
        >>> notices.say("older_log", "Events of 2019", level=logging.DEBUG)
        >>> notices.say("older_log", "Events of 2019", level=logging.DEBUG)
        >>> [notice.kind for notice in notices.all()]
        ['older_log']
        """
        now = time.monotonic()
        if now - self._said.get((kind, subject), float("-inf")) < AGAIN_S:
            return
        self._said[kind, subject] = now
        self._kept.append(Notice(round(time.time() * 1000), kind, text))
        logger.log(level, "%s", text)

    def all(self) -> list[Notice]:
        """Oldest first."""
        return list(self._kept)
