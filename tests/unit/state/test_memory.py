"""Failure: after a burst a worker holds the memory of its peak for ever. Mechanism: the C library keeps what
was freed below memory in use. Required: after the burst and the join limit memory is near what it was.
Bounds are generous: bytes, never times.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from itertools import count
from pathlib import Path

import pytest

from state.memory import LOOK_S, WORTH_BYTES, FreedMemory

#: All of it is about how much memory ordinary sizes take.
pytestmark = pytest.mark.ordinary_sizes

ROOT = Path(__file__).parents[3]


# -- the C library's share


def test_memory_is_given_back_when_much_has_become_free_and_not_every_second() -> None:
    free = [0]
    given = count()
    memory = FreedMemory((lambda: free[0], lambda: next(given)))
    assert not memory.follow(0.0)
    free[0] = WORTH_BYTES
    assert not memory.follow(LOOK_S - 1)
    assert memory.follow(LOOK_S)
    # It still counts as free, but it is not here any more.
    assert not memory.follow(2 * LOOK_S)
    free[0] = WORTH_BYTES // 2
    assert not memory.follow(3 * LOOK_S)
    free[0] = 2 * WORTH_BYTES
    assert memory.follow(4 * LOOK_S)
    assert next(given) == 2


def in_a_process_of_its_own(code: str) -> dict[str, float]:
    """Megabytes by name that ``code`` printed; ``rss()`` is there for it."""
    head = """
        def rss():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * 4096 / 1e6
    """
    script = textwrap.dedent(head) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT, timeout=600
    )
    return {name: float(value) for name, value in (line.split() for line in done.stdout.splitlines())}


def test_what_was_freed_below_memory_in_use_leaves_the_process() -> None:
    if not sys.platform.startswith("linux"):
        assert not FreedMemory().follow(), "glibc's own call"
        return
    megabytes = in_a_process_of_its_own("""
        from state.memory import FreedMemory
        held = [bytes(60_000) for _ in range(4_000)]
        last = bytes(60_000)
        print("peak", rss())
        del held
        print("freed", rss())
        memory = FreedMemory()
        assert memory.follow()
        print("after", rss())
    """)
    assert megabytes["freed"] > megabytes["peak"] - 50, "else the test shows nothing"
    assert megabytes["after"] < megabytes["peak"] - 150


# -- a worker's engine


@pytest.mark.slow
def test_after_two_million_impressions_and_the_join_limit_memory_is_near_what_it_was() -> None:
    """The whole engine; the feature rows of its users and items stay, which is what the bound allows for."""
    megabytes = in_a_process_of_its_own("""
        import gc, tempfile, time
        import msgspec, numpy as np
        from models.deep.trunk import Trunk
        from state import memory
        from state.store import Store
        from stream.decode import Record
        from stream.engine import Engine
        from contracts.events import Impression, Watermark
        from stream.resume import Place
        from contracts.scenario import Learners, Scenario, Times
        from stream.timeline import Source

        # Time passes faster here than in a worker, and less is freed.
        memory.LOOK_S, memory.WORTH_BYTES = 0.0, 16_000_000
        gc.set_threshold(100_000, 50, 1000)
        start = 1_700_000_000_000
        encode = msgspec.json.encode
        learners = Learners(river=[])
        with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
            engine = Engine(Scenario(learners=learners, times=Times(join_limit_s=60.0)), store, Trunk.empty())
            source = Source(0, 0)
            engine.assign(source, Place())
            engine.assign(Source(1, 0), Place())
            offset = 0

            def second(number, rows):
                global offset
                at = start + number * 1000
                events = [
                    Impression(
                        impression_id=f"impression-{offset + n}",
                        event_time=at + n * 1000 // rows,
                        user_id=f"user-{n % 20_000}",
                        item_id=f"item-{n % 5_000}",
                    )
                    for n in range(rows)
                ]
                values = [*map(encode, events), encode(Watermark(watermark=at + 1000))]
                engine.ingest(source, [Record(offset + n, None, v) for n, v in enumerate(values)], at + 1000)
                engine.timeline.promise(Source(1, 0), at + 1000, number, time.monotonic())
                offset += len(values)
                engine.advance()
                engine.features.drop_changed()
                engine.checkpoint()
                engine.stats.take()

            for number in range(70):
                second(number, 1_000 if number else 20_000)
            print("before", rss())
            most = 0
            for number in range(70, 90):
                second(number, 100_000)
                most = max(most, rss())
            print("peak", most)
            assert len(engine.joins) > 2_000_000
            for number in range(90, 170):
                second(number, 1_000)
                time.sleep(0.02)
            print("after", rss())
            assert len(engine.joins) < 70_000
    """)
    assert megabytes["peak"] > megabytes["before"] + 300, "else the test shows nothing"
    assert megabytes["after"] < megabytes["before"] + 180, megabytes
