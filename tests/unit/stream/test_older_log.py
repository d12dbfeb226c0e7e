"""Failure: a replay of an older log is read and never learned, or learned as one tick with everything in it.

Mechanism: after an older event the watermark stood where it was, a pause moved it on by the pause, and what
was behind it waited until time came to it again. Required: time starts over with the older log, which is
learned as it would be learned alone, is counted as late, and is said in one line; however Kafka batches it
and wherever the worker is killed.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.decode import Record
from stream.timeline import Source

SOURCES = [Source(kind, partition) for kind in (0, 1, 2) for partition in (0, 1)]
READ = st.tuples(st.sampled_from(SOURCES), st.integers(1, 60))
ROUGH = st.lists(
    st.one_of(READ, READ, READ, st.sampled_from(["advance", "checkpoint", "kill", "rebalance"])), max_size=40
)
DAY = 86_400_000
SIZE = 220


def run(rig: Any, logs: Any, steps: list[Any]) -> dict[str, Any]:
    rig.follow(logs, SOURCES, steps)
    engine = rig.engine
    return {
        "digest": engine.digest(),
        "weights": engine.weights_digest(),
        "totals": engine.totals,
        "join": engine.joins.counts,
        "metrics": engine.panel.metrics(),
        "labels": engine.labels_until,
        "done": engine.done_until,
        "waiting": engine.timeline.buffered,
    }


#: What follows what: (start in ms, seed) of each log.
ORDERS = {
    "an older log after a newer one": [(0, 1), (-DAY, 2)],
    "the same log twice": [(0, 1), (0, 1)],
    "older and older, then new": [(0, 1), (-DAY, 2), (-2 * DAY, 3), (600_000, 4)],
    "the same old log three times after a new one": [(0, 1), (-DAY, 2), (-DAY, 2), (-DAY, 2)],
}


@pytest.fixture(scope="module")
def expected(
    sale: Callable[..., Any], following: Callable[..., Any], new_rig: Callable[[], Any]
) -> dict[str, tuple[Any, dict[str, Any]]]:
    """For each order, in order and out of it by more than the lateness: the logs, and what comes of them."""
    results = {}
    for name, parts in ORDERS.items():
        for lateness in (1000, 6000):
            made = [sale(seed, SIZE, lateness_ms=lateness, start=start) for start, seed in parts]
            logs = following(*made)
            with new_rig() as rig:
                results[f"{name}, {lateness}"] = (logs, run(rig, logs, []))
    return results


def test_every_log_is_learned_whole_and_counted_as_late(expected: dict[str, Any]) -> None:
    for name, (_, result) in expected.items():
        parts = ORDERS[name.rpartition(",")[0]]
        assert result["join"].impressions == result["join"].samples == SIZE * len(parts), name
        assert result["waiting"] == 0
        assert result["totals"].older_logs == sum(b <= a for (a, _), (b, _) in pairwise(parts))
        later = result["totals"].late
        assert later >= SIZE * result["totals"].older_logs
        assert result["totals"].impressions_read >= SIZE * len(parts)


def test_labels_are_those_of_the_log_alone(
    expected: dict[str, Any], sale: Callable[..., Any], new_rig: Callable[[], Any]
) -> None:
    """An older log is not one tick: its clicks decide its labels as they would without the newer one."""
    alone = 0
    for seed in (1, 2):
        with new_rig() as rig:
            alone += run(rig, sale(seed, SIZE), [])["join"].positives
    assert alone > 50
    assert expected["an older log after a newer one, 1000"][1]["join"].positives == alone


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from([f"{name}, {lateness}" for name in ORDERS for lateness in (1000, 6000)]), steps=ROUGH
)
def test_batches_kills_and_rebalances_do_not_matter(
    expected: dict[str, Any], new_rig: Callable[[], Any], name: str, steps: list[Any]
) -> None:
    logs, result = expected[name]
    with new_rig() as rig:
        assert run(rig, logs, steps) == result


def test_an_old_log_does_not_become_one_tick_with_everything_in_memory(
    sale: Callable[..., Any], following: Callable[..., Any], new_rig: Callable[[], Any]
) -> None:
    logs = following(sale(1, 100), sale(2, 3000, start=-DAY))
    most_open = 0
    with new_rig() as rig:
        rig.assign(*SOURCES)
        while any(rig.next[source] < len(logs[source]) for source in SOURCES):
            for source in SOURCES:
                rig.read(logs, source, 50)
            rig.engine.advance()
            join = rig.engine.joins.counts
            most_open = max(most_open, join.impressions - join.samples)
        rig.engine.advance()
        assert rig.engine.joins.counts.samples == 3100
    # 12 s of 3,000 impressions, of which a label window of 3 s and a lateness of 1 s are open.
    assert most_open < 1800


def test_it_is_said_in_one_line(sale: Callable[..., Any], following: Callable[..., Any], rig: Any) -> None:
    one = rig()
    run(one, following(sale(1, SIZE), sale(2, SIZE, start=-DAY)), [])
    (notice,) = one.engine.notices.all()
    assert notice.kind == "older_log"
    assert "2023-11-13 22:13" in notice.text and "2023-11-14 22:13:3" in notice.text
    assert "--time now" in notice.text


# -- after a pause, beside live traffic, a few events


TIMES = {"idle_s": 5.0, "lateness_s": 1.0, "label_window_s": 3.0, "join_limit_s": 300.0}
_encode = msgspec.json.Encoder().encode


@pytest.fixture
def live(rig: Callable[..., Any], moved_clock: Any) -> tuple[Any, dict[Source, list[Record]], Any]:
    moved_clock.at_ms += 2_000_000
    one = rig(times=TIMES, clock=moved_clock)
    logs: dict[Source, list[Record]] = {source: [] for source in SOURCES}
    one.assign(*SOURCES)

    def write(source: Source, event: Any) -> None:
        logs[source].append(Record(len(logs[source]), None, _encode(event)))

    return one, logs, write


def minute(write: Any, shown: Any, done: Any, first: int, at: int, seconds: int = 60) -> None:
    for second in range(seconds):
        for partition in (0, 1):
            number = first + 2 * second + partition
            write(Source(0, partition), shown(number, at + 1000 * second, f"u{partition}"))
            write(Source(1, partition), done(number, at + 1000 * second + 500, user=f"u{partition}"))


@pytest.mark.parametrize("pause_s", [0, 30, 600])
@pytest.mark.parametrize("back_s", [400, 90_000], ids=["400 s back", "a day back"])
def test_after_a_pause_an_older_log_is_learned_within_seconds(
    live: Any, shown: Any, done: Any, pause_s: int, back_s: int
) -> None:
    one, logs, write = live
    minute(write, shown, done, 0, 1_000_000)
    for _ in range(20 + pause_s):
        one.second(logs)
    assert one.engine.joins.counts.samples == 120
    minute(write, shown, done, 1000, 1_000_000 - 1000 * back_s)
    for _ in range(20):
        one.second(logs)
    counts = one.engine.joins.counts
    assert (counts.impressions, counts.samples, counts.positives) == (240, 240, 240)
    assert one.engine.totals.late == 240 and one.engine.totals.older_logs == 1


def test_a_pause_makes_nothing_late_that_goes_on(live: Any, shown: Any, done: Any) -> None:
    """Failure: the watermark moved on with the wall clock, and a log that was paused for ten minutes waited
    for as long in a buffer."""
    one, logs, write = live
    minute(write, shown, done, 0, 1_000_000)
    for _ in range(600):
        one.second(logs)
    minute(write, shown, done, 1000, 1_070_000)
    for _ in range(12):
        one.second(logs)
    counts = one.engine.joins.counts
    assert (counts.samples, counts.positives, one.engine.totals.late) == (240, 240, 0)


@pytest.mark.parametrize("behind_s", [2, 20, 250, 1000, 100_000])
def test_one_event_that_is_behind_is_learned_at_once_also_when_nothing_else_comes(
    live: Any, shown: Any, done: Any, behind_s: int
) -> None:
    one, logs, write = live
    minute(write, shown, done, 0, 1_000_000)
    for _ in range(20):
        one.second(logs)
    write(SOURCES[0], shown(5000, 1_059_000 - 1000 * behind_s))
    for _ in range(2):
        one.second(logs)
    assert one.engine.joins.counts.impressions == 121, "within two ticks"
    for _ in range(12):
        one.second(logs)
    assert one.engine.joins.counts.samples == 121
    assert one.engine.totals.late == 1 and one.engine.totals.older_logs == 0


def test_old_events_beside_live_ones_are_late_and_stop_nobody(live: Any, shown: Any, done: Any) -> None:
    """An old log in one partition, or phones that were off, while the other lives in the present."""
    one, logs, write = live
    behind = []
    for second in range(90):
        at = 2_000_000 + 1000 * second
        write(Source(0, 0), shown(10 * second, at, "u0"))
        write(Source(1, 0), done(10 * second, at + 400, user="u0"))
        write(Source(0, 1), shown(10 * second + 1, at, "u1"))
        write(Source(1, 1), done(10 * second + 1, at + 400, user="u1"))
        if 20 <= second < 60:
            for k in range(4):
                write(Source(0, 0), shown(10 * second + 2 + k, at - 1_500_000 + k, "u2"))
                write(Source(1, 0), done(10 * second + 2 + k, at - 1_499_000 + k, user="u2"))
        one.second(logs)
        behind.append(
            2 * (second + 1) + 4 * max(0, min(second, 59) - 19) - one.engine.joins.counts.impressions
        )
    for _ in range(15):
        one.second(logs)
    counts = one.engine.joins.counts
    assert (counts.impressions, counts.samples) == (180 + 160, 180 + 160)
    assert counts.positives >= 180 + 130
    assert one.engine.totals.older_logs == 0 and one.engine.totals.late == 320
    # Lateness, tick, and for the old ones what it takes to see that the others stay.
    assert max(behind) <= 2 * 3 + 4 * 7


def test_live_traffic_after_an_older_log_is_live(live: Any, shown: Any, done: Any) -> None:
    one, logs, write = live
    minute(write, shown, done, 0, 1_900_000)
    minute(write, shown, done, 1000, 100_000)
    for _ in range(15):
        one.second(logs)
    assert one.engine.totals.older_logs == 1
    for second in range(30):
        minute(write, shown, done, 5000 + 2 * second, 2_015_000 + 1000 * second, seconds=1)
        one.second(logs)
    for _ in range(12):
        one.second(logs)
    assert one.engine.joins.counts.samples == 300
    assert one.engine.totals.late == 240, "live events are on time"
    assert one.engine.done_until >= one.T0 + 2_040_000


def test_a_partition_without_a_past_is_measured_by_the_watermark(live: Any, shown: Any, done: Any) -> None:
    """Failure: a new partition's first event lies far behind what is done, the next one does not, and the
    worker's thread goes round for ever between going back and staying."""
    one, logs, write = live
    quiet = SOURCES[1]
    for second in range(60):
        for source in SOURCES:
            if source != quiet:
                at = 1_000_000 + 1000 * second
                write(source, shown(second, at) if source.kind == 0 else done(second, at + 500))
    for _ in range(20):
        one.second(logs)
    write(quiet, shown(5000, 500_000))
    write(quiet, shown(5001, 1_059_000))
    for _ in range(12):
        one.second(logs)
    assert one.engine.joins.counts.samples == 62
    assert one.engine.totals.older_logs == 0
