"""The families' reference page, generated from their files: ``python -m features.families_reference``."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import msgspec
from msgspec.inspect import StructType

from contracts.scenario_reference import sections
from features.declared import Settings, kinds_of_families

_HEAD = """\
# Families of features

Generated from `features/families/`; do not edit this page, run
`python -m features.families_reference > docs/families.md`.

A family is a table of a scenario's `[features]`; how to declare one, and how to write one, is told in
[features](features.md). All ranges are those of honest values: what lies outside is cut off, and what is
unknown has its neutral value. log is the natural logarithm.
"""


def page() -> str:
    """Settings that families share, then each family: its formulas, and what may be declared."""
    shared = next(iter(sections(_struct(Settings), "features")))
    families = sorted(kinds_of_families().items())
    return "\n".join([_HEAD, shared, *(_family(name, kind) for name, kind in families)])


def _family(name: str, kind: type[Any]) -> str:
    told = inspect.getdoc(sys.modules[kind.__module__]) or ""
    declared = next(iter(sections(_struct(kind), f"features.{name}", many=True)))
    # A docstring begins with what the table is called; here that is the title.
    declared = declared.replace(f"`[[features.{name}]]`: ", "").replace("other. \n", "other.\n")
    return f"{declared}\n{_markdown(told)}\n"


def _markdown(text: str) -> str:
    """A docstring as Markdown: names in single backticks, indented formulas as they stand."""
    return text.replace("::\n", ":\n").replace("``", "`")


def _struct(kind: type[Any]) -> StructType:
    found = msgspec.inspect.type_info(kind)
    assert isinstance(found, StructType)
    return found


if __name__ == "__main__":
    print(page(), end="")
