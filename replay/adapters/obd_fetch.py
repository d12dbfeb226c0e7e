"""Fetch the Open Bandit logs out of the wheel obp 0.4.1, once, checked against its digest."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from clients.launch import finish
from replay.errors import DownloadError

PACKAGE = "obp==0.4.1"
WHEEL = "obp-0.4.1-py3-none-any.whl"
SHA256 = "87dec9caf4283c25ab13036532e0a24566f1c7bdcad1653a8ded43b2f5ef8208"
POLICIES = ("bts", "random")
CAMPAIGNS = ("all", "men", "women")

_INSIDE = "obp/dataset/obd"
_TIMEOUT_S = 600


def is_complete(folder: Path) -> bool:
    """Whether ``folder`` holds all six logs and their item tables."""
    return all((folder / part).is_file() for part in _parts())


def fetch(folder: Path) -> Path:
    """Download the wheel with pip and extract the logs into ``folder``; returns it.

    Raises ``DownloadError`` that says what to do without pip or without a network.
    """
    print(f"fetching Open Bandit Data ({PACKAGE}, 1.3 MB) into {folder}", file=sys.stderr)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".obd-") as temporary:
        scratch = Path(temporary)
        extract(_download(scratch), scratch / "obd")
        # A rename is atomic: two first uses at once, or a kill in between, leave no half a folder.
        try:
            os.replace(scratch / "obd", folder)
        except OSError:
            if not is_complete(folder):
                shutil.rmtree(folder, ignore_errors=True)
                os.replace(scratch / "obd", folder)
    return folder


def extract(wheel: Path, folder: Path) -> None:
    """Copy the six logs and their item tables out of ``wheel``, which must have the known digest."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != SHA256:
        raise DownloadError(
            f"{wheel.name}: sha256 is {digest}, expected {SHA256}; not the file that this release of "
            "Surgeline knows. Nothing was kept"
        )
    with zipfile.ZipFile(wheel) as archive:
        for part in _parts():
            target = folder / part
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(f"{_INSIDE}/{part}"))


def _download(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(scratch), PACKAGE]
    by_hand = (
        f"Get {WHEEL} from PyPI by hand, unpack {_INSIDE} from it, and name that folder in SURGELINE_OBD"
    )
    try:
        done = finish(command, _TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DownloadError(f"obd: pip could not be run: {error}. {by_hand}") from error
    if done.returncode != 0:
        if "No module named pip" in done.stderr:
            raise DownloadError(f"obd: this Python ({sys.executable}) has no pip. {by_hand}")
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no message"]
        raise DownloadError(
            f"obd: pip could not download {PACKAGE}: {lines[-1]}. Without a network: {by_hand}"
        )
    wheel = scratch / WHEEL
    if not wheel.is_file():
        raise DownloadError(f"obd: pip downloaded no {WHEEL}. {by_hand}")
    return wheel


def _parts() -> list[str]:
    names = []
    for policy in POLICIES:
        for campaign in CAMPAIGNS:
            names += [f"{policy}/{campaign}/{campaign}.csv", f"{policy}/{campaign}/item_context.csv"]
    return names
