"""Fails when serving scores with other features than the worker learns from.

Mechanism: a worker in memory counts lists, actions and behaviours and publishes the rows that changed; a view
follows them in any order and batching. Required: at the same watermark, the features that a request is scored
with are, to the last bit, those that the worker sees for the same list, looked at or shown.
"""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from features.hashing import hash_texts
from serving.feature_view import FeatureView
from serving.messages import Item, ScoreRequest
from serving.scorer import Scorer
from tests.unit.serving.conftest import FORGET_MS, NOW, PLAN, StubTrunk
from tests.unit.serving.worker_side import CLICK, PURCHASE, SEARCH, Event, Worker, shown_list

users = st.sampled_from(["u", "v", "żółw"])
pages = st.sampled_from([None, {"page": "home"}, {"page": "sale", "x": "y"}])
candidates = st.builds(
    Item,
    item_id=st.sampled_from(list("abcdef")),
    category_id=st.sampled_from(["", "c", "d"]),
    position=st.integers(0, 6),
    price=st.sampled_from([0.0, 9.5, 120.0]),
    stock=st.sampled_from([None, 0.0, 3.0]),
)
requests = st.builds(
    ScoreRequest,
    user_id=users,
    items=st.lists(candidates, min_size=1, max_size=6),
    context=pages,
    with_features=st.just(True),
)


class Step(NamedTuple):
    """A list that is shown, and what its user does then."""

    after_ms: int
    shown: ScoreRequest
    done: list[tuple[str, int]]


steps = st.lists(
    st.builds(
        Step,
        after_ms=st.sampled_from([0, 900, 70_000, 2_000_000, FORGET_MS]),
        shown=requests,
        done=st.lists(st.tuples(st.sampled_from([CLICK, PURCHASE, SEARCH]), st.integers(0, 5)), max_size=3),
    ),
    min_size=1,
    max_size=8,
)


def run(worker: Worker, at: int, step: Step) -> None:
    worker.count(shown_list(step.shown, at))
    for k, (kind, number) in enumerate(step.done):
        item = step.shown.items[number % len(step.shown.items)]
        about = Item(item_id=item.item_id) if kind == SEARCH else item
        worker.count([Event(kind, at + 100 * (k + 1), step.shown.user_id, about, step.shown.context)])


@given(steps, requests, st.integers(0, 100_000), st.integers(1, 50), st.randoms(use_true_random=False))
@settings(max_examples=80)
def test_a_request_is_scored_with_what_the_worker_sees(
    history: list[Step], asked: ScoreRequest, later: int, batch: int, shuffled: random.Random
) -> None:
    """Rows of different keys may come in any order: only that of one key's is kept by a topic."""
    worker, view = Worker(PLAN), FeatureView(PLAN, FORGET_MS)
    at = NOW
    for step in history:
        at += step.after_ms
        run(worker, at, step)
        at += 500
        records = worker.records()
        shuffled.shuffle(records)
        for start in range(0, len(records), batch):
            view.apply(records[start : start + batch])
    forget_old_rows(worker, at + later)
    asked.event_time = at + later
    scored = Scorer(StubTrunk(), view).score(asked).features
    np.testing.assert_array_equal(np.array(scored, dtype=np.float32), worker.look(asked, at + later))
    np.testing.assert_array_equal(
        np.array(scored, dtype=np.float32), worker.count(shown_list(asked, at + later))
    )


def forget_old_rows(worker: Worker, at: int) -> None:
    """What the store of a worker does with rows that nothing moved for long."""
    for table in worker.tables.values():
        rows = table.rows
        keys, seen = rows.keys[: len(rows)].copy(), rows.values[: len(rows), 0]
        rows.delete(keys[seen < at // 60_000 * 60_000 - FORGET_MS])


@given(steps, requests, st.integers(1, 50))
@settings(max_examples=40)
def test_what_two_workers_counted_reads_as_if_one_had(
    history: list[Step], asked: ScoreRequest, batch: int
) -> None:
    """Users are split over workers; rates, volumes and times of the last events are those of all together."""
    both, halves, view = Worker(PLAN), (Worker(PLAN, "w0"), Worker(PLAN, "w1")), FeatureView(PLAN, FORGET_MS)
    at = NOW
    for step in history:
        at += min(step.after_ms, 70_000)
        half = halves[int(hash_texts([step.shown.user_id])[0]) % 2]
        run(both, at, step)
        run(half, at, step)
        at += 500
        records = half.records()
        for start in range(0, len(records), batch):
            view.apply(records[start : start + batch])
    asked.event_time = at
    scored = Scorer(StubTrunk(), view).score(asked).features
    # What an item cost is each worker's own: the first price, and the one for an event that has none.
    compared = [k for k, name in enumerate(PLAN.names) if not name.startswith("price.")]
    np.testing.assert_allclose(
        np.array(scored)[:, compared], both.look(asked, at)[:, compared], rtol=1e-5, atol=1e-6
    )


@given(steps)
@settings(max_examples=30)
def test_candidates_beside_each_other_are_scored_as_alone(history: list[Step]) -> None:
    """Requests of a batch are lists of their own: what compares a list's items must not see another's."""
    worker, view = Worker(PLAN), FeatureView(PLAN, FORGET_MS)
    for k, step in enumerate(history):
        run(worker, NOW + 1000 * k, step)
    view.apply(worker.records())
    scorer = Scorer(StubTrunk(), view, clock_ms=lambda: NOW + 60_000)
    asked = [step.shown for step in history]
    together = scorer.score_batch(asked)
    assert [one.features for one in together] == [scorer.score(one).features for one in asked]
