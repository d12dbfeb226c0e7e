"""What a process that is still closing holds, a port or a state folder, is waited for a little.

Whoever stops a worker and starts it again in the same second did nothing wrong: the old one finishes a
tick and a checkpoint first.
"""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections.abc import Callable
from typing import TypeVar

from contracts.errors import SurgelineError

T = TypeVar("T")

#: How long something that another process holds is waited for; an orderly stop takes two or three seconds.
HELD_WAIT_S = 10.0
_TRY_EVERY_S = 0.2

logger = logging.getLogger(__name__)


class PortInUseError(SurgelineError, OSError):
    """Another process listens there."""


def patiently(
    take: Callable[[], T],
    held: type[Exception],
    what: str,
    say: Callable[[str], object] = logger.warning,
    wait_s: float = HELD_WAIT_S,
) -> T:
    """What ``take`` returns; while it raises ``held`` it is tried again for ``wait_s``, which is said once.

    Raises the last ``held`` when the time is over, and any other error at once.

    >>> patiently(lambda: 6066, OSError, "port 6066")
    6066
    """
    deadline = time.monotonic() + wait_s
    said = False
    while True:
        try:
            return take()
        except held:
            if time.monotonic() >= deadline:
                raise
            if not said:
                say(f"{what} is still in use; waiting up to {wait_s:g} s for it")
                said = True
            time.sleep(_TRY_EVERY_S)


def wait_for_port(
    host: str,
    port: int,
    say: Callable[[str], object] = logger.warning,
    wait_s: float = HELD_WAIT_S,
) -> None:
    """Return once somebody can listen on ``host:port``; a port in use is waited for.

    Raises ``PortInUseError`` where it stays in use, and another ``OSError`` where nobody ever could.
    """
    patiently(lambda: _try_port(host, port), PortInUseError, f"{host}:{port}", say, wait_s)


def _try_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # As servers do it, with SO_REUSEADDR: connections in TIME_WAIT are no listener.
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(error.errno, "another process listens there") from error
        raise
