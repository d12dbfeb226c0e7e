"""The adapters by name; each is imported when its log is opened.

Its module has ``TITLE`` and ``MISSING`` (one line each: what it is, how to get it), ``find() -> Path | None``
(where its data lies, without fetching) and ``open_path(path: Path | None) -> RecordedLog``.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

from replay.log import RecordedLog

#: Names that `open_log` takes.
ADAPTERS: tuple[str, ...] = (
    *("obd", "trivago", "taobao", "tmall", "retailrocket"),
    *("rees46", "criteo", "kuairand", "avazu", "aliccp"),
)


def adapter(name: str) -> ModuleType:
    """The module of an adapter; imported on first use."""
    return import_module(f"replay.adapters.{name}")


def open_adapter(name: str, path: Path | None = None) -> RecordedLog:
    """Open the log ``name`` at ``path`` (a file or folder), else where its data is found."""
    log: RecordedLog = adapter(name).open_path(path)
    return log
