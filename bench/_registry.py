"""The figures by name, and what every figure is asked and answers.

A figure is a module with ``measure(options) -> dict`` (JSON, its keys are an interface), ``table(result)``
(the same in words) and ``broken(result)`` (which of its limits do not hold; empty where all do).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Options:
    """``broker``: ``kafka``, ``embedded``, ``host:port``, or None for the best that this machine has.

    ``repeats``: how often each side is measured; None leaves it to the figure.
    """

    quick: bool = False
    broker: str | None = None
    repeats: int | None = None


class Figure(Protocol):
    """What a figure's module has."""

    def measure(self, options: Options) -> Result:
        """Measure; raises ``BenchError`` where what was measured did not do its job."""

    def table(self, result: Result) -> str:
        """The result in words: each figure, its peer, its limit, and how it was measured."""

    def broken(self, result: Result) -> list[str]:
        """The limits that do not hold, in words."""


class Entry(NamedTuple):
    """A module that is imported when its figure is asked for, and its line in the list."""

    module: str
    summary: str


#: Order of the list and of ``all``.
FIGURES: dict[str, Entry] = {
    "throughput": Entry("bench.throughput", "Events/s beside an idiomatic Faust agent and a bare fetch."),
    "memory": Entry("bench.memory", "Bytes of each thing that is held, beside a plain dictionary."),
    "state": Entry("bench.state", "A feature row to disk, beside a bare batch; ten million keys; a night."),
}


class BenchError(RuntimeError):
    """A figure could not be measured, or what ran did not do its job: there is no number then."""


def load(name: str) -> Figure:
    """The figure called ``name``. Raises ``KeyError`` for one that is not in ``FIGURES``."""
    return cast(Figure, importlib.import_module(FIGURES[name].module))
