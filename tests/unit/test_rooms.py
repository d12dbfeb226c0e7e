"""Fails when a room imports what docs/design.md keeps from it, when files import each other in a circle,
or when another file than clients/launch.py starts a process.

The rules are those of the design's table with the exceptions of docs/decisions/0002. Imports are read
from the syntax tree, so that one inside a function or under TYPE_CHECKING counts as well. A breach names
file, line and module; a circle names its files in order.
"""

from __future__ import annotations

import ast
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

KAFKA = ("kafka", "aiokafka", "confluent_kafka", "faust", "mode")
ROCKSDB = ("rocksdict", "rocksdb")
HTTP = ("aiohttp", "http", "urllib.request", "urllib3", "requests", "httpx", "flask", "fastapi", "starlette")
TORCH = ("torch",)
#: Reading any of these runs what the file says.
PICKLES = ("pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal")
TORCH_FILES = ("models/deep/fits/network.py", "models/deep/fits/torch_network.py")

#: The file that starts processes.
LAUNCH = "clients/launch.py"
#: Any of these starts, or becomes, another process.
STARTERS = re.compile(
    r"subprocess\.(Popen|run|call|check_call|check_output|getoutput|getstatusoutput)"
    r"|asyncio\.(create_subprocess_\w+|subprocess\.\w+)"
    r"|os\.(system|popen|fork|forkpty|exec\w+|spawn\w+|posix_spawnp?)"
    r"|pty\.(fork|spawn)|multiprocessing(\..+)?|concurrent\.futures\.(ProcessPoolExecutor|process(\..+)?)"
)


class Room(NamedTuple):
    """What a room may take from the others, and what it may take from nobody."""

    ours: tuple[str, ...]
    never: tuple[str, ...] = ()


GROUND = ("contracts", "clients", "features")
ROOMS = {
    "contracts": Room(ours=(), never=KAFKA + ROCKSDB + HTTP),
    "clients": Room(ours=("contracts",), never=ROCKSDB),
    "features": Room(ours=("contracts",), never=KAFKA + ROCKSDB + HTTP),
    "stream": Room(ours=(*GROUND, "state", "models"), never=ROCKSDB),
    "state": Room(ours=("contracts", "features"), never=KAFKA + HTTP),
    "models": Room(ours=("contracts", "features"), never=KAFKA + ROCKSDB + HTTP),
    "serving": Room(ours=(*GROUND, "models"), never=ROCKSDB),
    "replay": Room(ours=("contracts", "clients"), never=ROCKSDB),
    "bench": Room(ours=(*GROUND, "stream", "state", "models", "serving", "replay", "surgeline")),
    "surgeline": Room(ours=(*GROUND, "stream", "state", "models", "serving", "replay")),
}


def within(module: str, names: tuple[str, ...]) -> bool:
    """Whether ``module`` is one of ``names`` or lies inside one."""
    return any(module == name or module.startswith(f"{name}.") for name in names)


