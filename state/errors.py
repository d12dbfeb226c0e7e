"""What can go wrong with the state on disk, each in one line that says what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from contracts.errors import SurgelineError

#: What decoders of stored bytes raise where the bytes are not what was written.
_UNDECODABLE = (msgspec.MsgspecError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError)
#: errno of an operating system's error in RocksDB's text, which names it in words only.
_REASONS = {
    os.strerror(number): number
    for number in (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EPERM)
}
_WHAT_HELPS = {
    errno.ENOSPC: "Make room on its disk",
    errno.EDQUOT: "Raise the disk quota or make room",
    errno.EFBIG: "Raise the limit on the size of files",
    errno.EROFS: "Make its file system writable",
    errno.EACCES: "Give this user the right to write there",
    errno.EPERM: "Give this user the right to write there",
}


class StateError(SurgelineError, RuntimeError):
    """The state cannot be used; the message says what to do."""


class StateLockedError(StateError):
    """Another process holds this state folder."""


class StateFormatError(StateError):
    """The state on disk was written by another version or with other settings."""


class StateDamagedError(StateFormatError):
    """The bytes on disk are not what was written; ``folder`` has to be set aside."""

    def __init__(self, folder: Path, reason: str) -> None:
        self.folder = folder
        super().__init__(f"state folder {folder} is damaged: {_one_line(reason)}. {start_anew(folder)}")


class StateDiskError(StateError):
    """The disk does not take or give the state: it is full, read-only or failing."""

    def __init__(self, folder: Path, reason: str) -> None:
        self.folder = folder
        known = next((number for text, number in _REASONS.items() if text in reason), None)
        helps = _WHAT_HELPS.get(known or 0, "Look at its disk")
        what = os.strerror(known).lower() if known else "an error of the disk"
        super().__init__(
            f"state folder {folder} cannot be used: {what} ({_one_line(reason)}). {helps} and start again: "
            "what stands there is the last checkpoint, and reading goes on from it"
        )


def start_anew(folder: Path) -> str:
    """What a person does about a state that cannot be read, and what it costs."""
    return (
        f"Put back a backup of the whole folder, or set it aside (mv {folder} {folder}.damaged) and start "
        f"anew; without a backup the weights and counts learned {_begun(folder)} are lost"
    )


def state_error(folder: Path, error: Exception) -> StateError:
    """What RocksDB's or the operating system's ``error`` means for the state in ``folder``."""
    text = str(error)
    # Not any text with "lock" in it: a damaged file has a *block* checksum mismatch.
    if "LOCK: Resource temporarily unavailable" in text or "lock hold by current process" in text:
        return StateLockedError(
            f"state folder {folder} is in use by another process; "
            "give each worker its own SURGELINE_WORKER_ID or SURGELINE_HOME"
        )
    if any(reason in text for reason in _REASONS):
        return StateDiskError(folder, text)
    if "Corruption" in text or "No such file or directory" in text:
        return StateDamagedError(folder, text)
    if "IO error" in text:
        return StateDiskError(folder, text)
    return StateError(f"state folder {folder} cannot be opened: {_one_line(text)}")


@contextlib.contextmanager
def decoding(folder: Path, what: str) -> Iterator[None]:
    """Bytes of ``folder`` are decoded here: whatever does not decode is damage to ``what``."""
    try:
        yield
    except _UNDECODABLE as error:
        raise StateDamagedError(folder, f"{what}: {error or type(error).__name__}") from error


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().rstrip(".")


def _begun(folder: Path) -> str:
    """Since when the state has learned: RocksDB writes IDENTITY once."""
    try:
        at = (folder / "IDENTITY").stat().st_mtime
    except OSError:
        return "in it"
    return f"since {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
