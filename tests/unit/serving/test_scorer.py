"""Fails when a score is not the sigmoid of what heads see under the stamped weights."""

from __future__ import annotations

import base64
import math
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.weights import Watermarks, Weights
from models.deep.trunk import Trunk
from models.online.bayes import merge
from serving.admission import Accepted
from serving.errors import RequestError, ScoreNotFiniteError
from serving.feature_view import FeatureView
from serving.messages import Item, ScoreRequest
from serving.scorer import FrozenTrunk, Scorer
from tests.unit.serving.conftest import FORGET_MS, NOW, PLAN
from tests.unit.serving.worker_side import CLICK, PURCHASE, Event, Worker, shown_list

MakeWeights = Callable[..., Weights]


def request(*items: str, user: str = "u", **changes: Any) -> ScoreRequest:
    listed = [Item(item_id=item, category_id="c", position=i, price=9.5) for i, item in enumerate(items)]
    return ScoreRequest(user_id=user, items=listed, **changes)


def by_hand(
    scorer: Scorer, worker: Worker, asked: ScoreRequest, mean: npt.NDArray[np.float64]
) -> list[float]:
    """One item after the other, with what the worker knows."""
    scores = []
    rows = worker.look(asked, NOW if asked.event_time is None else asked.event_time)
    for item, row in zip(asked.items, rows, strict=True):
        columns = {
            "user_id": [asked.user_id],
            "item_id": [item.item_id],
            "position": np.array([item.position]),
            "context": [asked.context],
        }
        for name, value in (item.features or {}).items():
            row[scorer.real_time_names.index(name)] = value
        hidden = scorer.trunk.hidden(columns, 1, row[None])
        z = [1.0, *hidden.ravel().tolist(), *scorer.trunk.normalise(row).tolist()]
        scores.append(1.0 / (1.0 + math.exp(-math.fsum(a * b for a, b in zip(z, mean, strict=True)))))
    return scores


def fill(view: FeatureView, worker: Worker) -> None:
    """Lists that were shown, and what users did with them."""
    for ago, items in ((30_000, "ab"), (9_000, "ba"), (5_000, "a")):
        asked = request(*items)
        worker.count(shown_list(asked, NOW - ago))
        worker.count([Event(CLICK, NOW - ago + 900, "u", asked.items[0])])
    worker.count([Event(PURCHASE, NOW - 1_000, "u", request("b").items[0])])
    view.apply(worker.records())


def test_scores_are_the_formula(
    scorer: Scorer, view: FeatureView, worker: Worker, make_weights: MakeWeights
) -> None:
    """Bias, hidden and real-time features of every table in the order of the feature list."""
    fill(view, worker)
    weights = make_weights()
    assert scorer.offer(weights) == Accepted(1)
    asked = request("a", "b", "new", context={"page": "home"})
    asked.items[2].features = {"item_id.click/impression.60s": 0.7, "price.log": 0.0}
    got = scorer.score(asked).scores
    np.testing.assert_allclose(
        got, by_hand(scorer, worker, asked, np.array(weights.heads["ctr"].mean)), rtol=1e-9
    )


def test_a_batch_scores_as_its_requests_do(
    scorer: Scorer, view: FeatureView, worker: Worker, make_weights: MakeWeights
) -> None:
    """Users, times, contexts and logged features must not leak from one request of a batch to the next."""
    fill(view, worker)
    scorer.offer(make_weights())
    logged = request("a", "b")
    logged.items[1].features = {"user_id.click/impression.60s": -0.5}
    asked = [
        request("a", "b", "x"),
        logged,
        request("b", user="v", context={"a": "1", "b": "2"}, event_time=NOW + 120_000),
        request("a", event_time=NOW - 20_000, with_features=True),
    ]
    batch = scorer.score_batch(asked)
    for together, alone in zip(batch, map(scorer.score, asked), strict=True):
        np.testing.assert_allclose(together.scores, alone.scores, rtol=1e-12)
        assert together.stamp == alone.stamp
        assert together.features == alone.features
    assert scorer.score_batch([]) == []


