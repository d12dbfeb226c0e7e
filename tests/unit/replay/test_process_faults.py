"""Fails when a process fault hits the wrong process or moment, or leaves a process paused behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from contracts.scenario import Scenario
from replay import process_faults
from replay.cli import replay
from replay.fault_options import parse_fault
from replay.faulty import FaultyLog
from replay.files import write_log
from replay.pacing import Pace
from replay.player import Player
from replay.process_faults import (
    NoPidError,
    NoProcessError,
    NotPermittedError,
    ProcessFaults,
    UnsupportedPlatformError,
)
from replay.simulate.faults import FaultError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="states are read from /proc")

_SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(120)"]


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a group, as a broker does."""
    process = subprocess.Popen(_SLEEP, start_new_session=True)
    yield process
    process.kill()
    process.wait()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def soon(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def stopped(pid: int) -> bool:
    return state(pid) == "T"


def test_a_pause_stops_and_wakes_at_its_moment(child: subprocess.Popen[bytes]) -> None:
    faults = ProcessFaults(["broker_pause=2s:300ms"], broker_pid=child.pid)
    with faults:
        faults.reached(10_000, 0)
        faults.reached(11_999, 7)
        assert not stopped(child.pid)
        faults.reached(12_000, 8)
        assert soon(lambda: stopped(child.pid))
        faults.finish()
        assert not stopped(child.pid)
    (line,) = faults.lines()
    assert line.startswith(f"fault broker_pause=2s:300ms: paused 1 (process {child.pid} for 0.")
    assert "after 8 events, 2.0 s into the log, at " in line


def test_the_whole_family_is_paused() -> None:
    """A broker's starter may only wait for the broker, which is in a session of its own."""
    program = (
        f"import subprocess; c = subprocess.Popen({_SLEEP!r}, start_new_session=True); "
        "print(c.pid, flush=True); c.wait()"
    )
    starter = subprocess.Popen([sys.executable, "-S", "-c", program], stdout=subprocess.PIPE)
    assert starter.stdout is not None
    inner = int(starter.stdout.readline())
    try:
        with ProcessFaults([f"broker_pause=0:1h:{starter.pid}"]) as faults:
            faults.reached(0, 0)
            assert soon(lambda: stopped(inner) and stopped(starter.pid))
        assert not stopped(inner) and not stopped(starter.pid)
    finally:
        os.kill(inner, signal.SIGKILL)
        starter.wait()
        starter.stdout.close()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_replay_that_fails_leaves_nothing_paused(
    child: subprocess.Popen[bytes], error: type[BaseException]
) -> None:
    faults = ProcessFaults(["broker_pause=0:1h"], broker_pid=child.pid)
    with pytest.raises(error), faults:
        faults.reached(0, 0)
        assert soon(lambda: stopped(child.pid))
        raise error
    assert soon(lambda: not stopped(child.pid), 1.0)


def test_a_stopped_replay_wakes_the_broker_before_it_waits_for_it(
    make: Any, child: subprocess.Popen[bytes]
) -> None:
    faults = ProcessFaults(["broker_pause=0:1h"], broker_pid=child.pid)
    player = Player(make.steady(5), Scenario(), None, Pace(), processes=faults)
    with faults:
        faults.reached(0, 0)
        assert soon(lambda: stopped(child.pid))
        player.stop()
        faults.finish()
        assert not stopped(child.pid)


def test_a_replay_that_is_killed_leaves_nothing_paused(child: subprocess.Popen[bytes]) -> None:
    program = (
        "import time; from replay.process_faults import ProcessFaults\n"
        f"with ProcessFaults(['broker_pause=0:1h:{child.pid}']) as faults:\n"
        "    faults.reached(0, 0); time.sleep(120)"
    )
    player = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[3])
    try:
        assert soon(lambda: stopped(child.pid), 60.0)
    finally:
        player.kill()
        player.wait()
    assert soon(lambda: not stopped(child.pid))


def test_pauses_that_overlap_follow_each_other(child: subprocess.Popen[bytes]) -> None:
    with ProcessFaults(["broker_pause=0:200ms", "broker_pause=0:300ms"], broker_pid=child.pid) as faults:
        begun = time.monotonic()
        faults.reached(0, 0)
        faults.finish()
        assert time.monotonic() - begun >= 0.5
    assert [" paused 1 " in line for line in faults.lines()] == [True, True]


def test_a_kill_is_one_and_is_counted(child: subprocess.Popen[bytes]) -> None:
    with ProcessFaults([f"worker_kill=1s:{child.pid}"]) as faults:
        faults.reached(0, 0)
        assert child.poll() is None
        faults.reached(1_000, 12)
        assert child.wait(20) == -signal.SIGKILL
    (line,) = faults.lines()
    assert f"killed 1 (process {child.pid} after 12 events, 1.0 s into the log" in line


def test_what_the_log_does_not_reach_is_not_done(child: subprocess.Popen[bytes]) -> None:
    with ProcessFaults(["worker_kill=1h"], worker_pid=child.pid) as faults:
        faults.reached(0, 0)
    assert child.poll() is None
    assert list(faults.lines()) == ["fault worker_kill=1h: killed 0 (the replay ended before)"]


def test_a_process_that_ended_before_is_not_mistaken(child: subprocess.Popen[bytes]) -> None:
    with (
        pytest.raises(NoProcessError, match="ended before"),
        ProcessFaults(["broker_pause=0:1s"], broker_pid=child.pid) as faults,
    ):
        child.kill()
        child.wait()
        faults.reached(0, 0)
        faults.finish()


