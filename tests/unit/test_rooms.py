"""Fails when a room imports what docs/design.md keeps from it, and says which file, line and module.

The rules are those of the design's table with the exceptions of docs/decisions/0002. Imports are read
from the syntax tree, so that one inside a function or under TYPE_CHECKING counts as well.
"""

from __future__ import annotations

import ast
import re
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


class Room(NamedTuple):
    """What a room may take from the others, and what it may take from nobody."""

    ours: tuple[str, ...]
    never: tuple[str, ...] = ()


GROUND = ("contracts", "clients")
ROOMS = {
    "contracts": Room(ours=(), never=KAFKA + ROCKSDB + HTTP),
    "clients": Room(ours=("contracts",), never=ROCKSDB),
    "stream": Room(ours=(*GROUND, "state", "models"), never=ROCKSDB),
    "state": Room(ours=("contracts",), never=KAFKA + HTTP),
    "models": Room(ours=("contracts",), never=KAFKA + ROCKSDB + HTTP),
    "serving": Room(ours=(*GROUND, "models", "state.formulas"), never=ROCKSDB),
    "replay": Room(ours=GROUND, never=ROCKSDB),
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
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


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
        ("serving/scorer.py", "from state.tables import Tables", "must not import state.tables.Tables"),
        ("serving/scorer.py", "from stream import app", "must not import stream.app"),
        ("serving/scorer.py", "import stream", "must not import stream"),
        ("replay/log.py", "from models.online import bayes", "must not import models.online.bayes"),
        ("contracts/events.py", "import clients.topics", "contracts/ must not import clients.topics"),
        ("clients/topics.py", "import stream.app", "clients/ must not import stream.app"),
        ("replay/log.py", "import stream.topics_of_mine", "must not import stream.topics_of_mine"),
        ("stream/tick.py", "import rocksdict", "no place in stream/"),
        ("stream/tick.py", "from replay import log", "must not import replay.log"),
        ("stream/tick.py", "import surgeline.broker", "must not import surgeline.broker"),
        ("stream/tick.py", "import bench.tick", "must not import bench.tick"),
        ("surgeline/demo.py", "import bench.tick", "must not import bench.tick"),
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
        ("serving/scorer.py", "from state.formulas import rates\nfrom state import formulas"),
        ("replay/log.py", "from contracts.events import Action\nfrom clients import topics"),
        ("models/deep/fits/network.py", "import torch\nfrom .torch_network import Network"),
        ("models/deep/x.py", "from contracts.weights import Weights\nimport json, modes"),
        ("bench/tick.py", "import torch, surgeline.broker, stream.tick, rocksdict"),
    ],
)
def test_what_is_allowed_passes(path: str, source: str) -> None:
    assert breaches(path, source) == []