def test_the_stamp_says_what_an_answer_was_made_with(
    scorer: Scorer, view: FeatureView, worker: Worker, make_weights: MakeWeights
) -> None:
    """Versions, trunk, the smallest watermarks, the newest source's age, and which rows were not known."""
    fill(view, worker)
    scorer.offer(make_weights(version=7, source="w0"))
    marks = Watermarks(features=NOW - 9, labels=NOW - 9000)
    scorer.offer(make_weights(version=5, source="w1", watermarks=marks, created_at=NOW - 4))
    stamp = scorer.score(request("a", "new", "newer", user="nobody", event_time=NOW - 1)).stamp
    assert (stamp.version, stamp.sources, stamp.trunk_hash) == (12, {"w0": 7, "w1": 5}, "stub")
    assert stamp.watermarks == Watermarks(features=NOW - 2000, labels=NOW - 9000)
    assert (stamp.weights_age_ms, stamp.event_time) == (4, NOW - 1)
    assert stamp.absent == {"item_id": 2, "user_id": 3, "position": 1}


def test_sources_serve_as_their_merge(scorer: Scorer, make_weights: MakeWeights) -> None:
    """What N workers learned adds; the order in which their messages came does not show."""
    first, second = make_weights(source="w0", version=3), make_weights(source="w1", version=4)
    scorer.offer(second)
    scorer.offer(first)
    expected = merge([first.heads["ctr"], second.heads["ctr"]])[0]
    assert scorer.snapshot.mean is not None
    assert (scorer.snapshot.mean == expected).all()
    assert scorer.snapshot.version == 7
    assert scorer.retire("w0")
    assert not scorer.retire("w0")
    assert scorer.snapshot.mean.tolist() == second.heads["ctr"].mean


def test_before_any_weights_the_frozen_head_scores(scorer: Scorer, worker: Worker) -> None:
    """A scorer without a topic answers as the offline model does, and says version 0."""
    asked = request("a", "b")
    answer = scorer.score(asked)
    columns = {
        "item_id": ["a", "b"],
        "user_id": ["u", "u"],
        "position": np.array([0, 1]),
        "context": [None, None],
    }
    logits = scorer.trunk.frozen_logit(scorer.trunk.hidden(columns, 2, worker.look(asked, NOW)))
    np.testing.assert_allclose(answer.scores, 1 / (1 + np.exp(-logits)), rtol=1e-12)
    assert (answer.stamp.version, answer.stamp.sources) == (0, {})
    assert answer.stamp.watermarks is None
    assert answer.stamp.weights_age_ms is None


def test_without_a_trunk_the_base_rate_scores() -> None:
    """Trunk.empty() has no hidden units: the feature list is the bias and the real-time features."""
    scorer = Scorer(Trunk.empty(), FeatureView(PLAN, FORGET_MS))
    assert scorer.score(request("a")).scores == pytest.approx([0.02])
    assert scorer.feature_names == ["bias", *PLAN.names]


