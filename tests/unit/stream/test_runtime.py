"""Failure: what goes on beside a tick spoils it: feature rows of a second tick are dropped or break the
first one's loop; a call that stands in line behind a failed one checkpoints half a tick; what was published
counts as complete before all of it is out.

Mechanism: a runtime over a real engine and state with a publisher that a test holds in the middle.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka.errors import KafkaError
from faust.types import TP
from prometheus_client import CollectorRegistry

from clients.connection import Connection
from contracts.events import Impression, Watermark
from contracts.scenario import Scenario, Times
from features.hashing import hash_texts
from features.topic import OF_WORKER, row_names, row_prefix
from state.errors import StateDiskError
from state.store import Store
from stream.decode import Record
from stream.lane import NEVER
from stream.resume import Place
from stream.runtime import BrokenEngineError, Runtime
from stream.timeline import Source
from tests.unit.stream.conftest import T0

SCENARIO = Scenario(times=Times(label_window_s=3.0, lateness_s=0.0, idle_s=1000.0))


#: The names of items' rows in the topic.
ITEMS = {
    row_names(row_prefix(OF_WORKER, "0", "item_id"), hash_texts([f"x{n}"]))[0]: f"x{n}" for n in range(10)
}


class Publisher:
    """Takes rows one by one; ``go`` cleared holds it between two."""

    def __init__(self) -> None:
        self.rows: list[bytes] = []
        self.versions: list[int] = []
        self.go = asyncio.Event()
        self.go.set()
        self.refuses = False

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def retire(self) -> None: ...

    async def feature_rows(self, rows: Mapping[bytes, bytes]) -> int:
        count = 0
        for name in rows:
            await self.go.wait()
            if self.refuses:
                raise KafkaError("no")
            self.rows.append(name)
            count += 1
        return count

    async def weights(self, weights: Any) -> int:
        self.versions.append(weights.version)
        return 1

    def items(self) -> list[str]:
        """Items whose rows went out."""
        return sorted(ITEMS[name] for name in self.rows if name in ITEMS)


@pytest.fixture
async def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runtime]:
    monkeypatch.setenv("SURGELINE_HOME", str(tmp_path))
    one = Runtime(SCENARIO, Connection("127.0.0.1:1"), "0", CollectorRegistry())
    one._publisher = Publisher()  # type: ignore[assignment]
    await one.start()
    await one._call(one.engine.assign, Source(0, 0), Place())
    yield one
    await one.stop()


def publisher(runtime: Runtime) -> Publisher:
    assert isinstance(runtime._publisher, Publisher)
    return runtime._publisher


async def shown(runtime: Runtime, *numbers: int) -> None:
    """Impressions of these items, a second apart, and their ticks run."""
    values: list[Any] = [
        Impression(impression_id=f"i{n}", event_time=T0 + 1000 * n, user_id="u", item_id=f"x{n}")
        for n in numbers
    ]
    values.append(Watermark(watermark=T0 + 1000 * numbers[-1] + 1000))
    first = 100 * numbers[0]
    records = [Record(first + i, None, msgspec.json.encode(value)) for i, value in enumerate(values)]
    await runtime._call(runtime.engine.ingest, Source(0, 0), records, T0 + 10**6)
    await runtime._call(runtime.engine.advance)


async def test_a_tick_beside_one_that_publishes_loses_no_row_and_breaks_none(runtime: Runtime) -> None:
    await shown(runtime, 1, 2)
    publisher(runtime).go.clear()
    timer = asyncio.create_task(runtime.tick(None))
    await asyncio.sleep(0.05)
    await shown(runtime, 3, 4)
    rebalance = asyncio.create_task(runtime.tick(None))
    await asyncio.sleep(0.05)
    publisher(runtime).go.set()
    await asyncio.gather(timer, rebalance)
    assert publisher(runtime).items() == ["x1", "x2", "x3", "x4"]
    assert publisher(runtime).versions == [1, 2]


class Behind:
    """A consumer with so much to read, of which nothing is at its end."""

    def __init__(self, lag: int) -> None:
        self.waiting = lag
        self.commits = 0

    def lag(self, tp: TP) -> int:
        return self.waiting

    def ended_at(self, tp: TP) -> None: ...

    async def commit(self) -> None:
        self.commits += 1


async def test_in_a_backlog_not_every_tick_is_a_checkpoint_but_the_last_one_is(runtime: Runtime) -> None:
    """Also required: memory that holds more rows than it may is brought below the bound at once."""
    runtime._owned = {TP(SCENARIO.topics.impressions, 0)}
    rows, consumer = runtime.engine.features, Behind(10**9)
    rows._cached_rows = 1000
    await shown(runtime, 1)
    await runtime.tick(consumer)
    assert (publisher(runtime).versions, consumer.commits) == ([], 0)
    rows._cached_rows = 1
    await runtime.tick(consumer)
    assert (publisher(runtime).versions, consumer.commits) == ([1], 1)
    rows._cached_rows = 1000
    await shown(runtime, 2)
    await runtime.tick(consumer)
    assert publisher(runtime).versions == [1]
    consumer.waiting = 0
    await runtime.tick(consumer)
    assert publisher(runtime).versions == [1, 2], "it has caught up"
    await shown(runtime, 3)
    consumer.waiting = 10**9
    await runtime.tick(consumer, last=True)
    assert publisher(runtime).versions == [1, 2, 3]
    assert publisher(runtime).items() == ["x1", "x2", "x3"]


async def test_rows_of_before_an_older_log_do_not_make_those_after_it_complete(runtime: Runtime) -> None:
    await shown(runtime, 1)
    publisher(runtime).go.clear()
    timer = asyncio.create_task(runtime.tick(None))
    await asyncio.sleep(0.05)
    # What the engine does when time starts over.
    runtime.engine.totals.older_logs += 1
    runtime.engine.published_until = NEVER
    publisher(runtime).go.set()
    await timer
    assert runtime.engine.published_until == NEVER


async def test_rows_that_could_not_be_published_go_out_with_the_next_tick(runtime: Runtime) -> None:
    await shown(runtime, 1)
    publisher(runtime).refuses = True
    await runtime.tick(None)
    assert (publisher(runtime).items(), publisher(runtime).versions) == ([], [])
    before = runtime.engine.published_until
    await shown(runtime, 2)
    publisher(runtime).refuses = False
    await runtime.tick(None)
    assert publisher(runtime).items() == ["x1", "x2"]
    assert runtime.engine.published_until == T0 + 3000 > before


async def test_a_tick_that_is_cancelled_while_it_publishes_keeps_its_rows(runtime: Runtime) -> None:
    await shown(runtime, 1)
    publisher(runtime).go.clear()
    timer = asyncio.create_task(runtime.tick(None))
    await asyncio.sleep(0.05)
    timer.cancel()
    await asyncio.gather(timer, return_exceptions=True)
    publisher(runtime).go.set()
    await runtime.tick(None)
    assert publisher(runtime).items() == ["x1"]


async def test_a_tick_that_is_cancelled_while_it_takes_its_checkpoint_keeps_its_rows(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failure: its rows have left the engine and reach nobody, and the next tick says that all are out."""
    await shown(runtime, 1)
    begun, goes_on = threading.Event(), threading.Event()
    checkpoint = runtime._checkpoint

    def slow(*arguments: Any) -> Any:
        begun.set()
        goes_on.wait(30)
        return checkpoint(*arguments)

    monkeypatch.setattr(runtime, "_checkpoint", slow)
    timer = asyncio.create_task(runtime.tick(None))
    await asyncio.to_thread(begun.wait, 30)
    timer.cancel()
    await asyncio.gather(timer, return_exceptions=True)
    goes_on.set()
    await runtime.tick(None)
    assert publisher(runtime).items() == ["x1"]
    assert runtime.engine.published_until == T0 + 2000


