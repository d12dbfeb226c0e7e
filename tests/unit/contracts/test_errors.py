"""Fails when a typed error of ours lacks the one root, or the picture of the errors is not the code's.

Read from the syntax tree: a class is an error if one of its bases is, however far up and in whatever file.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from contracts import errors
from contracts.errors import SurgelineError

ROOT = Path(__file__).parents[3]
ROOT_NAME = "contracts.errors.SurgelineError"
#: Errors that never reach a caller outside their file, or that belong to click.
OTHERS = {
    "replay.fault_options._Wrong",
    "surgeline.local.demo._Interrupted",
    "surgeline.cli.OneLine",
}
#: Named as an error and none: what was refused is a value.
VALUES = {"serving.admission.Refused", "stream.decode.Refused"}


class Found(NamedTuple):
    """A class of ours by its full name, with the full names of its bases."""

    name: str
    bases: tuple[str, ...]


def classes(module: str, source: str) -> Iterator[Found]:
    """Every class in ``source``; bases by the names that the file's imports give them."""
    tree = ast.parse(source)
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            known.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
        elif isinstance(node, ast.ClassDef):
            known[node.name] = f"{module}.{node.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            bases = (ast.unparse(base) for base in node.bases)
            yield Found(f"{module}.{node.name}", tuple(known.get(base, base) for base in bases))


def ours() -> dict[str, Found]:
    packages = [file.parent for file in ROOT.glob("*/__init__.py")]
    found: dict[str, Found] = {}
    for file in sorted(file for package in packages for file in package.rglob("*.py")):
        module = file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        found.update({one.name: one for one in classes(module, file.read_text(encoding="utf-8"))})
    return found


def is_builtin_error(name: str) -> bool:
    kind = getattr(builtins, name, None)
    return inspect.isclass(kind) and issubclass(kind, BaseException)


def is_error(name: str, known: dict[str, Found]) -> bool:
    if name not in known:
        return is_builtin_error(name) or name == "click.ClickException"
    return any(is_error(base, known) for base in known[name].bases)


def has_root(name: str, known: dict[str, Found]) -> bool:
    return name == ROOT_NAME or any(has_root(base, known) for base in known[name].bases if base in known)


def without_root(known: dict[str, Found]) -> list[str]:
    """Errors, and what is named as one, that do not derive from the root."""
    return sorted(
        name
        for name in known
        if (is_error(name, known) or re.search(r"(Error|Refused|Unavailable)$", name))
        and not has_root(name, known)
    )


def picture(known: dict[str, Found]) -> str:
    """The tree of errors, one a line: name, the built-in error that it also is, and its module."""
    below: dict[str, list[str]] = {}
    for name, one in known.items():
        for base in one.bases:
            if base in known and has_root(base, known):
                below.setdefault(base, []).append(name)

    def lines(name: str, before: str) -> Iterator[str]:
        children = sorted(below.get(name, []), key=lambda child: (child.partition(".")[0], child))
        for child in children:
            last = child == children[-1]
            module, _, short = child.rpartition(".")
            also = ", ".join(base for base in known[child].bases if is_builtin_error(base))
            yield f"{before}{'└' if last else '├'}─ {short}{f' ({also})' if also else ''} - {module}"
            yield from lines(child, before + ("   " if last else "│  "))

    return "\n".join(["SurgelineError", *lines(ROOT_NAME, "")])


def test_every_error_of_ours_has_the_one_root() -> None:
    assert without_root(ours()) == sorted(OTHERS | VALUES)


def test_the_picture_shows_every_error() -> None:
    drawn = picture(ours())
    assert drawn in inspect.cleandoc(errors.__doc__ or ""), f"contracts/errors.py should show\n{drawn}"


def test_an_error_without_the_root_is_found() -> None:
    """The check can fail: by a built-in base, by one of another file, and by name alone."""
    known = ours()
    source = (
        "from replay.simulate.cli import OddError\nclass AError(ValueError): pass\nclass B(AError): pass\n"
        "class DiskUnavailable: pass\nfrom contracts.errors import SurgelineError as R\nclass Fine(R): pass"
    )
    known.update({one.name: one for one in classes("state.odd", source)})
    found = set(without_root(known)) - OTHERS - VALUES
    assert found == {"state.odd.AError", "state.odd.B", "state.odd.DiskUnavailable"}


def test_an_error_may_be_built_in_as_well() -> None:
    """Callers may go on catching what a library user expects; an OSError keeps its errno."""
    from clients.patience import PortInUseError
    from contracts.scenario import ScenarioError

    taken = PortInUseError(98, "taken")
    assert isinstance(taken, SurgelineError) and taken.errno == 98
    assert issubclass(ScenarioError, SurgelineError) and issubclass(ScenarioError, ValueError)
