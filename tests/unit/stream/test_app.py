"""Failure: an engine that failed ends the worker with a traceback for every service above it, or with
status 0. Mechanism: the app without a broker; its loop is run as Faust's worker runs it. Required: status 1
and one line; a fault that nobody expected has its traceback in the log, once; one in the last tick counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faust
import pytest

from state.errors import StateDiskError


@pytest.fixture
def make_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Makes an app on its own loop; the first argument is what its engine met."""
    monkeypatch.setenv("SURGELINE_HOME", str(tmp_path))
    from stream.app import SurgelineApp

    loop = asyncio.new_event_loop()

    async def stopped(*_: Any) -> None: ...

    def make(fault: BaseException | None = None) -> Any:
        app = SurgelineApp("unit", datadir=str(tmp_path), store="memory://", loop=loop)
        app.offsets = SimpleNamespace(fault=fault, stop=stopped, leave=stopped)  # type: ignore[assignment]
        return app

    monkeypatch.setattr(faust.App, "on_stop", stopped)
    yield make
    loop.close()


def ended(app: Any, stopping: bool = False) -> Any:
    """What the process ends with; None where the loop goes on."""

    async def life() -> None:
        if stopping:
            await app.on_stop()
        await asyncio.sleep(0.01)

    running = app.loop.create_task(life())
    try:
        app.loop.run_until_complete(running)
    except SystemExit as end:
        app.loop.run_until_complete(running)
        return end.code
    return None


FULL = StateDiskError(Path("state/w0"), "IO error: No space left on device: While appending to file: 1.log")


def test_a_full_disk_is_the_line_itself(make_app: Any, caplog: pytest.LogCaptureFixture) -> None:
    app = make_app()
    app.give_up(FULL)
    assert ended(app) == f"Error: {FULL}"
    assert str(FULL).startswith("state folder state/w0 cannot be used: no space left on device (")
    assert not caplog.records


def test_the_first_fault_is_said_and_only_once(make_app: Any) -> None:
    app = make_app(fault=FULL)
    app.give_up(RuntimeError("the engine failed before"))
    app.give_up(RuntimeError("the engine failed before"))
    assert ended(app) == f"Error: {FULL}"
    assert ended(app) is None


def test_a_bug_has_its_traceback_in_the_log_once(make_app: Any, caplog: pytest.LogCaptureFixture) -> None:
    app = make_app()
    app.give_up(ZeroDivisionError("division by zero"))
    assert ended(app) == (
        "Error: the engine failed (ZeroDivisionError('division by zero')); "
        "the state is that of the last checkpoint"
    )
    (record,) = [one for one in caplog.records if one.levelno == logging.CRITICAL]
    assert record.exc_info is not None


def test_a_fault_of_the_last_tick_is_not_an_orderly_end(make_app: Any) -> None:
    app = make_app(fault=FULL)
    assert ended(app, stopping=True) == f"Error: {FULL}"


def test_an_orderly_end_is_one(make_app: Any) -> None:
    app = make_app()
    assert ended(app, stopping=True) is None
