"""Leave tests out of a run, counted as deselected."""

from __future__ import annotations

from collections.abc import Callable

import pytest


def leave_out(
    config: pytest.Config, items: list[pytest.Item], unwanted: Callable[[pytest.Item], bool]
) -> None:
    """Take the unwanted ``items`` out of the run."""
    kept: list[pytest.Item] = []
    gone: list[pytest.Item] = []
    for item in items:
        (gone if unwanted(item) else kept).append(item)
    config.hook.pytest_deselected(items=gone)
    items[:] = kept
