"""Failure: a front-end server whose clock is wrong stops all learning, or makes everybody else late.

Mechanism: the watermark followed the newest event time, whatever the wall clock said, and waited for the
partition that was furthest behind, whatever its clock said. Required: what is ahead of the clock waits for
its time, alone, and is learned then, once; a partition whose clock is slow is late, alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from contracts.events import Watermark
from stream.decode import Record
from stream.timeline import Source

SOURCES = [Source(kind, partition) for kind in (0, 1) for partition in (0, 1)]
IMPRESSIONS = SOURCES[:2]
TIMES = {"idle_s": 5.0, "lateness_s": 1.0, "label_window_s": 3.0, "join_limit_s": 300.0}
#: Ticks after its label has closed by which a sample must have been learned.
WITHIN_TICKS = 2
_encode = msgspec.json.Encoder().encode

Write = Callable[[Source, Any], None]


@pytest.fixture
def sale(rig: Callable[..., Any], moved_clock: Any) -> tuple[Any, dict[Source, list[Record]], Write]:
    """A worker with a moved clock, the log that it reads, and what writes to that."""
    one = rig(times=TIMES, clock=moved_clock)
    logs: dict[Source, list[Record]] = {source: [] for source in SOURCES}
    one.assign(*SOURCES)

    def write(source: Source, event: Any) -> None:
        logs[source].append(Record(len(logs[source]), None, _encode(event)))

    return one, logs, write


def honest_second(write: Write, shown: Any, done: Any, number: int, at: int) -> None:
    """An impression in both partitions, clicked a moment later in one of them."""
    for partition in (0, 1):
        write(Source(0, partition), shown(2 * number + partition, at, f"u{partition}"))
    write(Source(1, 0), done(2 * number, at + 100, user="u0"))
    # The other action partition says something too: nothing here may depend on silence.
    write(Source(1, 1), done(2 * number + 1, at + 100, kind="cart", user="u1"))


@pytest.mark.parametrize(
    "fast",
    [[SOURCES[0]], [SOURCES[2]], IMPRESSIONS, SOURCES],
    ids=["one", "an action's", "some", "all partitions"],
)
@pytest.mark.parametrize("restart", [False, True], ids=["", "with a kill"])
def test_honest_events_are_learned_in_time_beside_events_290_s_ahead(
    sale: Any, shown: Any, done: Any, fast: list[Source], restart: bool
) -> None:
    one, logs, write = sale
    learned_late: list[int] = []
    for second in range(330):
        at = 1000 * second + 500
        if second == 20:
            for k, source in enumerate(fast):
                event = (
                    shown(9000 + k, at + 290_000)
                    if source.kind == 0
                    else done(2 * second, at + 290_000, "refund")
                )
                write(source, event)
        honest_second(write, shown, done, second, at)
        one.second(logs)
        if restart and second in (21, 100):
            one.kill()
        closed = max(second - 3 - WITHIN_TICKS, 0)
        # Impressions of the seconds 0 to closed-1 have closed their label by now.
        if one.engine.joins.counts.samples < 2 * closed:
            learned_late.append(second)
        fast_impressions = sum(source.kind == 0 for source in fast)
        early = 2 * (second + 1) if second < 308 else 2 * (second + 1) + fast_impressions
        assert one.engine.joins.counts.impressions <= early, "nothing is learned before its time"
    assert learned_late == []
    totals = one.engine.totals
    assert totals.ahead == len(fast)
    said = [notice.text for notice in one.engine.notices.all() if notice.kind == "fast_clock"]
    assert restart or (len(said) == len(fast) and all("290 s ahead" in text for text in said))
    assert totals.late == 0, "nobody is late because of another's clock"
    expected = 2 * 330 + sum(source.kind == 0 for source in fast)
    for _ in range(15):
        one.second(logs)
    assert one.engine.joins.counts.impressions == expected
    assert one.engine.joins.counts.samples == expected
    assert one.engine.timeline.waiting_ahead == 0


def test_a_fast_event_and_then_silence(sale: Any, shown: Any, done: Any) -> None:
    """The worst case that was measured: no tick for 290 s, and what came then waited for it as well."""
    one, logs, write = sale
    honest_second(write, shown, done, 0, 500)
    write(SOURCES[0], shown(900, 290_500))
    for _ in range(9):
        one.second(logs)
    honest_second(write, shown, done, 1, 9_500)
    for _ in range(8):
        one.second(logs)
    assert (one.engine.joins.counts.impressions, one.engine.joins.counts.samples) == (4, 4)
    assert one.engine.timeline.waiting_ahead == 1
    for _ in range(300):
        one.second(logs)
    assert (one.engine.joins.counts.impressions, one.engine.joins.counts.samples) == (5, 5)


def test_more_parked_events_than_are_kept_count_at_the_clocks_time(
    sale: Any, shown: Any, done: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.lane.PARKED_LIMIT", 3)
    one, logs, write = sale
    honest_second(write, shown, done, 0, 500)
    for number in range(3):
        write(SOURCES[0], shown(900 + number, 200_000))
    one.second(logs)
    for number in range(4):
        write(SOURCES[0], shown(910 + number, 200_000))
    for _ in range(12):
        one.second(logs)
    assert (one.engine.totals.ahead, one.engine.timeline.waiting_ahead) == (7, 3)
    assert one.engine.joins.counts.samples == 2 + 4


@pytest.mark.parametrize("behind_s", [20, 200, 3600])
def test_a_slow_clock_is_late_alone(sale: Any, shown: Any, done: Any, behind_s: int) -> None:
    """Failure: one partition whose producer's clock is behind holds the watermark, and so all learning."""
    one, logs, write = sale
    late = 1000 * behind_s
    for second in range(60):
        at = 4_000_000 + 1000 * second + 500
        one.clock.at_ms = max(one.clock.at_ms, one.T0 + 4_000_000)
        write(Source(0, 0), shown(2 * second, at, "u0"))
        write(Source(0, 1), shown(2 * second + 1, at - late, "u1"))
        write(Source(1, 0), done(2 * second, at + 100, user="u0"))
        write(Source(1, 1), done(2 * second + 1, at + 100 - late, user="u1"))
        one.second(logs)
        if second > 15:
            assert one.engine.joins.counts.samples >= 2 * (second - 3 - WITHIN_TICKS) - 12, second
    assert one.engine.joins.counts.positives >= 2 * 45
    assert one.engine.totals.late > 0
    (late,) = [notice.text for notice in one.engine.notices.all() if notice.kind == "late"]
    assert "slow clock" in late


