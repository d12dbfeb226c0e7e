"""Latency of score requests with 1,000 candidates over HTTP and JSON, beside the usual way to write it.

All sides are servers in processes of their own, which get the same requests at a steady rate, one side after
the other in every round:

* ``engine``: the scorer behind ``surgeline serve`` with the default features, every row read from bytes.
* ``first_edition``: the scorer of this repository's first edition, by its own code out of the history, with
  its 30 features of four keys; left out where there is no history.
* ``peer``: an aiohttp handler with rows in dictionaries and features by NumPy (``bench._serving_peer``); it
  computes a part of the features only and is asked less often, which favours it.

None has a trunk: what is asked is what features cost. A latency counts from the moment at which a request was
due, so that waiting for the one before it is in it. CPU is that of the server's process.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import aiohttp
import numpy as np
import psutil

from bench import _machine, _serving_first
from bench._registry import BenchError, Options, Result
from bench._serving_rows import CANDIDATES, Size, requests
from clients.launch import Child, finish
from surgeline.local.broker import free_port

HOST = "127.0.0.1"
#: Different requests, sent in turn; those before the first one that counts.
BODIES, WARM_UP = 50, 100
#: Seconds that a side may take to load its rows.
START_S = 180.0


class Load(NamedTuple):
    """``requests`` a round and side."""

    size: Size
    requests: int
    rounds: int


FULL = Load(Size(items=20_000, users=2_000, lists=3_000), requests=1_000, rounds=5)
QUICK = Load(Size(items=5_000, users=500, lists=500), requests=300, rounds=2)
#: Requests a second. The peer cannot answer as many as the others.
RATES = {"engine": 120.0, "first_edition": 120.0, "peer": 40.0}
SIDES = {
    "engine": "engine, default features",
    "first_edition": "first edition, 30 features",
    "peer": "peer: dictionaries and NumPy",
}
#: The first edition's last commit, and what its scorer needs of it.
FIRST_EDITION = "376bc88c"
ROOMS_OF_FIRST = ("serving", "state", "models", "stream")
ROOT = Path(__file__).parents[1]


def measure(options: Options) -> Result:
    """Start both servers, send to each in turn, check the answers."""
    load = QUICK if options.quick else FULL
    facts = _machine.facts()
    bodies = [json.dumps(request).encode() for request in requests(load.size, BODIES)]
    with tempfile.TemporaryDirectory(prefix="surgeline-bench-") as name:
        children: dict[str, tuple[Child, int]] = {}
        try:
            for side in SIDES:
                port, log = free_port(), Path(name) / f"{side}.log"
                if side != "first_edition":
                    argv = [sys.executable, "-m", "bench._serving_sides", side, str(port)]
                    children[side] = Child([*argv, *map(str, load.size)], log), port
                elif (folder := _first_edition(Path(name))) is not None:
                    children[side] = _first_server(folder, log, port, load.size), port
            rounds = asyncio.run(_rounds(children, bodies, load, options.repeats or load.rounds))
        finally:
            for child, _ in children.values():
                child.stop()
    result: Result = {side: _median([one[side] for one in rounds]) for side in children}
    for other in set(children) - {"engine"}:
        for key in ("p50_ms", "p99_ms", "cpu_ms"):
            # Of pairs in one round: what else the machine does meets both sides alike.
            ratios = [one[other][key] / one["engine"][key] for one in rounds]
            result[f"{other}_to_engine_{key}"] = statistics.median(ratios)
    return result | {
        "candidates": CANDIDATES,
        "rates": RATES,
        "rounds": rounds,
        "quick": options.quick,
        "machine": facts,
    }


def _first_edition(folder: Path) -> Path | None:
    """The first edition's code in a folder, or None where the repository does not have it."""
    packed = folder / "first.tar"
    argv = ["git", "-C", str(ROOT), "archive", "-o", str(packed), FIRST_EDITION, *ROOMS_OF_FIRST]
    try:
        done = finish(argv)
    except OSError:
        return None
    if done.returncode:
        return None
    with tarfile.open(packed) as tar:
        tar.extractall(folder / "first", filter="data")
    return folder / "first"


def _first_server(folder: Path, log: Path, port: int, size: Size) -> Child:
    # -P: the folder of the script, which is ours, is not searched for modules.
    argv = [sys.executable, "-P", _serving_first.__file__, *map(str, (port, size.items, size.users))]
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return Child(argv, log, {**os.environ, "PYTHONPATH": path})


