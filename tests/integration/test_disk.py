"""Failure: a full, read-only or damaged disk under a worker's state: one true line in eight tracebacks, an
exit status that says that all is well, a state that is half a tick, or damage that is read as less.

Mechanism: a real file system that is full (tmpfs, where this user may mount) or a limit on the size of
files; a state folder whose bytes are damaged while the worker is down. Required: the worker ends with
status 1 and one line that names the folder and what to do, without a traceback; what stands there is the
last checkpoint, from which the next start goes on to the same counts and digest as without the fault.
"""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contracts.scenario import Scenario
from tests.integration.harness import TIMES, Playing, Sale, Worker, kept, rehearse

pytestmark = pytest.mark.one_broker

IMPRESSIONS = 6000
MEGABYTE = 1024 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("a full disk needs `mount`")
    if mounted.returncode != 0:
        pytest.skip(f"a full disk needs the right to mount a tmpfs: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def only_line(worker: Worker) -> str:
    """The one line by which a worker ended that was not told to."""
    assert worker.ended() == 1
    text = worker.text()
    assert "Traceback" not in text, text[-6000:]
    lines = [line for line in text.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, "\n".join(lines)
    assert text.splitlines()[-1] == lines[0]
    return lines[0]


def fill(folder: Path, left: int) -> Path:
    """A file that leaves so many bytes."""
    path = folder / "filler"
    with path.open("wb") as file:
        file.write(bytes(64 * MEGABYTE - used(folder) - left))
    return path


def used(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def test_a_disk_that_is_full_ends_the_worker_with_one_line(
    disk: Path, broker: str, scenario_factory: Callable[..., Scenario], tmp_path: Path
) -> None:
    scenario = scenario_factory(times=TIMES)
    first, second = Sale(IMPRESSIONS, 60.0).parts(2)
    worker = Worker(scenario, broker, disk, logs=tmp_path).ready()
    try:
        Playing(first, scenario, broker, watermark=False).report()
        worker.reached(impressions=1000)
        filler = fill(disk, left=MEGABYTE // 2)
        playing = Playing(second, scenario, broker)
        line = only_line(worker)
        assert f"state folder {worker.state_folder}" in line
        assert "no space left on device" in line and "last checkpoint" in line
        playing.report()

        worker = Worker(scenario, broker, disk, logs=tmp_path)
        assert "Make room on its disk" in only_line(worker)

        filler.unlink()
        worker = Worker(scenario, broker, disk, logs=tmp_path)
        worker.reached(impressions=IMPRESSIONS, samples=IMPRESSIONS)
        assert worker.stop() == 0

        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        worker = Worker(scenario, broker, disk, logs=tmp_path)
        assert "read-only file system" in only_line(worker)
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    finally:
        worker.end()
    state = kept(scenario, worker.state_folder)
    assert (state.impressions, state.duplicates) == (IMPRESSIONS, 0)
    assert state.digest == rehearse(scenario, broker, tmp_path / "rehearsed").digest


def test_a_limit_on_the_size_of_files_ends_the_worker_with_one_line(
    broker: str, scenario_factory: Callable[..., Scenario], tmp_path: Path
) -> None:
    scenario = scenario_factory(times=TIMES)
    worker = Worker(scenario, broker, tmp_path).ready()
    try:
        limit = MEGABYTE // 4
        resource.prlimit(worker.child.pid, resource.RLIMIT_FSIZE, (limit, limit))
        Playing(Sale(IMPRESSIONS, 60.0), scenario, broker).report()
        line = only_line(worker)
        assert f"state folder {worker.state_folder}" in line
        assert "file too large" in line and "last checkpoint" in line
        worker = Worker(scenario, broker, tmp_path)
        worker.reached(impressions=IMPRESSIONS, samples=IMPRESSIONS)
        assert worker.stop() == 0
    finally:
        worker.end()
    state = kept(scenario, worker.state_folder)
    assert state.digest == rehearse(scenario, broker, tmp_path / "rehearsed").digest


def test_a_damaged_state_ends_a_start_with_one_line_that_helps(
    broker: str, scenario_factory: Callable[..., Scenario], tmp_path: Path
) -> None:
    """Required, too: what the line says to do works; a state that is set aside can be put back."""
    scenario = scenario_factory(times=TIMES)
    worker = Worker(scenario, broker, tmp_path).ready()
    folder = worker.state_folder
    try:
        Playing(Sale(IMPRESSIONS, 60.0), scenario, broker).report()
        worker.reached(impressions=IMPRESSIONS, samples=IMPRESSIONS)
        assert worker.stop() == 0
        current = (folder / "CURRENT").read_bytes()
        (folder / "CURRENT").write_bytes(b"damaged")
        worker = Worker(scenario, broker, tmp_path)
        line = only_line(worker)
        advice = re.search(r"set it aside \((mv (\S+) (\S+))\) and start anew", line)
        assert f"state folder {folder} is damaged: " in line and advice
        assert re.search(r"weights and counts learned since 20\d\d-\d\d-\d\d \d\d:\d\d UTC are lost", line)

        subprocess.run(advice[1].split(), check=True)
        worker = Worker(scenario, broker, tmp_path).ready()
        assert worker.stop() == 0

        shutil.rmtree(folder)
        Path(advice[3]).rename(folder)
        (folder / "CURRENT").write_bytes(current)
        worker = Worker(scenario, broker, tmp_path).ready()
        assert worker.totals()["impressions"] == IMPRESSIONS
        assert worker.stop() == 0
    finally:
        worker.end()
