"""Settings of all tests: none fails because the machine was slow, or because of where it was started."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

settings.register_profile("surgeline", deadline=None)
# In CI the examples are the same each time: what fails there, fails here.
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "surgeline")


def pytest_configure() -> None:
    """What a test starts must be open to Ctrl-C: shells turn it off for what they run in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
