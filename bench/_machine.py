"""What the numbers were measured on: machine, versions, broker."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from bench._registry import BenchError
from clients.connection import forget_security
from surgeline.local.broker import Broker, BrokerUnavailable, kafka_home
from surgeline.local.broker import BrokerError as StartError

PACKAGES = (
    *("faust-streaming", "aiokafka", "msgspec", "numpy", "river", "rocksdict"),
    *("lightgbm", "vowpalwabbit"),
)


class OnBroker(NamedTuple):
    """A broker that answers. ``private``: it was started for this run and ends with it."""

    bootstrap: str
    name: str
    private: bool


@contextlib.contextmanager
def broker(choice: str | None, folder: Path) -> Iterator[OnBroker]:
    """The broker of ``Options.broker``; a private one keeps its data in ``folder``."""
    if choice and ":" in choice:
        yield OnBroker(choice, f"the broker at {choice}", private=False)
        return
    if choice not in (None, "kafka", "embedded"):
        raise BenchError(f"--broker is kafka, embedded or host:port, not {choice!r}")
    forget_security()
    kind = choice or ("kafka" if kafka_home() is not None else "embedded")
    try:
        with Broker("kafka" if kind == "kafka" else "embedded", data_dir=folder) as running:
            name = "Apache Kafka" if kind == "kafka" else f"embedded (noida-db {version('noida-db')})"
            yield OnBroker(running.bootstrap, name, private=True)
    except (BrokerUnavailable, StartError) as error:
        raise BenchError(str(error)) from error


def facts() -> dict[str, Any]:
    """Machine and versions; ``load`` is the one-minute load average before anything was measured."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": round(psutil.getloadavg()[0], 2),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _cpu() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found.group(1)
    return platform.processor() or platform.machine()
