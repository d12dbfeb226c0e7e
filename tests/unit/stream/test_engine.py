"""Fails when an impression's features or a learner's figures hold anything from its own future, when an
event counts that should not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from contracts.events import ACTIONS
from contracts.weights import decode_weights, encode_weights
from features.declared import plan_from
from features.families.count_rows import CountRows
from features.families.counts import BASE_RATE, BASE_WEIGHT, Counts
from features.hashing import hash_texts
from features.row_bytes import unpack
from state.row_keys import parsed, table_prefix
from stream.decode import Record
from stream.timeline import Source

MakeRig = Callable[..., Any]
KINDS = ["impression", *ACTIONS]
HALF_LIVES = [60, 600, 3600]
FEATURES: dict[str, Any] = {
    "counts": [
        {
            "keys": [key],
            "half_lives_s": HALF_LIVES,
            "rates": ["click/impression", "cart/impression"],
            "volumes": KINDS,
        }
        for key in ("everything", "item_id", "user_id")
    ],
    "price": {},
}
ITEM_RATE, USER_RATE = "item_id.click/impression.60s", "user_id.click/impression.60s"


def counts_of(rig: Any, column: str, name: str) -> dict[str, float]:
    """Counts of a stored row at the longest half-life, rounded: how many events it holds."""
    rig.engine.checkpoint()
    plan = rig.engine.plan
    ((block, part),) = [(one, part) for one, part in plan.rows_of((column,)) if isinstance(one, CountRows)]
    rows = dict(rig.store.scan(table_prefix(list(plan.tables).index(column))))
    _, keys = parsed(list(rows))
    values, _ = unpack(keys, list(rows.values()), plan.tables[column].width)
    key = 1 if column == "everything" else int(hash_texts([name])[0])
    (row,) = values[keys == key, part]
    counts = row[len(row) - len(block.cells) :].tolist()
    return {
        plan.scope.kinds[quantity.kinds[0]]: round(count)
        for (quantity, half_life), count in zip(block.cells, counts, strict=True)
        if half_life == HALF_LIVES[-1] and count > 0.5
    }


# -- features as of the impression


def test_the_first_impression_of_everything_has_no_evidence(rig: MakeRig, shown: Any) -> None:
    """With the features that a scenario has without a word."""
    one = rig()
    one.feed(shown(1, 100, price=9.0), until=3000)
    (seen,) = one.inputs
    counted = {
        feature.name
        for family in one.engine.plan.families
        if isinstance(family, Counts)
        for feature in family.features(one.engine.plan.scope)
    }
    assert len(counted) > 30
    assert {seen[name] for name in counted} == {0.0}
    assert seen["bias"] == 1.0
    assert seen["price.log"] > 0.0


@pytest.mark.parametrize("clicked_at", [100, 101, 900, -5_000], ids=["at once", "after", "later", "skewed"])
def test_an_impressions_own_click_is_not_in_its_features(
    rig: MakeRig, shown: Any, done: Any, clicked_at: int
) -> None:
    """Also where the click came first, or by its clock before the impression."""
    one = rig(features=FEATURES)
    one.feed(done(1, clicked_at), shown(1, 100), until=3000)
    assert {value for name, value in one.inputs[0].items() if name.endswith("0s")} == {0.0}
    assert counts_of(one, "item_id", "x") == {"impression": 1, "click": 1}


@pytest.mark.parametrize("clicked_at", [100, 4_999, 5_001, 5_500])
def test_nor_is_the_click_of_a_later_impression_of_the_same_item(
    rig: MakeRig, shown: Any, done: Any, clicked_at: int
) -> None:
    one = rig(features=FEATURES)
    one.feed(done(2, clicked_at), shown(1, 5_000), shown(2, 5_001), shown(3, 5_002), until=9_000)
    first, second, third = one.inputs
    assert first[ITEM_RATE] == 0.0
    # One impression without a click: below average.
    assert second[ITEM_RATE] < 0.0
    assert (third[ITEM_RATE] > 0.0) == (clicked_at <= 5_002)


def test_a_click_counts_for_what_is_shown_after_it(rig: MakeRig, shown: Any, done: Any) -> None:
    one = rig(features=FEATURES)
    one.feed(
        shown(1, 0, user="u"),
        done(1, 500),
        shown(2, 499, user="v"),
        shown(3, 501, user="w"),
        shown(4, 1500, user="w", item="y"),
        until=9_000,
    )
    before, after, other = (one.inputs[i] for i in (1, 2, 3))
    assert before[ITEM_RATE] < 0.0 < after[ITEM_RATE]
    assert other[ITEM_RATE] == 0.0
    assert other["user_id.impression.60s"] > 0.0


def test_features_are_the_formulas_on_the_counts_that_were_there(rig: MakeRig, shown: Any, done: Any) -> None:
    """End to end on three events that can be decayed by hand."""
    counted = {"half_lives_s": [60], "rates": ["cart/impression"]}
    declared = {"counts": [{"keys": [key], **counted} for key in ("everything", "item_id", "user_id")]}
    one = rig(features={**declared, "smoothing": 7.0}, times={"join_limit_s": 100.0})
    one.feed(
        shown(1, 0), done(1, 30_000, "cart"), shown(2, 60_000, user="v", position=3, price=4.0), until=70_000
    )
    impressions, carts = 0.5, 2**-0.5
    overall = (carts + BASE_WEIGHT * BASE_RATE) / (impressions + BASE_WEIGHT)
    item = (carts + 7.0 * overall) / (impressions + 7.0)
    volume = math.log1p(impressions) / 5.0
    expected = [math.log(overall / BASE_RATE), volume, math.log(item / overall), volume, 0.0, 0.0]
    got = [one.inputs[1][name] for name in one.engine.plan.names]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


def test_features_logged_at_serving_time_win_and_unknown_names_pass(rig: MakeRig, shown: Any) -> None:
    one = rig(features=FEATURES)
    logged = {ITEM_RATE: 1.25, "price.log": 0.75, "of_tomorrow": 7.0, USER_RATE: 1e7}
    one.feed(shown(1, 0, features=logged), shown(2, 1), until=3000)
    first, second = one.inputs
    assert (first[ITEM_RATE], first["price.log"], first[USER_RATE]) == (1.25, 0.75, 0.0)
    assert (first["item_id.click/impression.600s"], second["price.log"]) == (0.0, 0.0)
    assert one.engine.totals.logged_refused == 1


def test_logged_features_that_are_not_finite_are_left_out(rig: MakeRig, shown: Any) -> None:
    """MessagePack can carry what JSON cannot."""
    one = rig(features=FEATURES)
    logged = {ITEM_RATE: float("nan"), USER_RATE: float("inf")}
    one.assign(Source(0, 0), Source(1, 0))
    record = Record(0, None, msgspec.msgpack.encode(shown(1, 0, features=logged)))
    one.engine.ingest(Source(0, 0), [record], one.T0)
    one.next[Source(0, 0)] = 1
    one.feed(until=20_000)
    assert (one.inputs[0][ITEM_RATE], one.inputs[0][USER_RATE]) == (0.0, 0.0)
    assert one.engine.panel.samples == 1


# -- predicted before learned


def test_labels_that_nothing_foretells_cannot_be_predicted(rig: MakeRig, shown: Any, done: Any) -> None:
    """Every impression is of its own user, item, category and position, and clicks are drawn by lot. Any
    way from a label into its own prediction, through counts or through weights, lifts the AUC.
    """
    one = rig(learners={"river": ["logistic"]})
    random = np.random.default_rng(1)
    events: list[Any] = []
    for number in range(1500):
        at = int(random.integers(0, 30_000))
        own = {"user": f"u{number}", "item": f"x{number}", "category_id": f"c{number}", "position": number}
        events.append(shown(number, at, **own))
        if random.random() < 0.5:
            events.append(done(number, max(at + int(random.integers(-3000, 2900)), 0), user=f"u{number}"))
    one.feed(*sorted(events, key=lambda event: event.event_time), until=60_000)
    metrics = one.engine.panel.metrics()
    assert set(metrics) == {"frozen", "last_layer", "ftrl", "river_logistic"}
    for name, figures in metrics.items():
        assert figures.samples == 1500
        assert 600 < figures.positives < 900
        assert abs((figures.auc or 0.5) - 0.5) < 0.06, name


def test_labels_that_the_item_foretells_are_learned(rig: MakeRig, shown: Any, done: Any) -> None:
    """The counterpart: the test above does not pass because nothing is learned at all."""
    one = rig()
    random = np.random.default_rng(1)
    events: list[Any] = []
    for number in range(1500):
        at, item = int(random.integers(0, 60_000)), int(random.integers(10))
        events.append(shown(number, at, user=f"u{number}", item=f"x{item}"))
        if random.random() < (0.8 if item < 5 else 0.1):
            events.append(done(number, at + 500, user=f"u{number}"))
    one.feed(*sorted(events, key=lambda event: event.event_time), until=90_000)
    metrics = one.engine.panel.metrics()
    assert metrics["last_layer"].auc > 0.7
    assert metrics["last_layer"].log_loss < metrics["frozen"].log_loss


def test_predictions_are_made_when_the_impression_is_seen(rig: MakeRig, shown: Any, done: Any) -> None:
    one = rig()
    one.feed(shown(1, 0), done(1, 1), until=2_000)
    assert len(one.inputs) == 1
    assert one.engine.panel.samples == 0
    one.feed(until=4_000)
    assert one.engine.panel.samples == 1
    assert one.engine.labels_until == one.T0 + 4_000 - 3_000


# -- events that do not count


def test_an_action_without_impression_changes_no_count(rig: MakeRig, shown: Any, done: Any) -> None:
    one = rig(features=FEATURES)
    one.feed(shown(1, 0), done(99, 10), until=2_000)
    assert counts_of(one, "everything", "") == {"impression": 1}
    assert one.engine.joins.counts.orphans_waiting == 1
    one.feed(until=20_000)
    assert (one.engine.joins.counts.orphans_expired, one.engine.joins.counts.orphans_waiting) == (1, 0)


def test_duplicates_count_once(rig: MakeRig, shown: Any, done: Any) -> None:
    one = rig(features=FEATURES)
    one.feed(shown(1, 0), shown(1, 0), shown(1, 700), done(1, 10), done(1, 20), until=2_000)
    one.feed(shown(1, 2_500), done(1, 2_600), until=4_000)
    assert counts_of(one, "item_id", "x") == {"impression": 1, "click": 1}
    join = one.engine.joins.counts
    assert (join.duplicate_impressions, join.duplicate_actions) == (3, 2)
    assert one.engine.totals.actions_by_kind["click"] == 1


def test_every_kind_of_action_has_its_count(rig: MakeRig, shown: Any, done: Any) -> None:
    one = rig(features=FEATURES)
    kinds = ACTIONS
    one.feed(
        *(shown(number, 0, user=f"u{number}") for number in range(5)),
        *(done(number, 10 + k, kind) for k, kind in enumerate(kinds) for number in range(k + 1)),
        until=2_000,
    )
    assert counts_of(one, "item_id", "x") == {"impression": 5} | {kind: k + 1 for k, kind in enumerate(kinds)}
    assert one.engine.totals.actions_by_kind == {kind: k + 1 for k, kind in enumerate(kinds)}
    assert counts_of(one, "user_id", "u4") == {"impression": 1, kinds[4]: 1}


def test_late_events_count_in_the_next_tick_and_are_counted_as_late(
    rig: MakeRig, shown: Any, done: Any
) -> None:
    one = rig(features=FEATURES)
    one.feed(shown(1, 9_000), until=10_000)
    one.feed(shown(2, 500, user="v"), done(1, 9_100), shown(3, 10_500, user="w"), until=12_000)
    assert one.engine.totals.late == 2
    assert counts_of(one, "item_id", "x") == {"impression": 3, "click": 1}
    # It sees what was counted by then, its own past included.
    late = one.inputs[1]
    assert late["item_id.impression.60s"] > 0.0
    one.feed(until=20_000)
    assert one.engine.panel.samples == 3


def test_refused_records_are_returned_counted_and_passed_by(rig: MakeRig, shown: Any) -> None:
    one = rig(features=FEATURES)
    one.assign(Source(0, 0), Source(1, 0))
    records = [Record(0, b"k", b"bad"), Record(1, b"k", msgspec.json.encode(shown(1, 0)))]
    (refused,) = one.engine.ingest(Source(0, 0), records, one.T0)
    assert refused.record == records[0]
    assert one.engine.totals.refused == 1
    assert one.engine.ingest(Source(0, 0), [], one.T0) == []
    assert one.engine.checkpoint()[Source(0, 0)] == 1


def test_statistics_of_ticks_add_up(rig: MakeRig, shown: Any, done: Any) -> None:
    one = rig()
    one.feed(*(shown(i, 400 * i, user=f"u{i}") for i in range(10)), done(3, 1_300), until=20_000)
    stats = one.engine.stats.take()
    assert one.engine.stats.take() == []
    assert [tick.tick_end for tick in stats] == sorted({tick.tick_end for tick in stats})
    totals = [
        sum(getattr(tick, name) for tick in stats)
        for name in ("impressions", "actions", "samples", "positives")
    ]
    assert totals == [10, 1, 10, 1]
    mean_loss = sum(tick.loss[0] for tick in stats) / 10
    assert mean_loss == pytest.approx(one.engine.panel.metrics()["frozen"].log_loss, rel=1e-4)


def test_behaviours_reach_the_tick_that_they_belong_to(
    rig: MakeRig, shown: Any, done: Any, behaved: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a tick that has nothing else; and what no feature asks for changes nothing of what is learned."""
    one, other = rig(features=FEATURES), rig(features=FEATURES)
    events = [shown(1, 100), shown(2, 2_500), done(1, 900)]
    looks = [behaved(1_999, "search", query="tent"), behaved(50, item_id="x"), behaved(950)]
    ticks: list[tuple[int, int, int]] = []
    joined = one.engine._joined

    def watch(number: int, impressions: Any, actions: Any, behaviours: Any) -> Any:
        ticks.append((number - one.T0 // 1000, len(impressions.events), len(behaviours.events)))
        return joined(number, impressions, actions, behaviours)

    monkeypatch.setattr(one.engine, "_joined", watch)
    one.feed(*events, *looks, until=20_000)
    other.feed(*events, until=20_000)
    assert ticks == [(0, 1, 2), (1, 0, 1), (2, 1, 0)]
    assert one.engine.totals.behaviours_read == 3
    assert [stats.behaviours for stats in one.engine.stats.take() if stats.behaviours] == [2, 1]
    assert one.engine.weights_digest() == other.engine.weights_digest()


def test_a_feature_of_behaviours_sees_those_before_the_impression(
    rig: MakeRig, shown: Any, behaved: Any
) -> None:
    one = rig(features={"counts": {"keys": ["user_id"], "rates": [], "volumes": ["look", "search"]}})
    looks = [behaved(50), behaved(99), behaved(101), behaved(60, "search", user="v"), behaved(70, "page")]
    one.feed(shown(1, 100), *looks, until=20_000)
    (seen,) = one.inputs
    assert seen["user_id.look.600s"] == pytest.approx(math.log1p(2) / 5, rel=1e-3)
    assert seen["user_id.search.600s"] == 0.0


# -- weights


def test_the_weights_message_is_valid_and_says_what_it_was_made_from(
    rig: MakeRig, shown: Any, done: Any
) -> None:
    one = rig()
    one.feed(shown(1, 0), done(1, 10), shown(2, 20, user="v"), until=10_000)
    weights = one.engine.weights(one.T0)
    assert decode_weights(encode_weights(weights)) == weights
    assert weights.feature_names == one.engine.panel.feature_names
    assert weights.feature_names[0] == "bias"
    assert weights.feature_names[1:] == one.engine.plan.names
    assert weights.features_hash == plan_from({}, ACTIONS).hash
    assert (weights.source, weights.key, weights.trunk_hash) == ("0", b"ctr/0", "none")
    assert (weights.samples, weights.created_at) == (2, one.T0)
    assert weights.watermarks.features == one.T0 + 10_000
    assert weights.watermarks.labels == one.T0 + 7_000


def test_weights_before_any_event_are_the_frozen_head(rig: MakeRig) -> None:
    weights = rig().engine.weights(1)
    head = weights.heads["ctr"]
    assert head.mean == head.prior_mean
    assert (weights.watermarks.features, weights.watermarks.labels, weights.samples) == (0, 0, 0)
    assert decode_weights(encode_weights(weights)) == weights


def test_versions_increase_by_one_and_go_on_after_a_kill(rig: MakeRig, shown: Any) -> None:
    one = rig()
    assert [one.engine.weights(1).version for _ in range(2)] == [1, 2]
    one.engine.checkpoint()
    one.kill()
    third = one.engine.weights(1)
    assert (third.version, third.parent) == (3, 2)
    # Not durable, so it was not published: the number is free.
    one.kill()
    assert one.engine.weights(1).version == 3


def test_learners_begin_where_they_are_told_to(rig: MakeRig, shown: Any, done: Any) -> None:
    """Features and joins know all; learners begin as if nothing had been."""
    events = [shown(n, n * 700, f"u{n % 3}") for n in range(20)]
    clicks = [done(n, n * 700 + 300, user=f"u{n % 3}") for n in range(0, 20, 2)]
    observed: list[int] = []
    one, other = rig(), rig()
    one.engine.learn_from = one.T0 + 7_000
    one.engine.observer = lambda _, closed: observed.append(len(closed))
    learn, elapsed = one.engine.panel.learn, []

    def learned(*samples: Any) -> None:
        elapsed.append(samples[-1])
        learn(*samples)

    one.engine.panel.learn = learned
    for each in (one, other):
        each.feed(*events, *clicks, until=30_000)
    # Seven seconds are ten impressions, and one tick has some of both sides.
    assert sum(observed) == 20 and one.engine.panel.samples == 10
    assert elapsed[0] == 1
    assert one.engine.joins.counts == other.engine.joins.counts
    assert list(one.engine.features.state(0)) == list(other.engine.features.state(0))
    assert one.inputs == other.inputs
    assert one.engine.weights_digest() != other.engine.weights_digest()
