"""Faults of processes: a broker that stops answering for a while, a worker that dies, at a place in the log.

START is a place in the log, as that of every fault; LENGTH is real time at any speed, since the clients of a
broker count in real time. A pause runs in a thread of its own: the replay keeps its pace and sends what it
could not when the broker is back. Restarting a killed worker is its supervisor's job.

Signals go only to processes of this machine and of the replay's own user. While a broker is paused, a small
process of its own waits for our end: a replay that is itself killed leaves no broker paused behind.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clients.launch import finish, guardian
from replay.fault_options import OF_PROCESSES, Fault, parse_fault
from replay.simulate.faults import FaultError

_PROC = Path("/proc")
_OPTION = {"broker_pause": "--broker-pid", "worker_kill": "--worker-pid"}
#: Reads until the replay closes its end, by whatever way, and wakes every target.
_GUARDIAN = 'trap "" INT TERM HUP; echo; read -r _; for t; do kill -s CONT -- "$t"; done'


class ProcessFaultError(FaultError):
    """A process fault cannot be done; the message names the fault and says why."""


class NoPidError(ProcessFaultError):
    """Nobody said which process."""


class NoProcessError(ProcessFaultError):
    """There is no such process on this machine, or no longer."""


class NotPermittedError(ProcessFaultError):
    """The process is another user's, or one that a replay must not touch."""


class UnsupportedPlatformError(ProcessFaultError):
    """This system has no SIGSTOP."""


class _Process(NamedTuple):
    """A process as it was found; ``born`` tells it from a later one of the same number."""

    pid: int
    born: str


@dataclass(slots=True)
class _Planned:
    """One fault: where in the log it is due, whom it means, and what became of it."""

    fault: Fault
    at_ms: int
    process: _Process
    done: str = ""
    running: Future[None] | None = None


