"""Failure: some mixture of clocks, pauses, older logs and kills leaves an event behind for ever, or takes it
twice.

Mechanism: any of them, drawn at random, second by second, on a moved clock; then a silence. Required:
whatever happened, every impression is learned exactly once, time goes on while events come, and nothing waits
at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.decode import Record
from stream.timeline import Source

SOURCES = [Source(kind, partition) for kind in (0, 1) for partition in (0, 1)]
TIMES = {"idle_s": 5.0, "lateness_s": 1.0, "label_window_s": 3.0, "join_limit_s": 60.0}
_encode = msgspec.json.Encoder().encode

#: How far from the wall clock events are (seconds), and how many come.
HONEST = st.tuples(st.integers(-2, 1), st.integers(1, 6))
STRANGE = st.one_of(
    st.tuples(st.integers(2, 290), st.integers(1, 3)),
    st.tuples(st.integers(-100, -3), st.integers(1, 6)),
    st.tuples(st.integers(-5000, -100), st.integers(1, 60)),
)
#: (source, events) of one second; a kill; a pause of so many seconds; a source that does not say its end.
SECOND = st.lists(st.tuples(st.sampled_from(SOURCES), st.one_of(HONEST, HONEST, STRANGE)), max_size=6)
STEPS = st.lists(
    st.one_of(
        SECOND,
        SECOND,
        SECOND,
        st.just("kill"),
        st.tuples(st.just("pause"), st.integers(1, 400)),
        st.tuples(st.just("lag"), st.sampled_from(SOURCES)),
    ),
    min_size=5,
    max_size=25,
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_whatever_the_clocks_say_every_event_is_learned_once(
    make_rig: Callable[..., Any], new_clock: Callable[[], Any], shown: Any, done: Any, steps: list[Any]
) -> None:
    clock = new_clock()
    clock.at_ms += 10_000_000
    with TemporaryDirectory() as folder:
        one = make_rig(Path(folder) / "state", clock, times=TIMES)
        logs: dict[Source, list[Record]] = {source: [] for source in SOURCES}
        one.assign(*SOURCES)
        number = 0
        lagging: Source | None = None
        try:
            for step in steps:
                if step == "kill":
                    one.kill()
                elif isinstance(step, tuple) and step[0] == "lag":
                    lagging = step[1]
                elif isinstance(step, tuple):
                    one.second(logs, seconds=step[1])
                    one.second(logs)
                else:
                    now = clock.at_ms - one.T0
                    for source, (off, count) in step:
                        for k in range(count):
                            at = now + 1000 * off + k
                            event = (
                                shown(number, at, f"u{source.partition}")
                                if source.kind == 0
                                else done(max(number - 3, 0), at, user=f"u{source.partition}")
                            )
                            number += source.kind == 0
                            logs[source].append(Record(len(logs[source]), None, _encode(event)))
                    one.second(logs, lagging)
                    lagging = None
            for _ in range(60):
                one.second(logs, seconds=6)
            counts, totals = one.engine.joins.counts, one.engine.totals
            assert counts.impressions == counts.samples == number
            assert totals.impressions_read == number, "each is taken once"
            assert totals.actions_read == len(logs[SOURCES[2]]) + len(logs[SOURCES[3]])
            assert one.engine.timeline.buffered == one.engine.timeline.waiting_ahead == 0
        finally:
            one.close()
