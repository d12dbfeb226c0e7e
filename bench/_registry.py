"""The figures by name, and what every figure is asked and answers.

A figure is a module with ``measure(options) -> dict`` (JSON, its keys are an interface), ``table(result)``
(the same in words) and ``broken(result)`` (which of its limits do not hold; empty where all do).
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

from contracts.errors import SurgelineError

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Options:
    """``broker``: ``kafka``, ``embedded``, ``host:port``, or None for the best that this machine has.

    ``repeats``: how often each side is measured; ``log``: the recorded log that is measured on; ``seeds``:
    how many simulated nights. None leaves each to the figure, and figures without a use for one pass it by.
    """

    quick: bool = False
    broker: str | None = None
    repeats: int | None = None
    log: str | None = None
    seeds: int | None = None


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
    "serving": Entry("bench.serving", "Latency of score requests beside a plain handler with dictionaries."),
    "memory": Entry("bench.memory", "Bytes of each thing that is held, beside a plain dictionary."),
    "accuracy": Entry(
        "bench.accuracy", "Clicks of a real log foretold, beside trees, River and Vowpal Wabbit."
    ),
    "night": Entry("bench.night", "Clicks of simulated nights foretold, between frozen and hindsight."),
    "state": Entry("bench.state", "A feature row to disk, beside a bare batch; ten million keys; a night."),
}


class BenchError(SurgelineError, RuntimeError):
    """A figure could not be measured, or what ran did not do its job: there is no number then."""


def say(what: str) -> None:
    """A line about what goes on, to standard error."""
    print(f".. {what}", file=sys.stderr, flush=True)


def load(name: str) -> Figure:
    """The figure called ``name``. Raises ``KeyError`` for one that is not in ``FIGURES``."""
    return cast(Figure, importlib.import_module(FIGURES[name].module))
