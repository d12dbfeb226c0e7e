"""Failure: standing ticks that nothing tells from a quiet hour, or a quiet hour that is called a fault.

Mechanism: versions move every second whatever is learned, and the watermark stands in a silence by right.
Required: only events that wait without a tick for longer than the scenario's times explain are a fault.
"""

from __future__ import annotations

import pytest

from contracts.scenario import Times
from stream.pulse import Pulse


class _Life:
    """A pulse on a clock that the test moves."""

    def __init__(self, **times: float) -> None:
        self.now = 1000.0
        self.pulse = Pulse(Times(**times), lambda: self.now)

    def run(self, seconds: int, ticks: int, waiting: int) -> None:
        """So many seconds, with a look at each."""
        for _ in range(seconds):
            self.now += 1
            self.pulse.see(ticks, waiting)


def test_ticks_that_stand_while_events_wait_are_a_fault() -> None:
    life = _Life()
    life.run(1, ticks=7, waiting=0)
    life.run(300, ticks=7, waiting=5)
    assert life.pulse.waiting_s() == 299.0
    assert life.pulse.standing_s() == 299.0
    life.run(1, ticks=8, waiting=0)
    assert (life.pulse.waiting_s(), life.pulse.standing_s(), life.pulse.since_tick_s()) == (0.0, 0.0, 0.0)


def test_a_quiet_hour_is_none() -> None:
    life = _Life()
    life.run(10, ticks=7, waiting=0)
    life.run(1, ticks=9, waiting=3)
    life.run(6, ticks=9, waiting=3)  # the last events, until silence moves the ticks on
    life.run(1, ticks=10, waiting=0)
    life.run(3600, ticks=10, waiting=0)
    assert life.pulse.standing_s() == 0.0
    assert life.pulse.since_tick_s() == 3600.0


def test_events_that_always_wait_are_none_while_ticks_run() -> None:
    """The newest events wait for the lateness at any time; others come before they are taken."""
    life = _Life()
    for second in range(600):
        life.run(1, ticks=second, waiting=900)
        assert life.pulse.waiting_s() == 0.0


def test_patience_follows_the_scenario() -> None:
    """Whoever lets silent partitions hold the watermark for an hour does not hear of it each evening."""
    life = _Life(idle_s=3600.0)
    life.run(1, ticks=1, waiting=0)
    life.run(3600, ticks=1, waiting=5)
    assert life.pulse.standing_s() == 0.0
    life.run(30, ticks=1, waiting=5)
    assert life.pulse.standing_s() > 3600.0


def test_a_total_that_was_restored_is_no_tick() -> None:
    """A restart in a quiet hour: the total is a large number, and no tick has run in this process."""
    life = _Life()
    life.run(50, ticks=90_000, waiting=0)
    assert life.pulse.since_tick_s() == 50.0


@pytest.mark.parametrize("silent", [0, 30])
def test_time_goes_on_while_nobody_looks(silent: int) -> None:
    """A broker that does not answer blocks the wall tick; a scrape still says how long it has been."""
    life = _Life()
    life.run(1, ticks=1, waiting=0)
    life.run(1, ticks=1, waiting=1)
    life.now += silent
    assert life.pulse.waiting_s() == silent
    assert life.pulse.standing_s() == (silent if silent else 0.0)
