"""Fails when two runs differ by a byte, an action precedes its impression, or what happens is not what
the truth file says was likely."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.events import ACTIONS
from replay.columns import conform, kinds_of, refusals
from replay.simulate import Double11, Double11Config, Night
from replay.simulate.frames import TRUTH_SCHEMA
from replay.simulate.pending import BEHAVIOURS, ORDER
from replay.simulate.sessions import LEAD_MS


def test_equal_settings_give_equal_rows_and_other_seeds_others() -> None:
    def night_of(seed: int) -> Night:
        config = Double11Config(minutes=0.1, rate=2_000.0, seed=seed, users=300, items=100, cell_s=0.5)
        return Double11(config).night()

    first, again, other = night_of(12), night_of(12), night_of(13)
    assert again.log.equals(first.log, null_equal=True)
    assert again.truth.equals(first.truth)
    assert not other.log.equals(first.log)


def test_a_stream_can_be_read_again_from_its_start() -> None:
    sim = Double11(Double11Config(minutes=0.1, rate=500.0, users=300, items=100, cell_s=0.5))
    whole = sim.night()
    first = next(sim.frames())[0]
    assert first.equals(whole.log.head(first.height), null_equal=True)


def test_the_log_is_canonical_and_hides_the_truth(night: Night) -> None:
    assert conform(night.log).equals(night.log, null_equal=True)
    assert night.log.filter(refusals().is_not_null()).is_empty()
    assert not set(TRUTH_SCHEMA) - {"impression_id"} & set(night.log.columns)
    assert set(night.log["action"].drop_nulls().unique()) == set(ACTIONS)
    actions = night.log.filter(pl.col("event") == "action")
    for column in ("category_id", "shop_id", "position", "price", "request_id", "context"):
        assert actions[column].null_count() == actions.height
    assert (
        night.log.filter(pl.col("event") == "impression")
        .drop("action", "value", "stock", "type", "query")
        .null_count()
        .sum_horizontal()[0]
        == 0
    )


def test_events_are_in_order_with_impressions_first_on_ties(night: Night) -> None:
    key = night.log["event_time"] * 3 + kinds_of(night.log)
    assert key.is_sorted()


def test_behaviours_come_shortly_before_a_list_of_their_user(night: Night) -> None:
    told = night.log.filter(pl.col("event") == "behaviour")
    assert set(told["type"]) == set(BEHAVIOURS)
    for column in ("impression_id", "request_id", "position", "price", "value", "stock", "context"):
        assert told[column].null_count() == told.height
    assert told.filter((pl.col("type") == "search") != pl.col("query").is_not_null()).is_empty()
    lists = night.log.filter(pl.col("event") == "impression").select("user_id", shown="event_time")
    lists = lists.unique().sort("shown").with_columns(event_time="shown")
    end = night.log["event_time"].max() - LEAD_MS  # type: ignore[operator]
    joined = told.filter(pl.col("event_time") < end).join_asof(
        lists, on="event_time", by="user_id", strategy="forward", check_sortedness=False
    )
    wait = joined["shown"] - joined["event_time"]
    assert joined.height > 5_000 and wait.null_count() == 0
    assert wait.min() >= 0 and wait.max() <= LEAD_MS  # type: ignore[operator]


def test_what_was_searched_and_looked_at_is_clicked_more(night: Night, shown: pl.DataFrame) -> None:
    """Else behaviours would tell nothing; both are shares of the same lists."""
    told = night.log.filter(pl.col("event") == "behaviour").sort("event_time")
    people = shown.filter(~pl.col("bot")).sort("event_time")
    searched = told.filter(pl.col("type") == "search").select("user_id", "event_time", found="category_id")
    rows = people.join_asof(
        searched, on="event_time", by="user_id", tolerance=LEAD_MS, check_sortedness=False
    )
    rows = rows.filter(pl.col("found").is_not_null())
    same = rows["category_id"] == rows["found"]
    assert min(same.sum(), (~same).sum()) > 3_000
    assert rows.filter(same)["click"].mean() > 1.4 * rows.filter(~same)["click"].mean()  # type: ignore[operator]
    looks = told.filter(pl.col("type") == "look").select("user_id", "item_id", "event_time", look="type")
    rows = people.join_asof(
        looks, on="event_time", by=["user_id", "item_id"], tolerance=LEAD_MS, check_sortedness=False
    )
    again = rows["look"].is_not_null()
    assert again.sum() > 1_000
    assert rows.filter(again)["click"].mean() > 1.7 * rows.filter(~again)["click"].mean()  # type: ignore[operator]


def test_a_night_that_begins_later_has_the_behaviours_of_its_lists(night: Night) -> None:
    later = pl.concat([log for log, _ in Double11(night.sim.config).frames(from_s=20.0)])
    since = night.log.filter(pl.col("event_time") >= later["event_time"].min())
    columns = ["event_time", "user_id", "item_id", "type"]
    both = [log.filter(pl.col("event") == "behaviour").select(columns) for log in (later, since)]
    assert both[0].height > 1_000 and both[0].equals(both[1], null_equal=True)


def test_stock_is_what_was_left_when_the_cell_began(night: Night, shown: pl.DataFrame) -> None:
    scarce = shown.filter(pl.col("stock").is_not_null())
    assert 0.02 < scarce.height / shown.height < 0.3
    falls = scarce.sort("event_time").select((pl.col("stock").diff() <= 0).over("item_id"))["stock"]
    assert falls.drop_nulls().all()
    index = scarce["item_id"].str.slice(1).cast(pl.Int64).to_numpy()
    assert (scarce["stock"].to_numpy() <= night.sim.world.stock0[index]).all()


def test_truth_has_a_row_for_each_impression_in_the_same_order(night: Night) -> None:
    ids = night.log.filter(pl.col("event") == "impression")["impression_id"]
    assert ids.to_list() == night.truth["impression_id"].to_list()
    assert ids.is_unique().all()


def test_each_action_follows_its_cause(night: Night) -> None:
    actions = night.log.filter(pl.col("event") == "action")
    assert not actions.select("impression_id", "action").is_duplicated().any()
    wide = actions.pivot(on="action", index=["impression_id", "user_id", "item_id"], values="event_time")
    made = night.log.filter(pl.col("event") == "impression")
    wide = wide.join(
        made.select("impression_id", "user_id", "item_id", shown="event_time"), on="impression_id"
    )
    assert (wide["shown"] < wide["click"]).all()
    assert (wide["user_id"] == wide["user_id_right"]).all()
    assert (wide["item_id"] == wide["item_id_right"]).all()
    for cause, effect in (
        ("click", "cart"),
        ("click", "favourite"),
        ("click", "purchase"),
        ("purchase", "refund"),
    ):
        both = wide.filter(pl.col(effect).is_not_null())
        assert both.height > 5
        assert (both[cause] < both[effect]).all()


def test_slates_are_requests_of_one_user_at_one_time_without_repeats(shown: pl.DataFrame) -> None:
    slates = shown.group_by("request_id").agg(
        pl.col("user_id").n_unique(),
        pl.col("event_time").n_unique(),
        pl.col("item_id").n_unique().alias("items"),
        pl.len().alias("n"),
        (pl.col("position").max() + 1).alias("length"),
    )
    assert (slates["user_id"] == 1).all() and (slates["event_time"] == 1).all()
    assert (slates["items"] == slates["n"]).all() and (slates["length"] == slates["n"]).all()
    assert slates["n"].max() <= Double11Config().slate_max


@pytest.mark.parametrize("segment", ["all", "hot", "bot", "new_item", "shifted", "intent", "top", "bottom"])
def test_clicks_are_calibrated_to_the_truth(shown: pl.DataFrame, segment: str) -> None:
    """Observed clicks lie within four standard deviations of the sum of true probabilities."""
    part = {
        "all": pl.lit(True),
        "top": pl.col("position") == 0,
        "bottom": pl.col("position") >= 6,
    }.get(segment, pl.col(segment) if segment in TRUTH_SCHEMA else pl.lit(True))
    # The last clicks of the night come after its end.
    rows = shown.filter(part, pl.col("event_time") < shown["event_time"].max() - 8_000)
    p = rows["p_click"].to_numpy().astype(np.float64)
    assert p.size > 300
    assert abs(rows["click"].sum() - p.sum()) < 4.0 * np.sqrt((p * (1 - p)).sum()) + 0.01 * p.sum()


@pytest.mark.parametrize("action", ["cart", "favourite", "purchase"])
def test_later_actions_are_calibrated_given_the_click(shown: pl.DataFrame, action: str) -> None:
    """Of clicks early enough for the longest delay, and of items whose stock never ran low."""
    gone = shown.filter("sold_out")["item_id"].unique()
    end = shown["event_time"].max() - 20_000
    rows = shown.filter("click", pl.col("event_time") < end, ~pl.col("item_id").is_in(gone.implode()))
    p = rows[f"p_{action}"].to_numpy().astype(np.float64)
    assert abs(rows[action].sum() - p.sum()) < 4.0 * np.sqrt((p * (1 - p)).sum()) + 0.03 * p.sum()


def test_midnight_lifts_clicks_and_purchases_and_cuts_prices(night: Night, shown: pl.DataFrame) -> None:
    figures = night.sim.summary()
    assert 0.05 < figures["ctr_before"] < 0.08
    assert 0.14 < figures["ctr_after"] < 0.24
    assert figures["cvr_after"] > 1.5 * figures["cvr_before"]
    midnight = night.sim.config.start_ms + round(night.sim.config.midnight_s * 1000)
    half = shown.with_columns(after=pl.col("event_time") >= midnight)
    prices = half.group_by("item_id", "after").agg(pl.col("price").n_unique())
    assert (prices["price"] == 1).all()
    drop = half.group_by("item_id").agg(
        before=pl.col("price").filter(~pl.col("after")).first(), then=pl.col("price").filter("after").first()
    )
    change = drop.drop_nulls().select(pl.col("then") / pl.col("before"))["then"]
    assert change.max() <= 1.0 and 0.6 < (change < 0.99).mean() < 0.8
    assert not half.filter(~pl.col("after"))["shifted"].any()


def test_sold_out_items_are_clicked_but_never_bought(shown: pl.DataFrame) -> None:
    gone = shown.filter("sold_out", ~pl.col("bot"))
    assert gone.height > 100 and gone["click"].sum() > 10
    assert (gone["p_purchase"] == 0).all() and not gone["purchase"].any()


def test_stock_is_never_negative_and_all_sold_units_are_accounted_for(night: Night) -> None:
    world = night.sim.world
    assert world.stock.min() >= 0
    midnight = night.sim.config.start_ms + round(night.sim.config.midnight_s * 1000)
    bought = night.log.filter(pl.col("action") == "purchase", pl.col("event_time") >= midnight)
    assert int((world.stock0 - world.stock).sum()) == bought.height
    assert (np.isfinite(world.sold_out_s) == (world.stock == 0)).all()


def test_bots_click_much_and_buy_nothing(shown: pl.DataFrame) -> None:
    bots = shown.filter("bot")
    assert 0.01 < bots.height / shown.height < 0.06
    assert bots["click"].mean() > 0.3
    assert not bots.select(pl.any_horizontal("cart", "favourite", "purchase").any()).item()


def test_new_items_are_not_shown_before_they_exist(night: Night, shown: pl.DataFrame) -> None:
    born = night.sim.world.catalog.born_s
    first = shown.filter("new_item").group_by("item_id").agg(pl.col("event_time").min())
    assert first.height > 5
    index = first["item_id"].str.slice(1).cast(pl.Int64).to_numpy()
    assert (first["event_time"].to_numpy() >= night.sim.config.start_ms + born[index] * 1000 - 1).all()


def test_positions_are_biased(shown: pl.DataFrame) -> None:
    """Popularity ranks, so the top is better too; the truth alone shows what position does."""
    rates = shown.filter(~pl.col("bot")).group_by("position").agg(pl.col("click").mean()).sort("position")
    assert rates["click"][0] > 1.5 * rates["click"][6]


def test_refunds_give_back_what_was_paid(night: Night) -> None:
    paid = night.log.filter(pl.col("action") == "purchase").select("impression_id", paid="value")
    back = night.log.filter(pl.col("action") == "refund").join(paid, on="impression_id")
    assert back.height == night.log.filter(pl.col("action") == "refund").height > 5
    assert (back["value"] == back["paid"]).all() and back["value"].min() > 0


def test_what_waits_is_bounded_by_rate_and_longest_delay(night: Night) -> None:
    """A stream four times as long holds about as much: what one peak brings in one longest delay."""
    held, made = [], []
    for minutes, hours in ((0.5, 24.0), (2.0, 96.0)):
        config = Double11Config(
            minutes=minutes, rate=300.0, hours=hours, max_delay_h=1.0, jump_ratio=4.0, cell_s=2.0, users=500
        )
        sim = Double11(config)
        sim.night()
        figures = sim.summary()
        held.append(figures["largest_pending"])
        made.append(figures["clicks"])
        # A quarter acts at most; clicks wait 2.1 s on average, the rest at most the longest delay.
        assert held[-1] < 0.25 * figures["peak_impressions_per_s"] * (2.1 + config.max_delay_s)
    assert made[1] > 3 * made[0] and held[1] < 2 * held[0]
    assert len(night.sim.pending) == night.sim.tally.unseen


def test_summary_counts_what_is_in_the_log(night: Night) -> None:
    figures = night.sim.summary()
    assert figures["events"] == night.log.height
    counts = dict(
        night.log.with_columns(pl.col("action").fill_null(pl.col("event")))["action"]
        .value_counts()
        .iter_rows()
    )
    assert figures["behaviours"] == counts.pop("behaviour")
    assert {name: figures[f"{name}s"] for name in ORDER if name not in BEHAVIOURS} == counts
    assert figures["conversions_within_15_min"] == pytest.approx(0.55, abs=0.06)
    assert figures["peak_over_median_minute"] == pytest.approx(59.0, rel=0.35)  # 24 arrivals a minute: noisy
    assert figures["impressions_per_s"] == pytest.approx(1_500.0, rel=0.03)


@settings(max_examples=10, deadline=None)
@given(
    minutes=st.floats(0.05, 0.3),
    rate=st.floats(1.0, 400.0),
    seed=st.integers(0, 2**63 - 1),
    policy=st.sampled_from(["logged", "random", "oracle"]),
    bots=st.sampled_from([0.0, 0.2]),
    cell=st.sampled_from([0.7, 2.0, 60.0]),
)
def test_any_night_is_canonical_ordered_and_within_its_span(
    minutes: float, rate: float, seed: int, policy: str, bots: float, cell: float
) -> None:
    config = Double11Config(
        minutes=minutes, rate=rate, seed=seed, policy=policy, bot_share=bots, cell_s=cell, users=50, items=60
    )
    sim = Double11(config)
    blocks = list(sim.blocks())
    assert blocks[0].from_ms == 0 and blocks[-1].until_ms == round(config.span_s * 1000)
    assert all(a.until_ms == b.from_ms for a, b in pairwise(blocks))
    assert sum(block.expected for block in blocks) == pytest.approx(sim.expected_impressions, rel=1e-3)
    last = 0
    for log, truth in sim.frames():
        assert log.filter(refusals().is_not_null()).is_empty()
        assert truth.height == (log["event"] == "impression").sum()
        assert log["event_time"].is_sorted() and log["event_time"][0] >= last
        last = log["event_time"][-1]
        p = truth.select(pl.selectors.starts_with("p_"))
        assert (
            p.min().min_horizontal()[0] is None
            or 0 <= p.min().min_horizontal()[0] <= p.max().max_horizontal()[0] <= 1
        )
    assert last < config.start_ms + config.span_s * 1000
    assert sim.world.stock.min() >= 0
