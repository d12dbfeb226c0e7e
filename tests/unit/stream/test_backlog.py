"""Failure: a worker that keeps up, stands still or has far too many rows waits with its checkpoint; or a
backlog makes what is published older than it says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.backlog import MOST_S, SHARE, Backlog


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_who_keeps_up_takes_one_each_second(clock: Clock) -> None:
    backlog = Backlog(clock)
    for second in range(1, 6):
        clock.now += 1.0
        assert backlog.due(5000 * second, waiting=5000)
        backlog.checkpoint(5000 * second)


def test_nothing_done_is_no_backlog(clock: Clock) -> None:
    """A worker that has just begun, or that waits for a broker: nobody knows how long the rest takes."""
    backlog = Backlog(clock)
    clock.now += 1.0
    assert backlog.due(0, waiting=10**9)
    backlog.checkpoint(7)
    clock.now += 1.0
    assert backlog.due(7, waiting=10**9)


@given(st.floats(0.1, 60.0), st.integers(1, 10**6), st.integers(0, 10**8))
def test_it_waits_for_a_share_of_what_is_left_and_no_longer_than_the_most(
    since: float, done: int, waiting: int
) -> None:
    clock = Clock()
    backlog = Backlog(clock)
    backlog.checkpoint(10**9)
    began = clock.now
    clock.now += since
    since = clock.now - began
    left_s = waiting / (done / since)
    assert backlog.due(10**9 + done, waiting) == (since >= min(SHARE * left_s, MOST_S)) or since == MOST_S
    assert since < MOST_S or backlog.due(10**9 + done, waiting)
