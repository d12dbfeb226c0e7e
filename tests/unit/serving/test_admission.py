"""Fails when weights that are not the scorer's own begin to serve, or a refusal disturbs what serves."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from typing import Any, get_args

import msgspec
import numpy as np
import pytest

from contracts.weights import SCHEMA_VERSION, Head, Weights, encode_weights
from serving.admission import Accepted, Reason, Refused
from serving.follower import take_weights
from serving.messages import Item, ScoreRequest
from serving.scorer import Scorer
from tests.unit.serving.conftest import PLAN

MakeWeights = Callable[..., Weights]
Change = Callable[[Weights], Weights]
REQUEST = ScoreRequest(user_id="u", items=[Item(item_id="a"), Item(item_id="b")])


def changed(**changes: Any) -> Change:
    return lambda weights: msgspec.structs.replace(weights, **changes)


def head(**changes: Any) -> Change:
    def change(weights: Weights) -> Weights:
        return msgspec.structs.replace(
            weights, heads={"ctr": msgspec.structs.replace(weights.heads["ctr"], **changes)}
        )

    return change


def triangle(p: int, value: float) -> str:
    return base64.b64encode(np.full(p * (p + 1) // 2, value).tobytes()).decode()


def other_names(weights: Weights) -> Weights:
    names = list(weights.feature_names)
    names[5], names[6] = names[6], names[5]
    return msgspec.structs.replace(weights, feature_names=names)


P = 1 + 5 + len(PLAN.names)  # bias, the stub trunk's hidden units, real-time features

REFUSED: list[tuple[str, Reason, Change]] = [
    ("another schema", "schema", changed(schema_version=SCHEMA_VERSION + 1)),
    ("another trunk", "trunk_hash", changed(trunk_hash="other")),
    ("a feature less", "feature_list", lambda w: changed(feature_names=w.feature_names[:-1])(w)),
    ("a feature more", "feature_list", lambda w: changed(feature_names=[*w.feature_names, "x"])(w)),
    ("another order", "feature_list", other_names),
    ("other features of the same names", "features_hash", changed(features_hash="other")),
    ("no click head", "head", changed(heads={})),
    ("a precision of another size", "head", head(precision=triangle(P - 1, 1.0))),
    ("a precision that is no base64", "head", head(precision="ü")),
    ("a precision of broken bytes", "head", head(precision=base64.b64encode(b"12345").decode())),
    ("a short mean", "head", head(mean=[0.0] * (P - 1))),
    ("a prior of no precision", "head", head(prior_precision=triangle(P, 0.0))),
    ("NaN in the mean", "not_finite", head(mean=[math.nan] * P)),
    ("infinity in the prior", "not_finite", head(prior_mean=[math.inf] * P)),
    ("a prior of another size", "head", head(prior_precision=triangle(P - 1, 1.0))),
    ("NaN in the prior's precision", "not_finite", head(prior_precision=triangle(P, math.nan))),
    ("NaN in the precision", "not_finite", head(precision=triangle(P, math.nan))),
    ("the same version again", "stale", changed(version=7)),
    ("an older version", "stale", changed(version=3)),
    (
        "a prior that the other source does not have",
        "merge",
        lambda w: head(prior_mean=[0.5] * P)(changed(source="w1")(w)),
    ),
    (
        "a precision that overflows in the sum",
        "merge",
        lambda w: head(precision=triangle(P, 1.7e308))(changed(source="w1")(w)),
    ),
]


@pytest.mark.parametrize(
    ("reason", "change"), [(reason, change) for _, reason, change in REFUSED], ids=[n for n, _, _ in REFUSED]
)
def test_refused_weights_leave_the_old_ones_serving(
    scorer: Scorer, make_weights: MakeWeights, reason: Reason, change: Change
) -> None:
    """The reason is counted; the snapshot, its stamp and its scores are the very same as before."""
    assert scorer.offer(make_weights(version=7)) == Accepted(7)
    before, scores = scorer.snapshot, scorer.score(REQUEST)
    result = scorer.offer(change(make_weights(version=8)))
    assert isinstance(result, Refused), result
    assert result.reason == reason
    assert result.detail
    assert scorer.refused == {reason: 1}
    assert scorer.snapshot is before
    assert scorer.score(REQUEST) == scores
    assert scorer.swaps == 1
    assert scorer.offer(make_weights(version=9)) == Accepted(9)


def test_every_reason_has_a_test() -> None:
    """A reason without a case above (or, for what is no message, below) is one that nobody tried."""
    assert {reason for _, reason, _ in REFUSED} | {"undecodable", "key"} == set(get_args(Reason))


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (b"ctr/w0", b"garbage", "undecodable"),
        (b"ctr/w0", b"\xff\xfe", "undecodable"),
        (b"ctr/w0", b"{}", "undecodable"),
        (b"ctr/w0", b"[" * 10_000, "undecodable"),
        (b"ctr/w0", b'{"schema_version": 1, "weights": "of the past"}', "schema"),
        (b"ctr/w0", b'{"schema_version": 3, "weights": "of the future"}', "schema"),
        (b"ctr/w1", None, "key"),
        (None, None, "key"),
    ],
)
def test_what_is_no_message_is_counted_and_changes_nothing(
    scorer: Scorer, make_weights: MakeWeights, key: bytes | None, value: bytes | None, reason: str
) -> None:
    """A record under another source's key would be compacted away with that source's weights."""
    scorer.offer(make_weights(version=7))
    before = scorer.snapshot
    message = value if value is not None else encode_weights(make_weights(version=8))
    take_weights(scorer, [(key, message), (b"ctr/w0", encode_weights(make_weights(version=6)))])
    assert scorer.refused == {reason: 1, "stale": 1}
    assert scorer.snapshot is before


def test_a_tombstone_lets_a_source_start_over(scorer: Scorer, make_weights: MakeWeights) -> None:
    """A worker that lost its state counts from 1 again: stale, until its key was deleted."""
    old, new = make_weights(version=7), make_weights(version=1)
    take_weights(scorer, [(old.key, encode_weights(old)), (new.key, encode_weights(new))])
    assert scorer.snapshot.version == 7
    take_weights(scorer, [(old.key, b""), (b"ctr/never-seen", None), (None, None)])
    assert scorer.snapshot.version == 0
    take_weights(scorer, [(new.key, encode_weights(new))])
    assert scorer.snapshot.versions == {"w0": 1}


def test_what_is_offered_may_have_other_heads(scorer: Scorer, make_weights: MakeWeights) -> None:
    """A head of a task that this build does not score must not keep the click head from serving."""
    heads = make_weights().heads
    other = Head(mean=[0.0], prior_mean=[0.0], prior_precision=triangle(1, 1.0), precision=triangle(1, 1.0))
    assert scorer.offer(make_weights(heads={**heads, "cart": other})) == Accepted(1)


@pytest.mark.parametrize(
    "data",
    [
        b"garbage",
        b'{"source":"\xff"}',
        b'{"schema_version":2,"x":' + b"[" * 100_000,
        b'{"heads":' + b'{"a":' * 100_000,
        b"null",
        b"\xff\xfe",
    ],
    ids=["garbage", "not UTF-8", "deep", "deep heads", "null", "no text"],
)
def test_whatever_stands_in_the_topic_what_comes_after_it_serves(
    scorer: Scorer, make_weights: MakeWeights, data: bytes
) -> None:
    """Failure: a record whose decoding raises something unexpected ends its feed, which reads it again and
    again: no newer weights reach serving for as long as it stands in the topic."""
    good = make_weights(version=2)
    take_weights(scorer, [(good.key, data), (b"\xff", data), (good.key, encode_weights(good))])
    assert scorer.snapshot.version == 2
    assert scorer.refused == {"undecodable": 2}


def test_a_worker_on_another_trunk_does_not_fill_the_log(
    scorer: Scorer, make_weights: MakeWeights, caplog: pytest.LogCaptureFixture
) -> None:
    """Failure: one line for each of the thousand versions in the topic, and one a second after that.

    Required: each reason is said once a minute with its count; all refusals are counted.
    """
    messages = [(w.key, encode_weights(changed(trunk_hash="other")(w))) for w in (make_weights(),) * 50]
    said: dict[str, float] = {}
    take_weights(scorer, messages, said)
    take_weights(scorer, messages, said)
    take_weights(scorer, [(b"ctr/w0", b"garbage")], said)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "trunk_hash, 1 so far" in lines[0] and "'other'" in lines[0]
    assert "undecodable" in lines[1]
    assert scorer.refused["trunk_hash"] == 100
