"""Failure: a log of a few events a minute costs as if every second were full, once much of it is buffered.

Mechanism: an hour's events in one batch, most minutes with none or two of them; how often the plan counts is
how often a pass over the ticks begins. Required: a pass a minute that has events, however much is buffered,
none for what is empty, and the same result as from a log that comes in small pieces; where minutes are full,
passes stay short.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from features.plan import CLOCK_MS

#: So many events are few, here.
FEW = 20
T0 = 1_700_000_000_000


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.engine.FEW_EVENTS", FEW)


def passes(rig: Any) -> list[list[int]]:
    """Grows with every pass by the times of the events that it counts."""
    counted: list[list[int]] = []
    observe = rig.engine.plan.observe

    def watched(events: Any, tables: Any) -> Any:
        counted.append(events.times.tolist())
        return observe(events, tables)

    rig.engine.plan.observe = watched
    return counted


def digest(rig: Any) -> tuple[str, int]:
    rig.engine.checkpoint()
    return rig.engine.digest(), rig.engine.totals.ticks


def test_empty_seconds_and_a_full_buffer_cost_nothing(rig: Callable[..., Any], shown: Any, done: Any) -> None:
    # 10 and 35 s into every other minute: no two of them are in the same eight seconds.
    begin = -T0 % CLOCK_MS
    times = [begin + 2 * k * CLOCK_MS + part for k in range(25) for part in (10_000, 35_000)]
    events = [shown(n, at, f"u{n % 5}") for n, at in enumerate(times)]
    clicks = [done(n, at + 1_200, user=f"u{n % 5}") for n, at in enumerate(times) if n % 3 == 0]
    end = times[-1] + CLOCK_MS

    whole = rig()
    counted = passes(whole)
    whole.feed(*events, *clicks, until=end)
    assert sum(map(len, counted)) == len(events) + len(clicks)
    assert len(counted) == 25

    pieces = rig()
    for n, at in enumerate(times):
        pieces.feed(events[n], *(one for one in clicks if one.impression_id == f"i{n}"), until=at + 5_000)
    pieces.feed(until=end)
    assert digest(pieces) == digest(whole)
    assert whole.engine.joins.counts.samples == len(events)


def test_a_full_minute_is_taken_in_short_steps(rig: Callable[..., Any], shown: Any) -> None:
    """So that a tick of a worker with a backlog keeps its budget."""
    begin = -T0 % CLOCK_MS
    full, quiet = range(begin, begin + 2 * CLOCK_MS, 1000), range(begin + 2 * CLOCK_MS, 600_000, 20_000)
    one = rig()
    counted = passes(one)
    one.feed(*(shown(n, at) for n, at in enumerate([*full, *quiet])), until=700_000)
    assert max(map(len, counted)) <= FEW
    windows = [part[0] // CLOCK_MS for part in counted]
    assert all(part[-1] // CLOCK_MS == window for part, window in zip(counted, windows, strict=True))
    repeated = {window for window, after in pairwise(windows) if window == after}
    assert repeated == set(windows[:1]) | {windows[0] + 1}
