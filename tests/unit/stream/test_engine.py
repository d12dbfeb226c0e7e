"""Fails when an impression's features or a learner's figures hold anything from its own future, when an
event counts that should not, or when state is taken up that does not fit the scenario.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from state.formulas import COUNTS, TABLES, features

from contracts.scenario import Scenario
from contracts.weights import decode_weights, encode_weights
from models.deep.trunk import Trunk
from state.errors import StateFormatError
from state.store import Batch, Store
from stream.decode import Record
from stream.engine import Engine
from stream.timeline import Source

MakeRig = Callable[..., Any]
RATIOS = [f"{table}_ctr_{h}s" for table in TABLES for h in (60, 600, 3600)]
RATIOS += ["item_cart_rate_3600s", "item_purchase_rate_3600s"]


def counts_of(rig: Any, table: str, entity: str) -> dict[str, float]:
    """Counts of a stored row at the longest half-life, rounded: how many events it holds."""
    rig.engine.checkpoint()
    for name, _, counts in rig.engine.features.tables[table].rows():
        if name == entity:
            return {
                kind: round(value) for kind, value in zip(COUNTS, counts[:, -1], strict=True) if value > 0.5
            }
    return {}


# -- features as of the impression


def test_the_first_impression_of_everything_has_no_evidence(rig: MakeRig, shown: Any) -> None:
    one = rig()
    one.feed(shown(1, 100, price=9.0), until=3000)
    (seen,) = one.inputs
    assert seen.pop("bias") == 1.0
    assert seen.pop("log_price") == pytest.approx(np.log(10.0) / 10.0)
    assert set(seen.values()) == {0.0}


@pytest.mark.parametrize("clicked_at", [100, 101, 900, -5_000], ids=["at once", "after", "later", "skewed"])
def test_an_impressions_own_click_is_not_in_its_features(
    rig: MakeRig, shown: Any, done: Any, clicked_at: int
) -> None:
    """Also where the click came first, or by its clock before the impression."""
    one = rig()
    one.feed(done(1, clicked_at), shown(1, 100), until=3000)
    assert [one.inputs[0][name] for name in RATIOS] == [0.0] * len(RATIOS)
    assert counts_of(one, "item", "x") == {"impression": 1, "click": 1}


@pytest.mark.parametrize("clicked_at", [100, 4_999, 5_001, 5_500])
def test_nor_is_the_click_of_a_later_impression_of_the_same_item(
    rig: MakeRig, shown: Any, done: Any, clicked_at: int
) -> None:
    one = rig()
    one.feed(done(2, clicked_at), shown(1, 5_000), shown(2, 5_001), shown(3, 5_002), until=9_000)
    first, second, third = one.inputs
    assert first["item_ctr_60s"] == 0.0
    # One impression without a click: below average.
    assert second["item_ctr_60s"] < 0.0
    assert (third["item_ctr_60s"] > 0.0) == (clicked_at <= 5_002)


def test_a_click_counts_for_what_is_shown_after_it(rig: MakeRig, shown: Any, done: Any) -> None:
    one = rig()
    one.feed(
        shown(1, 0, user="u"),
        done(1, 500),
        shown(2, 499, user="v"),
        shown(3, 501, user="w"),
        shown(4, 1500, user="w", item="y"),
        until=9_000,
    )
    before, after, other = (one.inputs[i] for i in (1, 2, 3))
    assert before["item_ctr_60s"] < 0.0 < after["item_ctr_60s"]
    assert other["item_ctr_60s"] == 0.0
    assert other["user_volume_60s"] > 0.0


def test_features_are_the_formulas_on_the_counts_that_were_there(rig: MakeRig, shown: Any, done: Any) -> None:
    """End to end on three events that can be decayed by hand."""
    one = rig(features={"half_lives_s": [60.0]}, times={"join_limit_s": 100.0})
    one.feed(
        shown(1, 0), done(1, 30_000, "cart"), shown(2, 60_000, user="v", position=3, price=4.0), until=70_000
    )
    row = np.zeros((1, len(COUNTS), 1))
    row[0, COUNTS.index("impression")], row[0, COUNTS.index("cart")] = 0.5, 2**-0.5
    counts = dict.fromkeys(TABLES, np.zeros_like(row)) | {"item": row, "category": row}
    expected = features(counts, row, np.array([4.0]), one.scenario.features.smoothing)[0]
    got = [one.inputs[1][name] for name in one.engine.features.names]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


def test_features_logged_at_serving_time_win_and_unknown_names_pass(rig: MakeRig, shown: Any) -> None:
    one = rig()
    logged = {"item_ctr_60s": 1.25, "log_price": -0.5, "of_tomorrow": 7.0, "user_ctr_60s": 1e7}
    one.feed(shown(1, 0, features=logged), shown(2, 1), until=3000)
    first, second = one.inputs
    assert (first["item_ctr_60s"], first["log_price"], first["user_ctr_60s"]) == (1.25, -0.5, 0.0)
    assert (first["item_ctr_600s"], second["log_price"]) == (0.0, 0.0)


def test_logged_features_that_are_not_finite_are_left_out(rig: MakeRig, shown: Any) -> None:
    """MessagePack can carry what JSON cannot."""
    one = rig()
    logged = {"item_ctr_60s": float("nan"), "user_ctr_60s": float("inf")}
    one.assign(Source(0, 0), Source(1, 0))
    record = Record(0, None, msgspec.msgpack.encode(shown(1, 0, features=logged)))
    one.engine.ingest(Source(0, 0), [record], one.T0)
    one.next[Source(0, 0)] = 1
    one.feed(until=20_000)
    assert (one.inputs[0]["item_ctr_60s"], one.inputs[0]["user_ctr_60s"]) == (0.0, 0.0)
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
    one = rig()
    one.feed(shown(1, 0), done(99, 10), until=2_000)
    assert counts_of(one, "global", "*") == {"impression": 1}
    assert one.engine.join.counts.orphans_waiting == 1
    one.feed(until=20_000)
    assert (one.engine.join.counts.orphans_expired, one.engine.join.counts.orphans_waiting) == (1, 0)


def test_duplicates_count_once(rig: MakeRig, shown: Any, done: Any) -> None:
    one = rig()
    one.feed(shown(1, 0), shown(1, 0), shown(1, 700), done(1, 10), done(1, 20), until=2_000)
    one.feed(shown(1, 2_500), done(1, 2_600), until=4_000)
    assert counts_of(one, "item", "x") == {"impression": 1, "click": 1}
    join = one.engine.join.counts
    assert (join.duplicate_impressions, join.duplicate_actions) == (3, 2)
    assert one.engine.totals.actions_by_kind["click"] == 1


def test_every_kind_of_action_has_its_count(rig: MakeRig, shown: Any, done: Any) -> None:
    one = rig()
    kinds = COUNTS[1:]
    one.feed(
        *(shown(number, 0, user=f"u{number}") for number in range(5)),
        *(done(number, 10 + k, kind) for k, kind in enumerate(kinds) for number in range(k + 1)),
        until=2_000,
    )
    assert counts_of(one, "item", "x") == {"impression": 5} | {kind: k + 1 for k, kind in enumerate(kinds)}
    assert one.engine.totals.actions_by_kind == {kind: k + 1 for k, kind in enumerate(kinds)}
    assert counts_of(one, "user", "u4") == {"impression": 1, kinds[4]: 1}


def test_late_events_count_in_the_next_tick_and_are_counted_as_late(
    rig: MakeRig, shown: Any, done: Any
) -> None:
    one = rig()
    one.feed(shown(1, 9_000), until=10_000)
    one.feed(shown(2, 500, user="v"), done(1, 9_100), shown(3, 10_500, user="w"), until=12_000)
    assert one.engine.totals.late == 2
    assert counts_of(one, "item", "x") == {"impression": 3, "click": 1}
    # It sees what was counted by then, its own past included.
    late = one.inputs[1]
    assert late["item_volume_60s"] > 0.0
    one.feed(until=20_000)
    assert one.engine.panel.samples == 3


def test_refused_records_are_returned_counted_and_passed_by(rig: MakeRig, shown: Any) -> None:
    one = rig()
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
    """Also a tick that has nothing else; and they change nothing of what is learned."""
    one, other = rig(), rig()
    events = [shown(1, 100), shown(2, 2_500), done(1, 900)]
    looks = [behaved(1_999, "search", query="tent"), behaved(50, item_id="x"), behaved(950)]
    ticks: list[tuple[int, int, list[str]]] = []
    tick = one.engine._tick

    def watch(number: int, impressions: Any, actions: Any, behaviours: Any) -> None:
        types = [event.type for event in behaviours.events]
        ticks.append((number - one.T0 // 1000, len(impressions.events), types))
        tick(number, impressions, actions, behaviours)

    monkeypatch.setattr(one.engine, "_tick", watch)
    one.feed(*events, *looks, until=20_000)
    other.feed(*events, until=20_000)
    assert ticks == [(0, 1, ["look", "look"]), (1, 0, ["search"]), (2, 1, [])]
    assert one.engine.totals.behaviours_read == 3
    assert [stats.behaviours for stats in one.engine.stats.take() if stats.behaviours] == [2, 1]
    assert one.engine.weights_digest() == other.engine.weights_digest()


def test_a_state_of_before_behaviours_goes_on(
    rig: MakeRig, shown: Any, behaved: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failure: an upgrade loses the state. Mechanism: progress without the count and without positions."""
    one = rig()
    one.feed(shown(1, 100), until=20_000)
    for source in [source for source in one.engine.intake.known if source.kind == 2]:
        one.engine.revoke(source)
        del one.engine.intake.known[source]
    encode = msgspec.msgpack.encode

    def older(progress: Any) -> bytes:
        fields = msgspec.to_builtins(progress)
        del fields["totals"]["behaviours_read"]
        return encode(fields)

    monkeypatch.setattr("stream.checkpoint.msgspec.msgpack.encode", older)
    one.engine.checkpoint()
    monkeypatch.undo()
    one.store.close()
    one.start()
    del one.next[Source(2, 0)]
    one.assign(*one.next)
    assert one.engine.join.counts.impressions == 1
    one.feed(shown(2, 30_000), behaved(30_500), until=60_000)
    totals = one.engine.totals
    assert (totals.impressions_read, totals.behaviours_read, totals.late) == (2, 1, 0)


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
    assert weights.feature_names[1:] == one.engine.features.names
    assert weights.feature_scheme.half_lives_s == one.scenario.features.half_lives_s
    assert (weights.feature_scheme.tables, weights.feature_scheme.counts) == (list(TABLES), list(COUNTS))
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