def imports(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that ``source``, a module of ``package``, imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("import_module", "__import__"):
                yield from ((node.lineno, text) for text in texts(node.args[0]))


def texts(node: ast.expr) -> Iterator[str]:
    """The module that an argument names; of an f-string its beginning and a star: every module below."""
    if isinstance(node, ast.JoinedStr) and node.values:
        yield from (f"{text.rstrip('.')}.*" for text in texts(node.values[0]))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def parents(module: str) -> list[str]:
    """The packages that ``module`` lies in, the outermost first."""
    parts = module.split(".")
    return [".".join(parts[:k]) for k in range(1, len(parts))]


def module_of(path: str) -> str:
    """The module's name of a file: ``a/b.py`` is ``a.b``, ``a/__init__.py`` is ``a``."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def import_graph(sources: dict[str, str]) -> dict[str, list[str]]:
    """Which files each file imports: ``sources`` has their text by path.

    A package's ``__init__`` runs when a module inside it is imported, and so it counts, except for the
    packages that the importing file lies in itself: those have begun already.
    """
    path_of = {module_of(path): path for path in sources}
    found = {}
    for path, source in sources.items():
        package = path.rpartition("/")[0].replace("/", ".")
        own = {module_of(path), *parents(module_of(path))}
        names: set[str] = set()
        for _, name in imports(source, package):
            if name.endswith(".*"):
                names.update(module for module in path_of if module.startswith(name[:-1]))
                continue
            module = next((m for m in (name, *reversed(parents(name))) if m in path_of), None)
            if module is not None:
                names.update({module, *(set(parents(module)) & set(path_of) - own)})
        found[path] = sorted({path_of[name] for name in names} - {path})
    return found


def circle(graph: dict[str, list[str]]) -> list[str]:
    """A shortest circle of files, its first file repeated at the end; empty where there is none."""
    best: list[str] = []
    for start in sorted(graph):
        came: dict[str, str] = {}
        queue = deque([start])
        while queue and start not in came:
            file = queue.popleft()
            for other in graph[file]:
                if other not in came:
                    came[other] = file
                    queue.append(other)
        if start in came:
            way = [start]
            while len(way) == 1 or way[-1] != start:
                way.append(came[way[-1]])
            if not best or len(way) < len(best):
                best = way[::-1]
    return best


def starts(path: str, source: str) -> list[str]:
    """Every place in ``source`` that starts a process, by attribute or by an imported name."""
    found = list(imports(source, path.rpartition("/")[0].replace("/", ".")))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            found.append((node.lineno, ast.unparse(node)))
    names = ((line, name) for line, name in found if STARTERS.fullmatch(name))
    return [f"{path}:{line}: {name} belongs to {LAUNCH}" for line, name in names]


def breaches(path: str, source: str) -> list[str]:
    """Every import in ``source`` that the room of ``path`` does not allow."""
    room = path.partition("/")[0]
    rule = ROOMS[room]
    package = path.rpartition("/")[0].replace("/", ".")
    found = []
    for line, module in imports(source, package):
        top = module.partition(".")[0]
        if top in ROOMS and top != room and not within(module, rule.ours):
            found.append(f"{path}:{line}: {room}/ must not import {module}")
        if within(module, rule.never):
            found.append(f"{path}:{line}: {module} has no place in {room}/")
        if within(module, PICKLES):
            found.append(f"{path}:{line}: {module} runs what it reads")
        if within(module, TORCH) and path not in TORCH_FILES and room != "bench":
            found.append(f"{path}:{line}: torch belongs to {', '.join(TORCH_FILES)}")
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files, f"{room}/ has no modules: the rule would hold for nothing"
    found = [
        breach
        for file in files
        for breach in breaches(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def test_no_files_import_each_other_in_a_circle() -> None:
    files = sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))
    graph = import_graph({file.relative_to(ROOT).as_posix(): file.read_text("utf-8") for file in files})
    assert sum(map(len, graph.values())) > len(graph), "next to no imports were found"
    found = circle(graph)
    assert not found, "a circle of imports: " + " -> ".join(found)


def test_processes_are_started_in_one_file() -> None:
    files = [file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))]
    found = {
        path: starts(path, file.read_text(encoding="utf-8"))
        for file in files
        for path in [file.relative_to(ROOT).as_posix()]
    }
    assert len(found.pop(LAUNCH)) > 2, "the file that starts processes hardly starts any"
    assert not any(found.values()), "\n".join(line for lines in found.values() for line in lines)


def test_the_rules_cover_every_room_of_the_design() -> None:
    """A folder that the design's table gains, or a new package, must get a rule here."""
    table = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").partition("## Rooms")[2]
    named = set(re.findall(r"^\| `(\w+)/` \|", table, flags=re.MULTILINE))
    packages = {file.parent.name for file in ROOT.glob("*/__init__.py")}
    assert named | {"surgeline"} == set(ROOMS) == packages


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("state/store.py", "import stream.engine", "state/ must not import stream.engine"),
        ("state/store.py", "def f():\n    from models import train", "must not import models.train"),
        ("state/store.py", "from aiokafka import AIOKafkaConsumer", "no place in state/"),
        ("state/store.py", "import torch.nn", "torch belongs to"),
        ("models/online/x.py", "import rocksdict", "no place in models/"),
        ("models/deep/x.py", "from http.client import HTTPConnection", "no place in models/"),
        ("models/deep/x.py", "from torch import nn", "torch belongs to"),
        ("models/deep/x.py", "from ...state import join", "must not import state.join"),
        ("serving/scorer.py", "from state.store import Store", "must not import state.store.Store"),
        ("serving/scorer.py", "from stream import app", "must not import stream.app"),
        ("serving/scorer.py", "import stream", "must not import stream"),
        ("replay/log.py", "from models.online import bayes", "must not import models.online.bayes"),
        ("features/plan.py", "import state.store", "features/ must not import state.store"),
        ("features/plan.py", "import rocksdict", "no place in features/"),
        ("features/families/counts.py", "import aiokafka", "no place in features/"),
        ("models/online/x.py", "import state.store", "must not import state.store"),
        ("contracts/events.py", "import clients.topics", "contracts/ must not import clients.topics"),
        ("clients/topics.py", "import stream.app", "clients/ must not import stream.app"),
        ("replay/log.py", "import stream.topics_of_mine", "must not import stream.topics_of_mine"),
        ("stream/tick.py", "import rocksdict", "no place in stream/"),
        ("stream/tick.py", "from replay import log", "must not import replay.log"),
        ("stream/tick.py", "import surgeline.local.broker", "must not import surgeline.local.broker"),
        ("stream/tick.py", "import bench.tick", "must not import bench.tick"),
        ("surgeline/local/demo.py", "import bench.tick", "must not import bench.tick"),
        ("stream/tick.py", "import importlib\nimportlib.import_module('replay.log')", "import replay.log"),
        ("bench/tick.py", "import pickle", "runs what it reads"),
        ("models/train.py", "from joblib import load", "runs what it reads"),
    ],
)
def test_a_breach_is_found(path: str, source: str, expected: str) -> None:
    """The check can fail: each kind of rule, broken once."""
    found = breaches(path, source)
    assert len(found) == 1 and expected in found[0]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("stream/tick.py", "from models.online import bayes\nimport state.store\nfrom . import events"),
        ("serving/scorer.py", "from features.plan import Plan\nfrom models.online import bayes"),
        ("replay/log.py", "from contracts.events import Action\nfrom clients import topics"),
        ("models/deep/fits/network.py", "import torch\nfrom .torch_network import Network"),
        ("models/deep/x.py", "from contracts.weights import Weights\nimport json, modes"),
        ("bench/tick.py", "import torch, surgeline.local.broker, stream.tick, rocksdict"),
    ],
)
def test_what_is_allowed_passes(path: str, source: str) -> None:
    assert breaches(path, source) == []


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ({"a/x.py": "import a.y", "a/y.py": "from a import x"}, "a/x.py a/y.py a/x.py"),
        (
            {
                "a/x.py": "def f():\n    from a.y import g",
                "a/y.py": "import b.z",
                "b/z.py": "from a.x import f",
            },
            "a/x.py a/y.py b/z.py a/x.py",
        ),
        (
            {
                "a/x.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .y import Y",
                "a/y.py": "import a.x",
            },
            "a/x.py a/y.py a/x.py",
        ),
        (
            {"a/x.py": "import b.y", "b/__init__.py": "import a.x", "b/y.py": ""},
            "a/x.py b/__init__.py a/x.py",
        ),
        (
            {
                "a/x.py": "from importlib import import_module\nimport_module(f'b.{1}')",
                "b/y.py": "import a.x",
            },
            "a/x.py b/y.py a/x.py",
        ),
        # A package that gives out its own modules' names, and files that only share what is below them.
        ({"a/__init__.py": "from a.x import X", "a/x.py": "from a.y import Y", "a/y.py": ""}, ""),
        ({"a/x.py": "import a.z", "a/y.py": "from a import x, z", "a/z.py": "import os"}, ""),
    ],
)
def test_a_circle_is_found(sources: dict[str, str], expected: str) -> None:
    """The check can fail: each way to import, once in a circle, and what is none."""
    assert circle(import_graph(sources)) == expected.split()


@pytest.mark.parametrize(
    "source",
    [
        "import subprocess\nsubprocess.run(['ps'])",
        "import subprocess\nstart = subprocess.Popen",
        "def f():\n    from subprocess import check_output",
        "import asyncio\nasyncio.create_subprocess_exec('ps')",
        "import os\nos.execv('ps', [])",
        "import os\nos.posix_spawn('ps', [], {})",
        "from multiprocessing import Process",
        "from concurrent.futures import ProcessPoolExecutor",
    ],
)
def test_a_start_is_found(source: str) -> None:
    """The check can fail: each way to start a process, once."""
    assert len(starts("replay/x.py", source)) == 1


def test_what_starts_nothing_passes() -> None:
    source = (
        "import os, subprocess\ntry:\n    os.kill(1, 0)\nexcept subprocess.TimeoutExpired:\n    child.wait()"
    )
    assert starts("replay/x.py", source) == []
