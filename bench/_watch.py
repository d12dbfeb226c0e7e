"""Watch a process from outside: what it says it has done, beside the CPU seconds that it has used."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import psutil

from bench._registry import BenchError
from clients.launch import Child

#: Nothing is known about a process within this long after its start, or it makes no progress for as long.
PATIENCE_S = 120.0

Counts = Mapping[str, float]


class Sample(NamedTuple):
    """Counts at ``wall`` (monotonic seconds), and CPU seconds by then.

    ``cpu``: user + system of the process, all its threads; ``elsewhere``: of everything else on the machine.
    """

    wall: float
    cpu: float
    counts: Counts
    elsewhere: float = 0.0


class Rate(NamedTuple):
    """``events`` in ``wall_s`` seconds by the clock and ``cpu_s`` CPU seconds.

    ``elsewhere_s``: CPU seconds that the rest of the machine, the broker included, used meanwhile.
    """

    events: float
    wall_s: float
    cpu_s: float
    elsewhere_s: float = 0.0

    @property
    def per_s(self) -> float:
        return self.events / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def per_cpu_s(self) -> float:
        return self.events / self.cpu_s if self.cpu_s > 0 else 0.0

    @property
    def elsewhere_cores(self) -> float:
        """Cores that others kept busy, on average."""
        return self.elsewhere_s / self.wall_s if self.wall_s > 0 else 0.0


def between(first: Sample, last: Sample, events: Callable[[Counts], float]) -> Rate:
    """The rate from one sample to another."""
    return Rate(
        events(last.counts) - events(first.counts),
        last.wall - first.wall,
        last.cpu - first.cpu,
        last.elsewhere - first.elsewhere,
    )


def machine_cpu() -> float:
    """CPU seconds that this machine has spent on processes since it started."""
    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "nice", 0.0))


def steady(samples: Sequence[Sample], events: Callable[[Counts], float], low: float, high: float) -> Rate:
    """The rate between the first samples that reach ``low`` and ``high`` events.

    Both ends lie where the count has just moved, so that a count that moves in steps is not cut between
    two of them. Raises ``BenchError`` where that is not two different samples.
    """
    moved = [b for a, b in pairwise(samples) if events(b.counts) > events(a.counts)]
    first = next((s for s in moved if events(s.counts) >= low), None)
    last = next((s for s in moved if events(s.counts) >= high), None)
    if first is None or last is None or events(last.counts) <= events(first.counts):
        raise BenchError(f"too few samples between {low:,.0f} and {high:,.0f} events to tell a rate")
    return between(first, last, events)


def prometheus(text: str) -> dict[str, float]:
    """Samples of a Prometheus page by their full name, labels as they stand there.

    >>> prometheus('# HELP a b\\na_total{kind="x"} 3.0\\nb 1')
    {'a_total{kind="x"}': 3.0, 'b': 1.0}
    """
    lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def get(url: str, timeout_s: float = 10.0) -> str | None:
    """The page, or None where it is not there yet."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError):
        return None


def watch(child: Child, counts: Callable[[], Counts | None], every_s: float) -> Iterator[Sample]:
    """Samples of a running process, forever. Raises ``BenchError`` where it ends or stands still."""
    process = psutil.Process(child.pid)
    moved, before = time.monotonic(), None
    while True:
        now = counts()
        status = child.poll()
        if status is not None:
            raise BenchError(f"the process ended with status {status}: {child.last_line()}")
        wall = time.monotonic()
        if now is not None:
            used = process.cpu_times()
            cpu = used.user + used.system
            yield Sample(wall, cpu, now, machine_cpu() - cpu)
        if now != before:
            moved, before = wall, now
        elif wall - moved > PATIENCE_S:
            raise BenchError(f"no progress for {PATIENCE_S:.0f} s: {child.last_line()}")
        time.sleep(every_s)