async def test_rows_are_complete_only_when_all_of_a_restart_are_out(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies while it publishes again must do that once more after its next start."""
    monkeypatch.setattr("state.row_pass.PART_ROWS", 2)
    await shown(runtime, *range(1, 6))
    publisher(runtime).refuses = True
    await runtime.tick(None)
    await runtime._call(runtime.engine.checkpoint)
    runtime.engine.store.close()
    again = Runtime(SCENARIO, Connection("127.0.0.1:1"), "0", CollectorRegistry())
    again._publisher = Publisher()  # type: ignore[assignment]
    await again.start()
    before = again.engine.published_until
    await again.tick(None)
    assert (len(publisher(again).items()), again.engine.published_until) == (2, before)
    await again.tick(None)
    await again.tick(None)
    assert publisher(again).items() == ["x1", "x2", "x3", "x4", "x5"]
    assert again.engine.published_until == T0 + 6000
    await again.stop()
    runtime._engine = None


async def test_after_a_failure_nothing_more_is_done_or_made_durable(runtime: Runtime) -> None:
    """Failure: a checkpoint in line behind a tick that broke half-way makes its loss durable."""
    await shown(runtime, 1)
    await runtime.tick(None)
    version = runtime.engine.version

    def breaks() -> None:
        raise StateDiskError(runtime.state_folder, "No space left on device")

    failing, in_line = runtime._call(breaks), runtime._call(runtime._checkpoint, T0)
    with pytest.raises(StateDiskError, match="no space left on device"):
        await failing
    with pytest.raises(BrokenEngineError):
        await in_line
    assert isinstance(runtime.fault, StateDiskError)
    await runtime.stop()
    with Store(runtime.state_folder) as store:
        progress = msgspec.msgpack.decode(store.get(b"meta/engine") or b"")
    assert progress["version"] == version