def _median(rounds: list[Result]) -> Result:
    return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}


async def _rounds(
    children: dict[str, tuple[Child, int]], bodies: list[bytes], load: Load, repeats: int
) -> list[dict[str, Result]]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60.0)) as session:
        for child, port in children.values():
            await _ready(session, child, port, bodies[0])
        found = []
        for _ in range(repeats):
            # Rounds, not blocks: what else the machine does meets both sides alike.
            one = {}
            for side, (child, port) in children.items():
                await _send(session, port, bodies, RATES[side], WARM_UP)
                before = _cpu_s(child)
                latencies = await _send(session, port, bodies, RATES[side], load.requests)
                p50, p99 = np.percentile(latencies, [50, 99]) * 1000.0
                one[side] = {
                    "p50_ms": float(p50),
                    "p99_ms": float(p99),
                    "cpu_ms": (_cpu_s(child) - before) / load.requests * 1000.0,
                }
            found.append(one)
        return found


async def _ready(session: aiohttp.ClientSession, child: Child, port: int, body: bytes) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise BenchError(f"a server ended: {child.last_line()}")
        try:
            await _score(session, port, body)
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.2)
        else:
            return
    raise BenchError(f"a server was not there after {START_S:g} s")


async def _score(session: aiohttp.ClientSession, port: int, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    async with session.post(f"http://{HOST}:{port}/score", data=body, headers=headers) as response:
        answer = await response.read()
    if response.status != 200 or answer.count(b",") < CANDIDATES - 1:
        raise BenchError(f"status {response.status}: {answer[:200]!r}")


async def _send(
    session: aiohttp.ClientSession, port: int, bodies: list[bytes], rate: float, count: int
) -> list[float]:
    """Seconds from when each request was due to its answer."""
    latencies: list[float] = []
    began = time.perf_counter() + 0.05

    async def one(number: int) -> None:
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await _score(session, port, bodies[number % len(bodies)])
        latencies.append(time.perf_counter() - due)

    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            tasks.create_task(one(number))
    return latencies


def _cpu_s(child: Child) -> float:
    times = psutil.Process(child.pid).cpu_times()
    return float(times.user + times.system)


def broken(result: Result) -> list[str]:
    """The engine must be faster than the usual way and not slower than the first edition, by the clock and
    in CPU."""
    words = {"p50_ms": "the median request", "cpu_ms": "CPU a request"}
    return [
        f"{what}: {result['engine'][key]:.1f} ms, {SIDES[other]} {result[other][key]:.1f} ms"
        for other in SIDES
        for key, what in words.items()
        if f"{other}_to_engine_{key}" in result and result[f"{other}_to_engine_{key}"] < 1.0
    ]


def table(result: Result) -> str:
    """Figures, peers and limits in words."""
    machine, holds = result["machine"], "BROKEN" if broken(result) else "holds"
    sides = [side for side in SIDES if side in result]
    lines = [
        f"Score requests of {result['candidates']:,} candidates over HTTP and JSON, "
        f"median of {len(result['rounds'])} rounds",
        "",
        f"{'':<32}{'a second':>10}{'p50 ms':>10}{'p99 ms':>10}{'CPU ms':>10}",
    ]
    for side in sides:
        one = result[side]
        lines.append(
            f"{SIDES[side]:<32}{result['rates'][side]:>10g}{one['p50_ms']:>10.1f}{one['p99_ms']:>10.1f}"
            f"{one['cpu_ms']:>10.2f}"
        )
    lines.append("")
    for other in sides[1:]:
        ratios = (f"{key} {result[f'{other}_to_engine_{key}_ms']:.2f}" for key in ("p50", "p99", "cpu"))
        lines.append(f"{other} / engine, rounds as pairs: {', '.join(ratios)}")
    if "first_edition" not in result:
        lines.append("The first edition is not measured: this is no checkout with its history.")
    lines += [
        f"Limit of p50 and CPU: 1, which {holds}.",
        "",
        "From the moment a request was due to the last byte of its answer, without a trunk; CPU of the",
        "server's process a request. The peer computes a part of the features.",
        f"Machine: {machine['cores']} cores, {machine['cpu']}, {machine['memory_gb']} GB, "
        f"{machine['system']}, Python {machine['python']}, load before {machine['load']}.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    from bench.__main__ import main

    main(["serving", *sys.argv[1:]])
