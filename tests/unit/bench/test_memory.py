"""Failure: the memory figure says that a limit holds where it does not, or a side counts something else than
what it is named for. Every side runs here with few rows; what the numbers are is the figure's own business.
"""

from __future__ import annotations

from typing import Any

import pytest

from bench import _memory_sides, memory
from bench._registry import BenchError


def result(remembered: float = 11.0, plain: float = 500.0, after: float = 2e8) -> dict[str, Any]:
    sides: dict[str, Any] = {side: {"bytes_per_row": 1.0} for side in memory.ROWS}
    sides["remembered"] = {"bytes_per_row": remembered, "disk_bytes_per_row": 68.0}
    sides["plain"] = {"bytes_per_row": plain}
    sides["orphans"]["limit"] = 7
    sides["base"] = {"bytes": 1.6e8}
    sides["burst"] = {"before": 1e8, "peak": 2e9, "after": after}
    machine = dict.fromkeys(("cores", "cpu", "memory_gb", "system", "python"), "x")
    return {**sides, "rows": 10, "machine": machine, "ratio_to_plain": plain / remembered}


def test_limits_that_hold_are_not_named() -> None:
    assert memory.broken(result()) == []
    assert "limits hold" in memory.table(result()).lower()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"remembered": 21.0, "plain": 900.0}, "bytes a remembered impression"),
        ({"remembered": 11.0, "plain": 200.0}, "smaller than a dictionary"),
        ({"after": 1e9}, "stay after a burst"),
    ],
)
def test_a_broken_limit_is_named(changed: dict[str, float], words: str) -> None:
    found = memory.broken(result(**changed))
    assert len(found) == 1 and words in found[0]
    assert "BROKEN" in memory.table(result(**changed))


@pytest.mark.parametrize("side", ["remembered", "features"])
def test_a_side_that_writes_says_what_lies_on_disk(side: str) -> None:
    found = memory._side(side, 10_000)
    assert found["bytes_per_row"] > 5 and 50 < found["disk_bytes_per_row"] < 300


def test_every_side_that_the_table_names_can_be_run() -> None:
    assert set(_memory_sides.SIDES) == {*memory.ROWS, "base", "burst"}


def test_a_side_that_fails_is_no_number() -> None:
    with pytest.raises(BenchError, match="KeyError"):
        memory._side("no such side", 1)