def test_a_drawn_start_belongs_to_its_seed(child: subprocess.Popen[bytes]) -> None:
    def starts(seed: int) -> list[int]:
        words = ["broker_pause=10s-20s:1s", "broker_pause=10s-20s:1s"]
        return [plan.at_ms for plan in ProcessFaults(words, seed, broker_pid=child.pid)._planned]

    assert starts(7) == starts(7) != starts(8)
    assert len({*starts(7), *starts(8)}) == 4
    assert all(10_000 <= at <= 20_000 for at in starts(7))


def test_portions_are_cut_where_a_fault_is_due(make: Any, child: subprocess.Popen[bytes]) -> None:
    """At full speed a portion is a whole chunk: the fault would come at its end or its start."""
    faults = ProcessFaults(["worker_kill=3s"], worker_pid=child.pid)
    times = np.arange(0, 10_000, 100, dtype=np.int64) + 5_000
    assert list(faults.cut(times, [(0, 60), (60, 100)])) == [(0, 30), (30, 60), (60, 100)]
    log = make.steady(100)
    player = Player(
        log, Scenario(), None, Pace(), processes=ProcessFaults(["worker_kill=3s"], worker_pid=child.pid)
    )
    made = [portion for many in player._make(log.chunks(1_000), 4) for portion in many]
    assert len(made) == 2 and made[1].first_ms == made[0].first_ms + 3_000
    assert sum(len(portion.records) for portion in made) == log.table.height


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("broker_pause=3s", "1 values in 'broker_pause=3s'; write broker_pause=START:LENGTH[:PID]"),
        ("broker_pause=soon:3s", "START is a duration such as 30s, or two such as 20s-40s"),
        ("broker_pause=40s-20s:3s", "START is a duration such as 30s, or two"),
        ("broker_pause=3s:-1s", "LENGTH is a duration"),
        ("worker_kill=3s:0", "PID is a whole number of at least 1"),
        ("worker_kill=3s:4:5", "3 values in 'worker_kill=3s:4:5'; write worker_kill=START[:PID]"),
        ("late=0.1", "fault late is of the log, not of a process"),
    ],
)
def test_a_wrong_fault_is_named_with_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(FaultError) as error:
        ProcessFaults([text], broker_pid=os.getppid())
    assert message in str(error.value)


def test_a_start_is_a_duration_or_two() -> None:
    assert parse_fault("worker_kill=30").values == {"start": (30_000, 30_000), "pid": None}
    assert parse_fault("broker_pause=20s-1m:500ms:9").values == {
        "start": (20_000, 60_000),
        "length": 500,
        "pid": 9,
    }


def test_processes_that_must_not_be_touched(
    make: Any, child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NoPidError, match="--broker-pid"):
        ProcessFaults(["broker_pause=1s:1s"], worker_pid=child.pid)
    with pytest.raises(NoPidError, match="--worker-pid"):
        ProcessFaults(["worker_kill=1s"], broker_pid=child.pid)
    with pytest.raises(NoProcessError, match="there is no process 99999999"):
        ProcessFaults(["worker_kill=1s:99999999"])
    with pytest.raises(NotPermittedError, match="process 1 is init"):
        ProcessFaults(["worker_kill=1s:1"])
    with pytest.raises(NotPermittedError, match="is this replay"):
        ProcessFaults([f"worker_kill=1s:{os.getpid()}"])
    with pytest.raises(NoProcessError, match="only once"):
        ProcessFaults(["worker_kill=1s", "worker_kill=2s"], worker_pid=child.pid)
    with pytest.raises(FaultError, match="of a process, not of the log"):
        FaultyLog(make.steady(5), ["worker_kill=1s"])
    monkeypatch.setattr(process_faults.os, "geteuid", lambda: 12_345)
    with pytest.raises(NotPermittedError, match="belongs to another user"):
        ProcessFaults(["worker_kill=1s"], worker_pid=child.pid)
    monkeypatch.delattr(process_faults.signal, "SIGSTOP")
    with pytest.raises(UnsupportedPlatformError, match="no SIGSTOP"):
        ProcessFaults(["worker_kill=1s"], worker_pid=child.pid)


def test_a_replay_does_not_pause_its_own_parents() -> None:
    with pytest.raises(NotPermittedError, match=r"started this replay|belongs to another|is init"):
        ProcessFaults(["broker_pause=1s:1s"], broker_pid=os.getppid())


def test_the_command_says_what_is_wrong_and_what_was_done(
    make: Any, tmp_path: Path, child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "steady.jsonl"
    write_log(make.steady(20).chunks(), file)

    def play(log: Any, *_: Any, processes: ProcessFaults, **options: Any) -> Any:
        from replay.player import PlayReport

        assert options["limit"] == 5 and not isinstance(log, FaultyLog)
        with processes:
            processes.reached(0, 3)
        return PlayReport(seconds=1.0)

    monkeypatch.setattr("replay.player.play", play)
    arguments = [str(file), "--limit", "5", "--fault", "worker_kill=0"]
    assert isinstance(CliRunner().invoke(replay, arguments).exception, NoPidError)
    done = CliRunner().invoke(replay, [*arguments, "--worker-pid", str(child.pid)])
    assert done.exit_code == 0, done.output
    assert f"fault worker_kill=0: killed 1 (process {child.pid} after 3 events" in done.output
    assert child.wait(20) == -signal.SIGKILL
