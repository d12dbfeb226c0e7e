"""Fails when what is learned depends on how Kafka batched the events, on the order in which partitions
came, on when a checkpoint was, or on where the worker was killed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.lane import Position
from stream.resume import Place
from stream.timeline import Source
from tests.unit.stream.some_columns import named

SOURCES = [Source(kind, partition) for kind in (0, 1, 2) for partition in (0, 1)]
#: What a worker does next: read so much of a source, run ticks, checkpoint, lose a partition, be killed.
READ = st.tuples(st.sampled_from(SOURCES), st.integers(1, 40))
CALM = st.lists(st.one_of(READ, st.sampled_from(["advance", "checkpoint"])), max_size=25)
ROUGH = st.lists(
    st.one_of(READ, st.sampled_from(["advance", "checkpoint", "kill", "rebalance"])), max_size=25
)

Outcome = dict[str, Any]


def run(rig: Any, logs: Any, steps: list[Any]) -> Outcome:
    """Follow the steps, then read what is left; what can be compared."""
    rig.follow(logs, SOURCES, steps)
    return outcome(rig)


def outcome(rig: Any) -> Outcome:
    engine = rig.engine
    return {
        "digest": engine.digest(),
        "weights": engine.weights_digest(),
        "totals": engine.totals,
        "join": engine.joins.counts,
        "metrics": engine.panel.metrics(),
        "labels": engine.labels_until,
        "offsets": rig.next,
    }


@pytest.fixture(scope="module")
def expected(sale: Callable[..., Any], new_rig: Callable[[], Any]) -> dict[int, tuple[Any, Outcome]]:
    """Some sales, and what comes of each when it is read at once."""
    results = {}
    for seed in range(3):
        with new_rig() as rig:
            logs = sale(seed, 90)
            results[seed] = (logs, run(rig, logs, []))
    return results


def test_a_sale_leaves_something_to_compare(expected: dict[int, tuple[Any, Outcome]]) -> None:
    for _, result in expected.values():
        join, totals = result["join"], result["totals"]
        assert join.samples == join.impressions == 90
        assert (
            min(join.positives, join.duplicate_impressions, join.duplicate_actions, join.actions_after_label)
            > 0
        )
        assert join.orphans_expired == 3
        assert join.orphans_joined > 0
        assert (totals.late, totals.refused) == (0, 12)
        assert totals.impressions_read == 90 + join.duplicate_impressions
        assert totals.behaviours_read == 45
        assert totals.actions_read == join.actions + join.duplicate_actions + 3
    assert len({result["digest"] for _, result in expected.values()}) == 3


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2), steps=CALM)
def test_batches_partitions_and_checkpoints_do_not_matter(
    expected: dict[int, tuple[Any, Outcome]], new_rig: Callable[[], Any], seed: int, steps: list[Any]
) -> None:
    logs, result = expected[seed]
    with new_rig() as rig:
        assert run(rig, logs, steps) == result


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2), steps=ROUGH)
def test_kills_and_rebalances_do_not_matter(
    expected: dict[int, tuple[Any, Outcome]], new_rig: Callable[[], Any], seed: int, steps: list[Any]
) -> None:
    logs, result = expected[seed]
    with new_rig() as rig:
        assert run(rig, logs, steps) == result


def test_record_by_record_with_a_kill_after_every_checkpoint(
    expected: dict[int, tuple[Any, Outcome]], new_rig: Callable[[], Any]
) -> None:
    logs, result = expected[0]
    steps: list[Any] = []
    for round_ in range(12):
        for source in SOURCES:
            steps.append((source, 7))
        steps += ["advance", "checkpoint", *([] if round_ % 3 else ["kill"])]
    with new_rig() as rig:
        assert run(rig, logs, steps) == result


def test_reading_everything_once_more_changes_nothing(
    expected: dict[int, tuple[Any, Outcome]], new_rig: Callable[[], Any]
) -> None:
    """Kafka may have older offsets than the state: the state knows what it has done."""
    logs, result = expected[1]
    with new_rig() as rig:
        assert run(rig, logs, []) == result
        rig.kill()
        for source in SOURCES:
            rig.engine.ingest(source, logs[source], rig.T0 + 3_600_000)
        rig.engine.advance()
        rig.engine.checkpoint()
        assert outcome(rig) == result


def test_a_checkpoint_gives_the_offsets_to_commit(
    expected: dict[int, tuple[Any, Outcome]], new_rig: Callable[[], Any]
) -> None:
    logs, _ = expected[2]
    with new_rig() as rig:
        rig.assign(*SOURCES)
        assert rig.engine.checkpoint() == dict.fromkeys(SOURCES, 0)
        for source in SOURCES:
            rig.read(logs, source, 10**6)
        rig.engine.advance()
        offsets = rig.engine.checkpoint()
        assert offsets == {source: len(logs[source]) for source in SOURCES}
        rig.kill()
        assert rig.next == offsets
        # A partition that goes away is no longer committed, but its place is remembered.
        rig.engine.revoke(SOURCES[0])
        assert rig.engine.checkpoint() == {source: offsets[source] for source in SOURCES[1:]}
        assert rig.engine.assign(SOURCES[0], Place()) == offsets[SOURCES[0]]


def test_a_source_that_the_state_does_not_know_starts_where_the_group_committed(
    new_rig: Callable[[], Any],
) -> None:
    with new_rig() as rig:
        assert rig.engine.assign(SOURCES[0], Place(17)) == 17
        assert rig.engine.assign(SOURCES[1], Place()) is None


def test_the_states_own_offset_wins_unless_another_worker_went_further(
    expected: dict[int, tuple[Any, Outcome]], new_rig: Callable[[], Any]
) -> None:
    logs, _ = expected[0]
    with new_rig() as rig:
        rig.assign(SOURCES[0])
        rig.read(logs, SOURCES[0], 20)
        own = rig.engine.checkpoint()[SOURCES[0]]
        for committed in (None, 0, own):
            assert rig.engine.assign(SOURCES[0], Place(committed)) == own
        assert rig.engine.assign(SOURCES[0], Place(30)) == 30


def test_a_topic_that_was_made_anew_is_read_from_its_start(new_rig: Callable[[], Any]) -> None:
    with new_rig() as rig:
        rig.assign(SOURCES[0])
        rig.engine.timeline.put(
            SOURCES[0], 50, named([]), np.empty(0, np.int64), np.empty(0, np.int64), 0.0, 0
        )
        rig.engine.checkpoint()
        # The broker holds 8 records where the state has done 50: both offsets are of a topic that is gone.
        assert rig.engine.assign(SOURCES[0], Place(50, end=8)) is None
        assert rig.engine.timeline.fresh(SOURCES[0], np.arange(8)) is None, "nothing may be skipped"
        rig.engine.assign(SOURCES[0], Place(50, end=50))


def test_what_another_worker_committed_beyond_our_own_offsets_is_not_done_again() -> None:
    ours = Position(end=40, open_ranges=[(10, 19), (30, 39)], newest=7, promised=5)
    theirs = ours.skipped_to(15)
    assert (theirs.end, theirs.open_ranges, theirs.newest) == (40, [(15, 19), (30, 39)], 7)
    assert ours.skipped_to(25).open_ranges == [(30, 39)]
    assert ours.skipped_to(60) == Position(end=60, open_ranges=[], newest=7, promised=5)
