"""Settings of all tests: none fails because the machine was slow, or because of where it was started."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.selection import leave_out

settings.register_profile("surgeline", deadline=None)
# In CI the examples are the same each time: what fails there, fails here.
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "surgeline")


def pytest_addoption(parser: pytest.Parser) -> None:
    """A run with every capacity, cache and chunk at its least value, see ``tests/smallest.py``."""
    parser.addoption("--smallest", action="store_true", help="every capacity, cache and chunk at its least")


def pytest_configure(config: pytest.Config) -> None:
    """What a test starts must be open to Ctrl-C: shells turn it off for what they run in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers", "ordinary_sizes: is about a size itself, or too slow with the least; not with --smallest"
    )
    if config.getoption("smallest"):
        from tests.smallest import shrink

        shrink(pytest.MonkeyPatch())


@pytest.fixture(autouse=True)
def loggers_as_they_were() -> Iterator[None]:
    """A command that runs in a test's own process makes the clients' loggers quieter: only for that test."""
    before = {name: (logger.level, list(logger.filters)) for name, logger in _loggers().items()}
    yield
    for name, logger in _loggers().items():
        level, filters = before.get(name, (logging.NOTSET, []))
        logger.setLevel(level)
        logger.filters[:] = filters


def _loggers() -> dict[str, logging.Logger]:
    known = list(logging.root.manager.loggerDict.items())
    return {name: logger for name, logger in known if isinstance(logger, logging.Logger)}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With ``--smallest``, leave out what is marked ``ordinary_sizes``."""
    if config.getoption("smallest"):
        leave_out(config, items, lambda item: item.get_closest_marker("ordinary_sizes") is not None)
