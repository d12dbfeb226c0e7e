"""Fails when a page that asks in the middle of a tick gets that tick's moment with the totals before it, and
when nothing in a view says that ticks stand, what waits, or what a person should know.

The engine's thread records while the event loop answers: whoever waits for a watermark in the moments would
then read counts that lack the last second.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.scenario import Scenario, Times
from models.deep.trunk import Trunk
from state.joins.columns import JoinCounts
from state.store import Store
from stream.engine import Engine
from stream.history import History, LiveView
from stream.pulse import Pulse


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Store(tmp_path) as store:
        yield Engine(Scenario(), store, Trunk.empty())


def test_a_view_is_of_one_moment(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    history, seen = History(Pulse(Times())), list[LiveView | None]()
    metrics = engine.panel.metrics

    def asked_meanwhile() -> object:
        seen.append(history.view())
        return metrics()

    monkeypatch.setattr(engine.panel, "metrics", asked_meanwhile)
    for version, impressions in enumerate((0, 10, 30), start=1):
        engine.version = version
        engine.joins.restore({0: JoinCounts(impressions=impressions)})
        history.record(engine, 0, version)
    assert seen[0] is None
    pairs = [(view.moments[-1].version, view.totals["impressions"]) for view in seen[1:] if view]
    assert pairs == [(1, 0), (2, 10)]
    newest = history.view()
    assert newest is not None and (newest.moments[-1].version, newest.totals["impressions"]) == (3, 30)


def test_a_view_tells_versions_from_ticks(engine: Engine) -> None:
    """Versions move each second. Ticks are those of the second, and none of what a restart restored."""
    history = History(Pulse(Times()))
    engine.totals.ticks = 90_000
    for ticks, version in ((0, 1), (3, 2), (0, 3)):
        engine.totals.ticks += ticks
        engine.version = version
        history.record(engine, 0, 0)
    view = history.view()
    assert view is not None
    assert [(moment.version, moment.ticks) for moment in view.moments] == [(1, 0), (2, 3), (3, 0)]
    assert view.totals["ticks"] == 90_003


def test_a_view_says_that_ticks_stand_and_what_a_person_should_know(engine: Engine) -> None:
    now = 100.0
    pulse = Pulse(Times(), lambda: now)
    history = History(pulse)
    engine.notices.say("older_log", "An older log")
    pulse.see(1, 0)
    pulse.see(1, 7)
    for now, standing in ((108.0, 0.0), (160.0, 60.0)):
        history.record(engine, 0, 0)
        view = history.view()
        assert view is not None
        assert (view.standing_s, view.since_tick_s) == (standing, now - 100.0)
    assert [(notice.kind, notice.text) for notice in view.notices] == [("older_log", "An older log")]
