"""A small sale as logs of records, and a worker that reads them without a broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import pytest

from contracts.events import EVENTS, Action, Behaviour, Impression, Watermark
from contracts.scenario import Scenario
from models.deep.trunk import Trunk
from state.store import Store
from stream.decode import Record
from stream.engine import Engine
from stream.resume import Place
from stream.timeline import Source

T0 = 1_700_000_000_000
NOW = T0 + 3_600_000

Logs = dict[Source, list[Record]]
_encode = msgspec.json.Encoder().encode


class MovedClock:
    """Clocks that a test moves; they start at ``T0``."""

    def __init__(self) -> None:
        self.at_ms = T0

    def monotonic(self) -> float:
        return self.at_ms / 1000.0

    def time(self) -> float:
        return self.at_ms / 1000.0


class Rig:
    """One worker over one state folder. ``kill`` loses everything since the last checkpoint."""

    T0 = T0

    def __init__(self, folder: Path, clock: MovedClock | None = None, **sections: Any) -> None:
        self.clock = clock
        learners = {"river": [], **sections.pop("learners", {})}
        times = {"label_window_s": 3.0, "join_limit_s": 8.0, "idle_s": 1000.0, **sections.pop("times", {})}
        self.scenario = msgspec.convert({"learners": learners, "times": times, **sections}, Scenario)
        self.folder = folder
        self.next: dict[Source, int] = {}
        self.inputs: list[dict[str, float]] = []
        self.trunk = Trunk.empty()
        self.start()

    def start(self) -> None:
        self.store = Store(self.folder)
        self.engine = Engine(self.scenario, self.store, self.trunk, clock=self.clock)
        self._predict = self.engine.panel.predict
        self.engine.panel.predict = self._watch  # type: ignore[method-assign]

    def _watch(self, z: Any) -> Any:
        names = self.engine.panel.feature_names
        self.inputs += [dict(zip(names, row, strict=True)) for row in z.tolist()]
        return self._predict(z)

    def kill(self) -> None:
        self.store.close()
        self.start()
        self.assign(*self.next)

    def assign(self, *sources: Source) -> None:
        for source in sources:
            self.next[source] = self.engine.assign(source, Place()) or 0

    def read(self, logs: Logs, source: Source, size: int) -> None:
        """Ingest the next ``size`` records of a source."""
        first = self.next[source]
        records = logs[source][first : first + size]
        self.engine.ingest(source, records, self.clock.at_ms if self.clock else NOW)
        self.next[source] = first + len(records)

    def follow(self, logs: Logs, sources: list[Source], steps: list[Any]) -> None:
        """Do the steps (a read, or the name of what happens), then read and run what is left."""
        self.assign(*sources)
        for step in steps:
            if step == "kill":
                self.kill()
            elif step == "rebalance":
                for source in sources:
                    self.engine.revoke(source)
                self.assign(*sources)
            elif isinstance(step, str):
                getattr(self.engine, step)()
            else:
                self.read(logs, *step)
        for source in sources:
            self.read(logs, source, 10**6)
        self.engine.advance()
        self.engine.checkpoint()

    def second(self, logs: Logs, lagging: Source | None = None, seconds: int = 1) -> None:
        """A second of the moved clock as a worker lives it: read all that is there, know the ends, tick.

        ``lagging``: one that is read to its middle only. ``seconds``: what passes at once.
        """
        assert self.clock is not None
        self.clock.at_ms += 1000 * seconds
        for source in self.next:
            left = len(logs[source]) - self.next[source]
            self.read(logs, source, left // 2 if source == lagging else 10**6)
            ended = self.next[source] == len(logs[source])
            self.engine.timeline.set_ended(source, self.clock.monotonic() if ended else None)
        self.engine.advance()
        self.engine.checkpoint()

    def feed(self, *events: Impression | Action | Behaviour, until: int | None = None) -> None:
        """Everything in one batch a kind, partition 0; then time goes on to ``until``, ms after ``T0``."""
        kinds: list[list[Any]] = [[] for _ in EVENTS]
        for event in events:
            kinds[EVENTS.index(type(event))].append(event)
        for kind, some in enumerate(kinds):
            source = Source(kind, 0)
            if source not in self.next:
                self.assign(source)
            if until is not None:
                some.append(Watermark(watermark=T0 + until))
            first = self.next[source]
            records = [Record(first + i, None, _encode(event)) for i, event in enumerate(some)]
            self.engine.ingest(source, records, NOW)
            self.next[source] = first + len(records)
        self.engine.advance()

    def close(self) -> None:
        self.store.close()


def impression(number: int, at: int, user: str = "u", item: str = "x", **more: Any) -> Impression:
    """Impression ``i<number>`` at ``at`` ms after ``T0``."""
    return Impression(impression_id=f"i{number}", event_time=T0 + at, user_id=user, item_id=item, **more)


def action(number: int, at: int, kind: Any = "click", user: str = "u") -> Action:
    """An action on impression ``i<number>`` at ``at`` ms after ``T0``."""
    return Action(impression_id=f"i{number}", event_time=T0 + at, user_id=user, action=kind)


def behaviour(at: int, kind: str = "look", user: str = "u", **more: Any) -> Behaviour:
    """A behaviour at ``at`` ms after ``T0``."""
    return Behaviour(event_time=T0 + at, user_id=user, type=kind, **more)


def make_logs(
    seed: int, size: int, partitions: int = 2, lateness_ms: int = 1000, start: int = 0, closed: bool = True
) -> Logs:
    """A sale with clicks, carts, looks, duplicates, skewed clocks, orphans and bad records.

    It begins at ``start`` ms. Disorder within a partition stays below 1 s unless ``lateness_ms`` is larger,
    so that no event is late however it is read. Every log ends with a watermark, unless it is not ``closed``.
    """
    random = np.random.default_rng(seed)
    shown_at = np.sort(random.integers(0, 12_000, size)).tolist()
    sources = [Source(kind, p) for kind in range(len(EVENTS)) for p in range(partitions)]
    events: dict[Source, list[tuple[int, Any]]] = {source: [] for source in sources}
    for number, at in enumerate(shown_at):
        user = int(random.integers(6))
        shown = impression(
            number, at, f"u{user}", f"x{random.integers(4)}", position=int(random.integers(300)), price=9.0
        )
        events[Source(0, user % partitions)] += [(at, shown)] * (1 + (random.random() < 0.1))
        for kind, chance in (("click", 0.4), ("cart", 0.2), ("refund", 0.1)):
            if random.random() < chance:
                # A few clocks run ahead, a few clicks come after their label.
                done = at + int(random.integers(-1500, 5000))
                event = action(number, max(done, 0), kind, f"u{user}")
                events[Source(1, user % partitions)] += [(max(done, 0), event)] * (
                    1 + (random.random() < 0.1)
                )
    for number in range(3):
        at = int(random.integers(0, 12_000))
        events[Source(1, 0)].append((at, action(10_000 + number, at)))
    looks = np.random.default_rng([seed, 1])
    for at in np.sort(looks.integers(0, 12_000, size // 2)).tolist():
        user = int(looks.integers(6))
        look = behaviour(at, user=f"u{user}", item_id=f"x{looks.integers(4)}")
        events[Source(2, user % partitions)].append((at, look))
    logs: Logs = {}
    end = [_encode(Watermark(watermark=T0 + start + 40_000))] if closed else []
    for source, some in events.items():
        arrival = [at + int(random.integers(0, lateness_ms)) for at, _ in some]
        order = np.argsort(arrival, kind="stable").tolist()
        values = [
            _encode(msgspec.structs.replace(e, event_time=e.event_time + start)) for e in _in(some, order)
        ]
        for _ in range(2):
            values.insert(int(random.integers(0, len(values) + 1)), b"garbage")
        logs[source] = [Record(i, None, value) for i, value in enumerate([*values, *end])]
    return logs


def _in(events: list[tuple[int, Any]], order: list[int]) -> list[Any]:
    return [events[i][1] for i in order]


def one_after_the_other(*parts: Logs) -> Logs:
    """Logs as they follow each other in the topics."""
    values = {source: [record.value for part in parts for record in part[source]] for source in parts[0]}
    return {
        source: [Record(i, None, value) for i, value in enumerate(some)] for source, some in values.items()
    }


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Makes rigs with folders of their own; keywords are sections of the scenario."""
    made: list[Rig] = []

    def make(folder: str | None = None, **sections: Any) -> Rig:
        one = Rig(tmp_path / (folder or f"state{len(made)}"), **sections)
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="session")
def new_clock() -> type[MovedClock]:
    return MovedClock


@pytest.fixture(scope="session")
def make_rig() -> type[Rig]:
    return Rig


@pytest.fixture
def moved_clock() -> MovedClock:
    return MovedClock()


@pytest.fixture(scope="session")
def new_rig() -> Callable[[], Any]:
    """A context manager: a rig that lives for one example of a property."""

    class Fresh:
        def __enter__(self) -> Rig:
            self.folder = TemporaryDirectory()
            self.rig = Rig(Path(self.folder.name) / "state")
            return self.rig

        def __exit__(self, *_: object) -> None:
            self.rig.close()
            self.folder.cleanup()

    return Fresh


@pytest.fixture(scope="session")
def sale() -> Callable[..., Logs]:
    return make_logs


@pytest.fixture(scope="session")
def shown() -> Callable[..., Impression]:
    return impression


@pytest.fixture(scope="session")
def done() -> Callable[..., Action]:
    return action


@pytest.fixture(scope="session")
def behaved() -> Callable[..., Behaviour]:
    return behaviour


@pytest.fixture(scope="session")
def following() -> Callable[..., Logs]:
    return one_after_the_other