class ProcessFaults:
    """The process faults of one replay; a context, at whose end no process is paused any more.

    Raises a `ProcessFaultError` at once for what cannot be done. A START of two durations (``20s-40s``) is
    drawn from (seed, name, how many of that name came before).
    """

    def __init__(
        self,
        faults: Sequence[str | Fault] = (),
        seed: int = 0,
        *,
        broker_pid: int | None = None,
        worker_pid: int | None = None,
    ) -> None:
        pids = {"broker_pause": broker_pid, "worker_kill": worker_pid}
        nth: Counter[str] = Counter()
        self._planned: list[_Planned] = []
        for fault in [parse_fault(fault) if isinstance(fault, str) else fault for fault in faults]:
            if fault.name not in OF_PROCESSES:
                raise FaultError(f"fault {fault.name} is of the log, not of a process")
            if not hasattr(signal, "SIGSTOP"):
                raise UnsupportedPlatformError(f"fault {fault.name}: this system has no SIGSTOP and SIGKILL")
            low, high = fault.values["start"]
            drawn = np.random.default_rng([seed, zlib.crc32(fault.name.encode()), nth[fault.name]])
            nth[fault.name] += 1
            process = _find(fault.name, fault.values["pid"] or pids[fault.name])
            self._planned.append(_Planned(fault, int(drawn.integers(low, high + 1)), process))
        killed = Counter(plan.process.pid for plan in self._planned if plan.fault.name == "worker_kill")
        for pid in (pid for pid, times in killed.items() if times > 1):
            raise NoProcessError(f"fault worker_kill: process {pid} can be killed only once")
        self._waiting = sorted(self._planned, key=lambda plan: plan.at_ms)
        self._first_ms: int | None = None
        self._over = threading.Event()
        # One thread: pauses that would overlap follow each other, and none ends another.
        self._thread: ThreadPoolExecutor | None = None

    def __enter__(self) -> ProcessFaults:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="broker-pause")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.release()
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
        if kind is None:
            self._raise_failed()

    def release(self) -> None:
        """End a pause now and begin no other: the replay is being stopped."""
        self._over.set()

    def finish(self) -> None:
        """Wait for the pauses that have begun; `release` ends them."""
        wait([plan.running for plan in self._planned if plan.running is not None])

    def cut(self, times: np.ndarray, bounds: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """``bounds`` of rows, cut where a fault is due; ``times`` (int64 (n,), ms) never fall."""
        if not self._planned or not times.size:
            yield from bounds
            return
        if self._first_ms is None:
            self._first_ms = int(times[0])
        due = [self._first_ms + plan.at_ms for plan in self._planned]
        places = sorted(set(np.searchsorted(times, due).tolist()))
        for start, stop in bounds:
            inner = [place for place in places if start < place < stop]
            yield from zip([start, *inner], [*inner, stop], strict=True)

    def reached(self, event_ms: int, events: int) -> None:
        """Do what is due before the event of ``event_ms`` (the log's time) is sent, after ``events`` were."""
        if self._first_ms is None:
            self._first_ms = event_ms
        self._raise_failed()
        while self._waiting and event_ms - self._first_ms >= self._waiting[0].at_ms:
            if self._over.is_set():
                return
            plan = self._waiting.pop(0)
            where = f"after {events:,} events, {(event_ms - self._first_ms) / 1000:.1f} s into the log"
            if plan.fault.name == "worker_kill":
                self._kill(plan, where)
            elif self._thread is not None:
                plan.running = self._thread.submit(self._pause, plan, where)

    def lines(self) -> Iterator[str]:
        """One line a fault, in the order in which they were asked for."""
        for plan in self._planned:
            what = {"broker_pause": "paused", "worker_kill": "killed"}[plan.fault.name]
            done = plan.done or "0 (the replay ended before)"
            yield f"fault {plan.fault.text}: {what} {done}"

    def _kill(self, plan: _Planned, where: str) -> None:
        _check_same("worker_kill", plan.process)
        _send("worker_kill", plan.process.pid, signal.SIGKILL)
        plan.done = f"1 (process {plan.process.pid} {where}, at {_now()})"

    def _pause(self, plan: _Planned, where: str) -> None:
        if self._over.is_set():
            return
        pid, when = plan.process.pid, _now()
        _check_same("broker_pause", plan.process)
        targets = _targets(pid)
        begun = time.monotonic()
        with _guarded(targets):
            for target in targets:
                _send("broker_pause", target, signal.SIGSTOP)
            self._over.wait(plan.fault.values["length"] / 1000)
        plan.done = f"1 (process {pid} for {time.monotonic() - begun:.2f} s {where}, at {when})"

    def _raise_failed(self) -> None:
        for plan in self._planned:
            if plan.running is not None and plan.running.done() and not plan.running.cancelled():
                plan.running.result()


@contextlib.contextmanager
def _guarded(targets: Sequence[int]) -> Iterator[None]:
    """At its end, and at ours if that comes first, every target gets SIGCONT."""
    argv = ["/bin/sh", "-c", _GUARDIAN, "surgeline-guardian", *map(str, targets)]
    guard = guardian(argv)
    assert guard.stdin is not None and guard.stdout is not None
    try:
        # It has said that it is there before anything is stopped.
        guard.stdout.readline()
        yield
    finally:
        for target in targets:
            # A broker that died in the meantime needs none.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(target, signal.SIGCONT)
        guard.stdin.close()
        guard.wait()
        guard.stdout.close()


def _find(name: str, pid: int | None) -> _Process:
    """The process that is meant, if it may be."""
    if pid is None:
        raise NoPidError(f"fault {name}: no process given; end it with :PID, or give {_OPTION[name]}")
    if pid == 1 or pid == os.getpid():
        raise NotPermittedError(f"fault {name}: process {pid} is {'init' if pid == 1 else 'this replay'}")
    born = _born(pid)
    if born is None:
        raise NoProcessError(f"fault {name}: there is no process {pid} on this machine")
    owner = _owner(pid)
    if owner is not None and owner != os.geteuid():
        raise NotPermittedError(f"fault {name}: process {pid} belongs to another user (uid {owner})")
    _send(name, pid, 0)
    if name == "broker_pause" and os.getpid() in _family(pid):
        raise NotPermittedError(f"fault {name}: process {pid} started this replay, and would stop it too")
    return _Process(pid, born)


def _check_same(name: str, process: _Process) -> None:
    if _born(process.pid) != process.born:
        raise NoProcessError(f"fault {name}: process {process.pid} ended before its fault was due")


def _send(name: str, target: int, number: int) -> None:
    try:
        os.kill(target, number)
    except (ProcessLookupError, OverflowError):
        raise NoProcessError(f"fault {name}: there is no process {abs(target)} on this machine") from None
    except PermissionError:
        raise NotPermittedError(f"fault {name}: no permission to signal process {abs(target)}") from None


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def _born(pid: int) -> str | None:
    """When the process began, as the system writes it; ``None`` without one, or where it is a zombie."""
    if (_PROC / "self" / "stat").exists():
        stat = _stat(pid)
        return None if stat is None or stat[0] in "ZX" else stat[19]
    return _ps(pid, "lstart")


def _owner(pid: int) -> int | None:
    if (_PROC / "self" / "stat").exists():
        try:
            return (_PROC / str(pid)).stat().st_uid
        except OSError:
            return None
    found = _ps(pid, "uid")
    return int(found) if found and re.fullmatch(r"[0-9]+", found) else None


def _ps(pid: int, column: str) -> str | None:
    return finish(["ps", "-o", f"{column}=", "-p", str(pid)]).stdout.strip() or None


def _family(pid: int) -> set[int]:
    """The process and, where there is /proc, those that it started and they in turn."""
    parents: dict[int, int] = {}
    for folder in _PROC.glob("[0-9]*"):
        stat = _stat(int(folder.name))
        if stat is not None and stat[0] not in "ZX":
            parents[int(folder.name)] = int(stat[1])
    family, size = {pid}, 0
    while len(family) != size:
        size = len(family)
        family |= {child for child, parent in parents.items() if parent in family}
    return family


def _targets(pid: int) -> list[int]:
    """What `kill` gets for the process: its family, and the whole group (negative) of each that leads one."""
    targets = []
    for member in sorted(_family(pid)):
        with contextlib.suppress(ProcessLookupError):
            leads = os.getpgid(member) == member and member != os.getpgrp()
            targets.append(-member if leads else member)
    return targets or [pid]


def _now() -> str:
    return f"{datetime.fromtimestamp(time.time(), UTC):%H:%M:%S.%f}"[:-3] + " UTC"
