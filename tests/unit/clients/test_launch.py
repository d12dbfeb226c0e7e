"""Fails when a child of ours outlives the one who started it, or a failed start or end goes unseen."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from clients.launch import Child, finish, guardian

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def test_stop_ends_it_and_may_be_called_again(tmp_path: Path) -> None:
    child = Child(SLEEP, tmp_path / "log")
    assert child.poll() is None
    child.stop()
    child.stop()
    assert child.poll() is not None and not psutil.pid_exists(child.pid)


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = (
        "import pathlib, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(ready)!r}).touch()\ntime.sleep(600)"
    )
    child = Child([sys.executable, "-c", code], tmp_path / "log")
    while not ready.exists():
        assert child.poll() is None
    child.stop(patience_s=0.2)
    assert not psutil.pid_exists(child.pid)


def test_it_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    """The kernel ties a child to a thread; ours must be tied to the process."""
    children: list[Child] = []
    thread = threading.Thread(target=lambda: children.append(Child(SLEEP, tmp_path / "log")))
    thread.start()
    thread.join()
    # The child has gone through its launcher when it runs our code: only then is it tied.
    with pytest.raises(subprocess.TimeoutExpired):
        children[0].wait(0.5)
    children[0].stop()


def test_a_normal_exit_without_stop_ends_it(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\nfrom clients.launch import Child\n"
        f"print(Child({SLEEP!r}, pathlib.Path({str(tmp_path / 'log')!r})).pid)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not psutil.pid_exists(int(run.stdout))


def test_a_missing_program_is_seen(tmp_path: Path) -> None:
    """On Linux the launcher is what starts, so that the status and the log must tell."""
    try:
        child = Child([str(tmp_path / "absent")], tmp_path / "log")
    except FileNotFoundError:
        return
    assert child.wait(10) == 1
    assert "FileNotFoundError" in child.last_line()


def test_what_it_prints_goes_to_the_log(tmp_path: Path) -> None:
    child = Child([sys.executable, "-c", "print('one'); print('two'); print()"], tmp_path / "log")
    child.wait(30)
    assert child.last_line() == "two"


def test_a_program_that_ends_gives_back_its_status_and_what_it_wrote() -> None:
    code = (
        "import sys; print('out'); print('err', file=sys.stderr); print(sys.stdin.read() == ''); sys.exit(3)"
    )
    done = finish([sys.executable, "-c", code])
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\nTrue\n", "err\n")


def test_a_program_that_does_not_end_in_time_is_ended() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        finish(SLEEP, timeout_s=0.2)


def test_a_guardian_sees_our_end_and_not_our_signals() -> None:
    code = "import os; print(os.getsid(0) == os.getpid(), flush=True); input()"
    guard = guardian([sys.executable, "-c", code])
    assert guard.stdin is not None and guard.stdout is not None
    assert guard.stdout.readline() == b"True\n"
    guard.stdin.close()
    guard.wait(30.0)
    guard.stdout.close()