# -- state that does not fit


def reopen(folder: Path, **sections: Any) -> None:
    with Store(folder) as store:
        Engine(msgspec.convert(sections, Scenario), store, Trunk.empty())


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """State of the default scenario without River learners."""
    folder = tmp_path / "written"
    with Store(folder) as store:
        scenario = msgspec.convert({"learners": {"river": []}}, Scenario)
        Engine(scenario, store, Trunk.empty()).checkpoint()
    return folder


def test_state_with_the_same_settings_is_taken_up(written: Path) -> None:
    reopen(written, learners={"river": []})


def test_state_of_another_tick_is_refused_with_both(written: Path) -> None:
    with pytest.raises(StateFormatError, match=r"times\.tick_s = 1, the scenario has 2; .*new state folder"):
        reopen(written, learners={"river": []}, times={"tick_s": 2.0})


def test_state_of_other_half_lives_is_refused_with_both(written: Path) -> None:
    with pytest.raises(
        StateFormatError, match=r"half_lives_s = \[60,600,3600\].*has \[60\]; .*new state folder"
    ):
        reopen(written, learners={"river": []}, features={"half_lives_s": [60.0]})


def test_state_of_other_learners_is_refused_with_their_names(written: Path) -> None:
    with pytest.raises(StateFormatError, match=r"river_logistic.*set it aside"):
        reopen(written, learners={"river": ["logistic"]})


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        (b"meta/engine", b"\xc1 not MessagePack", "damaged: .*unless another version"),
        (b"meta/engine", msgspec.msgpack.encode({"tick_ms": 1000}), "damaged: .*unless another version"),
        (b"meta/learners", None, "has no learners"),
    ],
)
def test_damaged_state_is_refused_instead_of_begun_anew(
    written: Path, key: bytes, value: bytes | None, named: str
) -> None:
    with Store(written) as store:
        batch = Batch()
        if value is None:
            batch.delete(key)
        else:
            batch.put(key, value)
        store.commit(batch)
    with pytest.raises(StateFormatError, match=rf"{named}.*set it aside"):
        reopen(written, learners={"river": []})