def test_a_promise_from_a_fast_clock_does_not_stop_time(sale: Any, shown: Any, done: Any) -> None:
    one, logs, write = sale
    honest_second(write, shown, done, 0, 500)
    for source in SOURCES:
        write(source, Watermark(watermark=one.T0 + 290_000))
    for second in range(1, 40):
        honest_second(write, shown, done, second, 1000 * second + 500)
        one.second(logs)
    for _ in range(10):
        one.second(logs)
    assert one.engine.joins.counts.impressions == 80
    assert one.engine.joins.counts.samples >= 2 * 20


@pytest.mark.parametrize("part_ms", [0, 150, 500, 999], ids="{} ms into a tick".format)
@pytest.mark.parametrize("said", [False, True], ids=["in a silence", "by a closing watermark"])
def test_a_label_window_that_is_no_multiple_of_the_tick_closes(
    rig: Callable[..., Any], moved_clock: Any, shown: Any, part_ms: int, said: bool
) -> None:
    """Failure: labels that close between two ticks stay open for good where nothing follows."""
    # With a watermark nothing is idle in these seconds: it alone must close the label.
    times = TIMES | {"label_window_s": 1.5, "lateness_s": 0.3, "idle_s": 60.0 if said else 5.0}
    one = rig(times=times, clock=moved_clock)
    logs: dict[Source, list[Record]] = {source: [] for source in SOURCES}
    one.assign(*SOURCES)
    event = shown(1, part_ms)
    logs[SOURCES[0]].append(Record(0, None, _encode(event)))
    if said:
        mark = Watermark(watermark=event.event_time + one.scenario.times.closing_ms)
        for log in logs.values():
            log.append(Record(len(log), None, _encode(mark)))
    for _ in range(20):
        one.second(logs)
    assert one.engine.joins.counts.samples == 1
