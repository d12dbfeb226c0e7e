"""Processes are started here and nowhere else, one function or class a purpose.

- `Child`: runs beside us and cannot outlive us. On Linux the kernel kills it when we die, however we die
  (``PR_SET_PDEATHSIG``). Elsewhere it ends with ``stop`` or a normal exit of the interpreter; a parent that
  is killed there leaves it behind.
- `finish`: runs to its end, and gives back its status and what it wrote.
- `guardian`: outlives us on purpose, to put right what we leave behind.
- `become`: replaces this process, so that signals and the exit status are the other program's own.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

# Runs in the child before the program, in the same process. The kernel forgets nothing over execv, and
# the check of the parent closes the gap in which the parent died before prctl.
_TIE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    os._exit(0)
os.execv(sys.argv[2], sys.argv[2:])
"""


class Child:
    """A running program; its output goes to ``log``."""

    def __init__(self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.log = log
        self._argv = list(argv)
        self._env = dict(os.environ if env is None else env)
        self._error: OSError | None = None
        self._process: subprocess.Popen[bytes] | None = None
        started = threading.Event()
        # The kernel counts the death of the *thread* that started the child. This one lives as long as
        # the child, so a Child may be made from any thread.
        threading.Thread(target=self._keep, args=(started,), name="surgeline-child", daemon=True).start()
        started.wait()
        if self._error is not None:
            raise self._error
        atexit.register(self.stop)

    def _keep(self, started: threading.Event) -> None:
        argv = self._argv
        if sys.platform == "linux":
            argv = [sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid()), *argv]
        try:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._env,
                    # Its own group: Ctrl-C reaches us alone, and we choose the order of stopping.
                    start_new_session=True,
                )
        except OSError as error:
            self._error = error
            started.set()
            return
        started.set()
        self._process.wait()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def wait(self, timeout_s: float | None = None) -> int:
        """The exit status once it ended; ``subprocess.TimeoutExpired`` if it did not in time."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def stop(self, patience_s: float = 10.0) -> None:
        """Ask it to end, then kill it and whatever it started. Safe to call again."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
        if process.poll() is None:
            if hasattr(os, "killpg"):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
        atexit.unregister(self.stop)

    def last_line(self) -> str:
        """The last line of its log that says something, for an error message."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def finish(argv: Sequence[str], timeout_s: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program without input until it ends; ``returncode``, ``stdout`` and ``stderr`` are of it.

    Raises ``OSError`` where it cannot be started and ``subprocess.TimeoutExpired`` where it took longer.
    """
    return subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def guardian(argv: Sequence[str]) -> subprocess.Popen[bytes]:
    """A program in a session of its own, with pipes to and from it: our end is the end of its input."""
    return subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def become(argv: Sequence[str]) -> NoReturn:
    """Replace this process by a program (``argv[0]``: its path)."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(argv[0], list(argv))
