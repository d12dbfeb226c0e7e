"""Fails when a fault asked for in words does something else, or to other events, or is not counted right."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from contracts.events import Impression
from contracts.scenario import Scenario
from replay.cli import replay
from replay.fault_options import FAULTS, parse_fault, usage
from replay.faulty import FaultyLog, describe
from replay.files import write_log
from replay.pacing import Pace
from replay.player import DELIVERED, Player
from replay.simulate.faults import FLOOD_USER, FaultError

#: One of each, for the steady log of 40 s with 400 impressions.
ALL = [
    "hot_key=10s:5s:3:x-hot",
    "label_outage=20s:5s",
    "late=0.1:4s",
    "duplicates=0.2:1s",
    "clock_skew=0.2:-3s",
    "schema_change=extra:item_id:30s",
    "malformed=0.05",
]


def made(log: Any, pace: Pace | None = None, **options: Any) -> list[Any]:
    """Everything that a player would send of ``log``, portion by portion."""
    player = Player(log, Scenario(), None, pace or Pace(), options.pop("time", "keep"), **options)
    player.shift.start_wall_ms = 2 * 10**12
    return [portion for many in player._make(log.chunks(player._rows), 4) for portion in many]


def values(portions: list[Any]) -> list[bytes]:
    return [value for portion in portions for value in portion.records.values]


def test_without_faults_nothing_changes(make: Any) -> None:
    log = make.steady(200)
    assert values(made(FaultyLog(log, []))) == values(made(log))


@pytest.mark.parametrize("rows", [64, 100_000])
def test_equal_seeds_give_equal_bytes_and_counts_say_what_was_done(make: Any, rows: int) -> None:
    """Also whatever the size of the chunks: a fault must not depend on how a file is cut."""
    log = make.steady(400)
    first, again, other = (FaultyLog(log, ALL, seed=seed) for seed in (7, 7, 8))
    sent = values(made(first, rows=rows))
    assert sent == values(made(again, rows=1_000)) and first.counts == again.counts
    assert sent != values(made(other, rows=rows))
    counts = dict(first.counts)
    assert list(counts) == ALL, "in the order of their application"
    assert counts["hot_key=10s:5s:3:x-hot"] == {"flooded": 150}
    assert counts["label_outage=20s:5s"] == {"delayed": 5, "lost": 0}
    twice = sum(counts["duplicates=0.2:1s"].values())
    assert len(sent) == log.info().events + 150 + twice and 80 < twice < 180
    assert all(sum(did.values()) > 0 for did in counts.values())


def test_one_fault_does_not_move_another(make: Any) -> None:
    """Random numbers are a fault's own: an experiment can add one and compare."""
    alone = FaultyLog(make.steady(400), ["duplicates=0.1"], seed=3)
    beside = FaultyLog(make.steady(400), ["malformed=0.1", "duplicates=0.1", "clock_skew=0.5:1s"], seed=3)
    for log in (alone, beside):
        made(log)
    assert alone.counts[0] == beside.counts[0]
    twice = FaultyLog(make.steady(400), ["late=0.1:2s", "late=0.1:2s"], seed=3)
    made(twice)
    assert twice.counts[0][1]["late"] != twice.counts[1][1]["late"]


def test_every_call_starts_anew(make: Any) -> None:
    log = FaultyLog(make.steady(100), ALL, seed=1)
    first = values(made(log)), log.counts
    assert (values(made(log)), log.counts) == first


def test_the_limit_is_of_the_log_and_everything_held_back_still_comes(make: Any) -> None:
    """A limit behind the faults would cut off what is late and leave the counts wrong."""
    log = FaultyLog(make.steady(100), ["late=0.5:60s", "duplicates=1"], limit=55)
    sent = Counter(values(made(log, rows=10)))
    assert set(sent.values()) == {2} and len(sent) == 55
    assert sum(log.counts[1][1].values()) == 55


def test_delivery_never_goes_back_and_times_stay_the_log_s(make: Any) -> None:
    log = FaultyLog(make.steady(300), ["late=0.3:5s", "clock_skew=0.3:1h"], seed=2)
    frames = list(log.chunks(50))
    delivered = np.concatenate([frame[DELIVERED].to_numpy() for frame in frames])
    assert (np.diff(delivered) >= 0).all()
    table = pl.concat(frames)
    early = table.filter(pl.col("event_time") > pl.col(DELIVERED))
    assert early.height == log.counts[1][1]["skewed"] > 0
    assert delivered[-1] <= make.t0 + 30_000, "a wrong clock must not move the pace"


@pytest.mark.parametrize("pace", [Pace(), Pace(speed=10.0), Pace(rate=500.0)])
def test_shifted_to_now_what_is_late_stays_late(make: Any, pace: Pace) -> None:
    """Fails where shifting gives late events the time of their delivery, which would undo the fault."""
    log = FaultyLog(make.steady(300), ["late=0.2:5s:2s"], seed=2)
    portions = made(log, pace, time="now")
    times = np.concatenate([portion.records.times for portion in portions])
    behind = np.maximum.accumulate(times) - times
    factor = pace.speed or 1.0
    late = behind[behind > 50]
    assert 0.8 * log.counts[0][1]["late"] < late.size <= log.counts[0][1]["late"]
    # What is still held at the log's end comes at once, and so less late.
    assert (late >= 1_990 / factor).mean() > 0.8 and late.max() <= 5_000 / factor + 1


def test_a_slow_clock_of_actions_leaves_impressions_alone(make: Any) -> None:
    log = FaultyLog(make.steady(200), ["clock_skew=1:-10s:actions"])
    table = pl.concat(list(log.chunks()))
    off = table["event_time"] - table[DELIVERED]
    assert set(off.filter(table["event"] == "impression")) == {0}
    assert set(off.filter(table["event"] == "action")) == {-10_000}
    assert log.counts == [("clock_skew=1:-10s:actions", {"skewed": 20})]


