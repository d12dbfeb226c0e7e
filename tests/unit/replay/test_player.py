"""Fails when what is made to be sent is not the log: events lost at a limit, wrong times, early portions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from contracts.events import KINDS, Action, Impression
from contracts.scenario import Scenario
from replay.errors import BrokerError
from replay.pacing import Pace
from replay.player import Player, PlayReport, play


def portions(player: Player) -> list[Any]:
    chunks = player.log.chunks(player._rows)
    return [portion for made in player._make(chunks, 4) for portion in made]


def sent(made: list[Any]) -> list[tuple[str, str, int]]:
    """(impression id, what, event time) of every record."""
    found = []
    for portion in made:
        for kind, value in zip(portion.records.kinds, portion.records.values, strict=True):
            if KINDS[kind] == "action":
                done = msgspec.json.decode(value, type=Action)
                found.append((done.impression_id, str(done.action), done.event_time))
            else:
                shown = msgspec.json.decode(value, type=Impression)
                found.append((shown.impression_id, "shown", shown.event_time))
    return found


@pytest.mark.parametrize("pace", [Pace(), Pace(speed=10.0), Pace(rate=777.0)])
@pytest.mark.parametrize("limit", [None, 1, 50, 10_000])
def test_every_event_up_to_the_limit_is_made_once_and_in_order(
    make: Any, pace: Pace, limit: int | None
) -> None:
    log = make.steady(100)
    made = portions(Player(log, Scenario(), None, pace, limit=limit, rows=17))
    want = [(key, what, time + make.t0) for time, key, what in make.events(log.table)]
    assert sent(made) == want[:limit]
    assert sum(sum(portion.by_action.values()) for portion in made) == sum(
        what != "shown" for _, what, _ in want[:limit]
    )


@pytest.mark.parametrize("pace", [Pace(speed=5.0), Pace(rate=200.0)])
def test_shifted_times_are_not_in_the_future_of_their_sending(make: Any, pace: Pace) -> None:
    """An event that is sent before its event time would push the watermark ahead of the wall clock."""
    player = Player(make.steady(100), Scenario(), None, pace, "now")
    player.shift.start_wall_ms = 2 * make.t0
    for portion in portions(player):
        assert portion.due_s is not None
        assert portion.records.times.max() <= 2 * make.t0 + portion.due_s * 1000


def test_at_full_speed_shifted_times_are_the_wall_clock(make: Any) -> None:
    made = portions(Player(make.steady(100), Scenario(), None, Pace(), "now", rows=25))
    times = np.concatenate([portion.records.times for portion in made])
    assert (np.diff(times) >= 0).all() and times[0] > make.t0
    assert made[-1].event_ms == make.t0 + 9900


def test_records_carry_their_event_time_and_user(make: Any) -> None:
    log = make.steady(30)
    (portion,) = portions(Player(log, Scenario(), None, Pace()))
    assert portion.records.times.tolist() == log.table["event_time"].to_list()
    assert portion.records.keys == [user.encode() for user in log.table["user_id"]]


def test_without_a_broker_nothing_is_played(make: Any) -> None:
    with pytest.raises(BrokerError, match="surgeline broker"):
        play(make.steady(5), Scenario(), "127.0.0.1:1")


def test_the_rate_of_nothing_is_zero() -> None:
    assert PlayReport().rate == 0.0


def test_nothing_is_read_behind_the_limit(make: Any) -> None:
    """Fails when a short replay reports what was refused or made up in rows that it never sent."""
    read: list[int] = []
    log = make.steady(100)

    class Counted(type(log)):  # type: ignore[misc]
        def chunks(self, rows: int = 65_536) -> Iterator[pl.DataFrame]:
            for chunk in super().chunks(rows):
                read.append(chunk.height)
                yield chunk

    made = portions(Player(Counted(log.table, "log"), Scenario(), None, Pace(), limit=25))
    assert sum(len(portion.records) for portion in made) == sum(read) == 25
