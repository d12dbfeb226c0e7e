"""Failure: a trunk that was trained anew stops every worker that has a state, or the worker goes on and
learns from what another trunk saw; a wrong trunk at one start throws away what was learned.

Mechanism: a worker with open labels is started again on another trunk, of another width, and then on the
first one again. Required: counts, joins and versions go on; learners begin at the new frozen head, or where
they were left; open impressions are counted as unlearned and never become samples; it is said in one line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts.weights import Weights
from models.deep.load import load_trunk
from models.deep.trunk import Trunk
from serving.admission import Identity, check
from state.keys import ROWS
from stream.new_trunk import KEPT_TRUNKS
from tests.unit.models.conftest import write_trunk

MakeRig = Callable[..., Any]


@pytest.fixture
def trunks(tmp_path: Path) -> Iterator[tuple[Trunk, Trunk]]:
    """No trunk at all, and one of eight hidden units."""
    yield Trunk.empty(), load_trunk(write_trunk(tmp_path / "trunk"))


def restart(one: Any, trunk: Trunk) -> None:
    one.trunk = trunk
    one.kill()


def learned(rig: MakeRig, shown: Any, done: Any) -> Any:
    """A worker that learned two samples and has two open, one of them clicked."""
    one = rig()
    one.feed(shown(1, 0), done(1, 10), shown(2, 20, user="v"), until=5_000)
    one.feed(shown(3, 5_100), done(3, 5_200), shown(4, 5_300, user="v"), until=6_000)
    one.engine.weights(1)
    one.engine.checkpoint()
    return one


def test_what_does_not_depend_on_the_trunk_goes_on(
    rig: MakeRig, shown: Any, done: Any, trunks: tuple[Trunk, Trunk]
) -> None:
    one = learned(rig, shown, done)
    before = list(one.store.scan(ROWS))
    assert len(before) > 5
    restart(one, trunks[1])
    engine = one.engine
    assert engine.joins.counts.impressions == 4
    assert engine.version == 1
    assert list(one.store.scan(ROWS)) == before
    # Remembered impressions still drop duplicates and take their actions.
    one.feed(shown(3, 6_100), done(4, 6_200, user="v"), until=7_000)
    assert engine.joins.counts.duplicate_impressions == 1
    assert engine.joins.counts.actions == 3


def test_open_impressions_are_not_learned_from_and_counted(
    rig: MakeRig, shown: Any, done: Any, trunks: tuple[Trunk, Trunk]
) -> None:
    one = learned(rig, shown, done)
    restart(one, trunks[1])
    closed: list[int] = []
    one.engine.observer = lambda tick, samples: closed.append(len(samples.labels))
    one.feed(shown(5, 6_500), until=20_000)
    totals, counts = one.engine.totals, one.engine.joins.counts
    assert closed == [1]
    assert (totals.unlearned, counts.samples, counts.impressions) == (2, 3, 5)
    assert one.engine.panel.samples == 1
    # Durable: the next start has nothing open of the old trunk, and counts nothing again.
    one.engine.checkpoint()
    one.kill()
    assert (one.engine.totals.unlearned, one.engine.panel.samples) == (2, 1)
    assert one.engine.notices.all() == []


def test_learners_begin_at_the_new_frozen_head_and_serving_on_that_trunk_takes_them(
    rig: MakeRig, shown: Any, done: Any, trunks: tuple[Trunk, Trunk]
) -> None:
    one = learned(rig, shown, done)
    old = one.engine.weights(1)
    one.engine.checkpoint()
    restart(one, trunks[1])
    new: Weights = one.engine.weights(2)
    assert new.version == old.version + 1
    assert new.heads["ctr"].mean == new.heads["ctr"].prior_mean
    assert new.heads["ctr"].mean[:9] == [trunks[1].head_bias, *trunks[1].head_weight]
    own = Identity(trunks[1].hash, 8, one.engine.plan.hash, tuple(one.engine.plan.names))
    assert check(new, own, {}) is None
    refused = check(old, own, {})
    assert refused is not None and refused.reason == "trunk_hash"


def test_the_trunk_before_finds_its_learners_where_they_were_left(
    rig: MakeRig, shown: Any, done: Any, trunks: tuple[Trunk, Trunk]
) -> None:
    """A wrong folder at one start must not cost a night; nor must a new trunk that is taken back."""
    one = learned(rig, shown, done)
    before, tick = one.engine.weights_digest(), one.engine._last_learned_tick
    restart(one, trunks[1])
    one.feed(shown(5, 6_500), until=20_000)
    one.engine.checkpoint()
    restart(one, trunks[0])
    assert one.engine.weights_digest() == before
    assert one.engine._last_learned_tick == tick
    (notice,) = one.engine.notices.all()
    assert "go on from version 1" in notice.text
    one.feed(shown(6, 20_500), until=40_000)
    assert one.engine.panel.samples == 3
    assert one.engine.weights_digest() != before


def test_a_kill_before_the_first_checkpoint_changes_nothing(
    rig: MakeRig, shown: Any, done: Any, trunks: tuple[Trunk, Trunk]
) -> None:
    one = learned(rig, shown, done)
    before = one.engine.digest()
    restart(one, trunks[1])
    restart(one, trunks[1])
    assert one.engine.totals.unlearned == 2
    restart(one, trunks[0])
    assert one.engine.digest() == before
    assert one.engine.totals.unlearned == 0


def test_one_line_says_it_with_both_trunks(
    rig: MakeRig, shown: Any, done: Any, trunks: tuple[Trunk, Trunk]
) -> None:
    one = learned(rig, shown, done)
    restart(one, trunks[1])
    (notice,) = one.engine.notices.all()
    assert notice.kind == "new_trunk"
    for part in ("trunk none", f"frozen head of trunk {trunks[1].hash[:12]}", "2 impressions", "counts"):
        assert part in notice.text


def test_learners_of_many_trunks_do_not_pile_up(rig: MakeRig, shown: Any, done: Any) -> None:
    """A shop trains every day."""
    one = learned(rig, shown, done)
    for day in range(KEPT_TRUNKS + 3):
        trunk = Trunk.empty()
        trunk.hash = f"of day {day}"
        restart(one, trunk)
        one.engine.weights(day)
        one.engine.checkpoint()
    kept = [key for key, _ in one.store.scan(b"meta/aside/")]
    assert kept == [f"meta/aside/of day {day}".encode() for day in range(2, KEPT_TRUNKS + 2)]