@given(st.floats(-1e300, 1e300), st.floats(-1e12, 1e12))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_scores_are_probabilities_whatever_the_weights(
    make_weights: MakeWeights, bias: float, slope: float
) -> None:
    """exp must not overflow: finite weights give scores in [0, 1], monotone in the logit."""
    trunk: FrozenTrunk = Trunk.empty()
    scorer = Scorer(trunk, FeatureView(PLAN, FORGET_MS))
    weights = make_weights(trunk_hash="none")
    head = weights.heads["ctr"]
    p = len(scorer.feature_names)
    weights.feature_names = list(scorer.feature_names)
    head.mean, head.prior_mean, head.prior_precision = [bias, *[slope] * (p - 1)], [0.0] * p, [1.0] * p
    head.precision = base64.b64encode(np.zeros(p * (p + 1) // 2).tobytes()).decode()
    assert scorer.offer(weights) == Accepted(1)
    asked = request("a", "b")
    asked.items[0].features = {"item_id.click/impression.60s": 1e9}
    asked.items[1].features = {"item_id.click/impression.60s": -1e9}
    high, low = scorer.score(asked).scores
    assert 0.0 <= min(high, low) <= max(high, low) <= 1.0
    assert (high - low) * slope >= 0.0


def test_features_that_were_used_can_be_logged(
    scorer: Scorer, view: FeatureView, worker: Worker, make_weights: MakeWeights
) -> None:
    """Sent back with a request, they give the same scores: what is learned from is what was scored."""
    fill(view, worker)
    scorer.offer(make_weights())
    answer = scorer.score(request("a", "b", with_features=True))
    assert answer.features is not None and answer.feature_names == scorer.real_time_names
    view.apply([(key, b"") for table in PLAN.tables for key, _ in worker.all_of(table)])
    again = request("a", "b")
    for item, row in zip(again.items, answer.features, strict=True):
        item.features = dict(zip(answer.feature_names, row, strict=True))
    assert scorer.score(again).scores == answer.scores
    assert scorer.score(request("a", "b")).scores != answer.scores


@pytest.mark.parametrize(
    ("asked", "field", "says"),
    [
        (request(), "items", "at least one"),
        (
            ScoreRequest(user_id="u", items=[Item(item_id="a"), Item(item_id="b", features={"ctr": 1.0})]),
            "items[1].features",
            "item_id.click/impression.60s",
        ),
        (
            ScoreRequest(user_id="u", items=[Item(item_id="a", features={"price.log": math.nan})]),
            "items[0].features.price.log",
            "nan",
        ),
        (
            ScoreRequest(user_id="u", items=[Item(item_id="a", features={"price.log": 1e30})]),
            "items[0].features.price.log",
            "1e+30",
        ),
        (
            ScoreRequest(user_id="u", items=[Item(item_id="a"), Item(item_id="b", price=math.nan)]),
            "items[1].price",
            "finite",
        ),
    ],
)
def test_a_wrong_request_names_its_field(scorer: Scorer, asked: ScoreRequest, field: str, says: str) -> None:
    """Also where it was built in Python, past the decoder's checks."""
    with pytest.raises(RequestError, match=says.replace("+", r"\+")) as caught:
        scorer.score(asked)
    assert caught.value.field == field


def test_a_broken_trunk_is_an_error_not_a_score(scorer: Scorer) -> None:
    """NaN must not reach a ranking, where it would sort anywhere."""
    scorer.trunk.frozen_logit = lambda hidden: np.full(len(hidden), np.nan)  # type: ignore[method-assign]
    with pytest.raises(ScoreNotFiniteError, match="stub"):
        scorer.score(request("a"))


def test_the_watermarks_move_only_with_the_slowest_source(scorer: Scorer, make_weights: MakeWeights) -> None:
    """A stamp that named the fastest worker's would promise features that another has not counted yet."""
    scorer.offer(make_weights(source="w0", watermarks=Watermarks(features=10, labels=5)))
    scorer.offer(make_weights(source="w1", watermarks=Watermarks(features=99, labels=99)))
    scorer.offer(make_weights(source="w1", version=2, watermarks=Watermarks(features=100, labels=100)))
    assert scorer.score(request("a")).stamp.watermarks == Watermarks(features=10, labels=5)


def test_an_answer_comes_from_one_version_while_weights_swap(
    scorer: Scorer, view: FeatureView, worker: Worker, make_weights: MakeWeights
) -> None:
    """Failure: a request that reads the snapshot twice mixes the old mean with the new stamp.

    Mechanism: threads score without pause while two sources swap and one comes and goes; switches between
    threads every few microseconds. Required: every answer is, to the last bit, what a scorer with exactly
    the stamped versions gives.
    """
    fill(view, worker)
    asked = request("a", "b", "new")
    offered = {("w0", v): make_weights(version=v, source="w0") for v in range(1, 61)} | {
        ("w1", v): make_weights(version=v, source="w1") for v in range(1, 61)
    }
    seen: dict[tuple[tuple[str, int], ...], set[tuple[float, ...]]] = {}
    failures: list[BaseException] = []
    done = threading.Event()

    def hammer() -> None:
        try:
            while not done.is_set():
                answer = scorer.score(asked)
                assert answer.stamp.version == sum(answer.stamp.sources.values())
                seen.setdefault(tuple(sorted(answer.stamp.sources.items())), set()).add(tuple(answer.scores))
        except BaseException as error:
            failures.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    threads = [threading.Thread(target=hammer) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        for v in range(1, 61):
            assert isinstance(scorer.offer(offered["w0", v]), Accepted)
            scorer.offer(offered["w1", v])
            if v % 10 == 0:
                scorer.retire("w1")
                # On a busy machine the threads may not have had a turn yet.
                known, patience = len(seen), time.monotonic() + 60.0
                while len(seen) == known and not failures and time.monotonic() < patience:
                    time.sleep(0.001)
    finally:
        done.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)

    assert not failures
    assert len(seen) > 5, "the threads saw too few versions to say anything"
    for versions, answers in seen.items():
        alone = Scorer(scorer.trunk, view, scorer.clock_ms)
        for source, version in versions:
            alone.offer(offered[source, version])
        assert answers == {tuple(alone.score(asked).scores)}, versions