def test_a_flood_has_one_user_and_new_ids(make: Any) -> None:
    portions = made(FaultyLog(make.steady(100), ["hot_key=2s:3s:5"]))
    events = [
        msgspec.json.decode(value, type=Impression)
        for portion in portions
        for value, kind in zip(portion.records.values, portion.records.kinds, strict=True)
        if not kind
    ]
    flood = [event for event in events if event.user_id == FLOOD_USER]
    assert len(flood) == 150 and len({event.impression_id for event in events}) == 250
    keys = [key for portion in portions for key in portion.records.keys]
    assert keys.count(FLOOD_USER.encode()) == 150, "the partition follows from the key"


def test_an_empty_log_has_no_faults(make: Any) -> None:
    log = FaultyLog(make.log(make.impression(1, 0)), ALL, limit=1)
    log._limit = 0
    assert list(log.chunks()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lateness=0.1", "unknown fault 'lateness'; allowed are hot_key=START:LENGTH:COPIES[:ITEM], label"),
        ("late", "fault late: 0 values in 'late'; write late=SHARE[:MOST[:LEAST]]"),
        ("late=0.1:1s:1s:1s", "fault late: 4 values"),
        ("late=1.5", "fault late: SHARE is a share between 0 and 1, not '1.5'"),
        ("late=nan", "fault late: SHARE is a share between 0 and 1, not 'nan'"),
        ("late=0.1:soon", "fault late: MOST is a duration such as 500ms, 30s, 5m or 1h, not 'soon'"),
        ("late=0.1:-3s", "fault late: MOST is a duration"),
        ("late=0.1:3s:5s", "fault late: most_ms must be at least least_ms (5000), not 3000"),
        (
            "clock_skew=0.1",
            "fault clock_skew: 1 values in 'clock_skew=0.1'; write clock_skew=SHARE:SKEW[:WHOSE]",
        ),
        ("clock_skew=0.1:2s:users", "fault clock_skew: WHOSE is one of all, actions, not 'users'"),
        ("label_outage=1s:2s:gone", "fault label_outage: HOW is one of delayed, lost, not 'gone'"),
        ("label_outage=1s:0s", "fault label_outage: LENGTH is a duration above 0 such as 500ms"),
        # Beyond 64 bits these were delays of minus infinity, a traceback, or all of the memory.
        ("late=0.1:99999999999999999d", "fault late: MOST is a duration of at most 36525d"),
        ("clock_skew=0.1:-36526d", "fault clock_skew: SKEW is a duration of at most 36525d"),
        ("label_outage=99999999999999999d:1s", "fault label_outage: START is a duration of at most 36525d"),
        ("hot_key=1s:2s:99999999999", "fault hot_key: COPIES is a whole number of at most 10000"),
        ("hot_key=1s:2s:0", "fault hot_key: COPIES is a whole number of at least 1, not '0'"),
        ("hot_key=1s:2s:3:", "fault hot_key: ITEM is a name, not ''"),
        ("schema_change=drop", "fault schema_change: KIND is one of extra, rename, retype, not 'drop'"),
        ("schema_change=rename:colour", "fault schema_change: field must be one of action, "),
        ("malformed=", "fault malformed: SHARE is a share between 0 and 1, not ''"),
    ],
)
def test_a_wrong_fault_is_named_with_what_is_allowed(make: Any, text: str, message: str) -> None:
    """Before the first event is sent."""
    with pytest.raises(FaultError) as error:
        FaultyLog(make.steady(5), ["duplicates=0.1", text])
    assert message in str(error.value)


def test_every_fault_has_a_usage_and_stands_in_the_help() -> None:
    text = CliRunner().invoke(replay, ["--help"]).output
    for name, parameters in FAULTS.items():
        assert f"{name}=" in text and usage(name).count("[") == sum(not p.required for p in parameters)


@pytest.mark.parametrize(
    ("text", "ms"), [("500ms", 500), ("2", 2_000), ("1.5s", 1_500), ("5m", 300_000), ("1d", 86_400_000)]
)
def test_durations(text: str, ms: int) -> None:
    assert parse_fault(f"late=0.1:{text}").values["most"] == ms
    assert parse_fault(f"clock_skew=0.1:-{text}").values["skew"] == -ms


def test_the_command_says_what_each_fault_did(
    make: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line a fault is what its counts are once the log was played; the limit is of the log."""
    file = tmp_path / "steady.jsonl"
    write_log(make.steady(100).chunks(), file)
    seen: dict[str, Any] = {}

    def play(log: Any, *_: Any, **options: Any) -> Any:
        from replay.player import PlayReport

        seen.update(options)
        sent = values(made(log))
        return PlayReport(impressions=len(sent), seconds=1.0)

    monkeypatch.setattr("replay.player.play", play)
    arguments = [str(file), "--limit", "60", "--fault", "duplicates=1", "--fault", "label_outage=0:3s:lost"]
    done = CliRunner().invoke(replay, [*arguments, "--fault-seed", "5"])
    assert done.exit_code == 0, done.output
    assert seen["limit"] is None
    assert "sent 114 impressions" in done.output
    assert (
        "fault label_outage=0:3s:lost: delayed 0, lost 3\nfault duplicates=1: impressions 54" in done.output
    )


def test_a_line_for_each_fault() -> None:
    assert list(describe([("a=1", {"x": 1_000}), ("b=2", {"y": 0, "z": 2})])) == [
        "fault a=1: x 1,000",
        "fault b=2: y 0, z 2",
    ]
