"""Failure: the state figure says that a limit holds where it does not, or a side counts something else than
what it is named for. Every side runs here with few rows; what the numbers are is the figure's own business.
"""

from __future__ import annotations

from typing import Any

import pytest

from bench import _state_sides, state
from bench._registry import BenchError


def result(**changed: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "write": {
            "us_per_row": 2.0,
            "bare_us_per_row": 3.0,
            "bare_sorted_us_per_row": 1.5,
            "numbers": 21,
            "bytes": 197,
        },
        "keys": {
            "rows": 100,
            "rows_in_memory": 10,
            "bytes_per_row": 200.0,
            "most_bytes_per_row": 380.0,
            "filter_bytes_per_key": 3.0,
            "peak_bytes": 1e6,
            "us_per_row": 6.0,
            "loaded_us_per_row": 8.0,
            "disk_bytes_per_row": 200.0,
            "restart_s": 1.0,
        },
        "night": {
            "rows": 100,
            "peak_disk_bytes": 1e9,
            "disk_bytes": 1e6,
            "peak_topic_rows": 50,
            "topic_rows": 1,
        },
        "machine": dict.fromkeys(("cores", "cpu", "memory_gb", "system", "python"), "x"),
        "ratio_to_bare_sorted": 1.3,
        "bytes_beside_numbers": 32.0,
        "budget_bytes": 1e9,
    }
    for name, value in changed.items():
        side, _, key = name.rpartition("__")
        (found[side] if side else found)[key] = value
    return found


def test_limits_that_hold_are_not_named() -> None:
    assert state.broken(result()) == []
    assert "limits hold" in state.table(result()).lower()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"ratio_to_bare_sorted": 2.1}, "of a bare one"),
        ({"bytes_beside_numbers": 101.0}, "beside a row's numbers"),
        ({"keys__filter_bytes_per_key": 9.0}, "bytes a key on disk"),
        ({"keys__peak_bytes": 2e9}, "the budget is 1000"),
        ({"night__disk_bytes": 2e8}, "stay on disk"),
        ({"night__topic_rows": 6}, "stay in the topic"),
    ],
)
def test_a_broken_limit_is_named(changed: dict[str, float], words: str) -> None:
    found = state.broken(result(**changed))
    assert len(found) == 1 and words in found[0]
    assert "BROKEN" in state.table(result(**changed))


def test_every_side_runs_and_counts_what_it_is_named_for() -> None:
    write, keys, night = (state._side(side, 50_000) for side in ("write", "keys", "night"))
    assert write["bytes"] == 17 + 8 * write["numbers"] + 12
    assert keys["rows_in_memory"] == 50_000 and keys["bytes_per_row"] > 8 * write["numbers"]
    assert keys["bytes_per_row"] < keys["most_bytes_per_row"] < 2.5 * keys["bytes_per_row"]
    assert night["forgotten"] == night["rows"] > 49_000
    assert night["rows_on_disk"] == night["topic_rows"] == 10
    assert set(_state_sides.SIDES) == set(state.FULL) == set(state.QUICK)


def test_a_side_that_fails_is_no_number() -> None:
    with pytest.raises(BenchError, match="KeyError"):
        state._side("no such side", 1)
