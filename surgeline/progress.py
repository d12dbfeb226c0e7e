"""A progress bar on stderr, where that is a terminal; otherwise nothing at all."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Bar:
    """Steps of one command; each may count events. ``visible``: whether somebody sees it."""

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        self.visible = console.is_terminal
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not self.visible)
        self._task = self._progress.add_task("", total=None, visible=False)

    def step(self, what: str, total: int | None = None) -> None:
        """Begin the next step, of ``total`` events where that is known."""
        self._progress.reset(self._task, description=what, total=total, visible=True)

    def move(self, events: int) -> None:
        """That many events more are done."""
        self._progress.advance(self._task, events)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


def silent() -> Bar:
    """A bar that nobody sees."""
    return Bar(Console(stderr=True, quiet=True, force_terminal=False))
