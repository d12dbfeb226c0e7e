"""Fails when the closed loop's building blocks disagree with the stream, or a ranking's cost is wrong."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from replay.simulate import Double11, Double11Config, RankError, Requests, World
from replay.simulate.frames import TRUTH_SCHEMA
from replay.simulate.policy import candidate_logits, slates
from replay.simulate.world import sigmoid

CONFIG = Double11Config(minutes=0.4, rate=400.0, seed=3, users=500, items=300, cell_s=1.0, regret=True)


@pytest.fixture(scope="module")
def world() -> World:
    return World(CONFIG, expected_after=8_000.0)


def test_the_same_seed_makes_the_same_world(world: World) -> None:
    again = World(CONFIG, expected_after=8_000.0)
    user, item = np.arange(200) % 500, np.arange(200)
    at = np.full(200, 20.0)
    np.testing.assert_array_equal(
        world.true_click_probability(user, item, np.zeros(200), at),
        again.true_click_probability(user, item, np.zeros(200), at),
    )


def test_people_click_less_further_down_and_more_after_midnight(world: World) -> None:
    user = np.flatnonzero(~world.catalog.bot)[:300]
    item = np.arange(300)
    early, late = np.full(300, 1.0), np.full(300, CONFIG.midnight_s)
    top = world.true_click_probability(user, item, np.zeros(300), early)
    assert (world.true_click_probability(user, item, np.full(300, 5), early) < top).all()
    sale = world.true_click_probability(user, item, np.zeros(300), late)
    lift = np.log(sale / (1 - sale)) - np.log(top / (1 - top))
    assert lift.mean() == pytest.approx(1.2, abs=0.3)
    assert lift.std() == pytest.approx(0.9, abs=0.35)


def test_only_shifted_categories_change_taste(world: World) -> None:
    moved = (world.catalog.taste != world.catalog.taste_sale).any(axis=1)
    assert 0 < moved.mean() < 1
    np.testing.assert_array_equal(moved, world.catalog.shifted)


def test_responses_follow_the_probabilities(world: World) -> None:
    rng = np.random.default_rng(1)
    n = 40_000
    user, item = rng.integers(0, 500, n), rng.integers(0, 300, n)
    position, t = rng.integers(0, 10, n), np.full(n, 20.0)
    channel = np.zeros(n, dtype=np.int8)
    response = world.respond(rng, user, item, position, t, channel)
    p = world.true_click_probability(user, item, position, t)
    np.testing.assert_allclose(response.p_click, p)
    assert response.clicked.sum() == pytest.approx(p.sum(), abs=4 * np.sqrt((p * (1 - p)).sum()))
    assert all(response.clicked[rows].all() for rows, _ in response.later.values())


def test_selling_takes_units_in_order_of_time_and_stops_at_none() -> None:
    world = World(CONFIG, expected_after=8_000.0)
    world.stock[:3] = [1, 2, 0]
    items, t = np.array([1, 0, 1, 0, 2, 1]), np.arange(6.0)
    assert world.sell(items, t).tolist() == [True, True, True, False, False, False]
    assert world.stock[:3].tolist() == [0, 0, 0]
    assert world.sold_out_s[:2].tolist() == [1.0, 2.0]
    assert world.sell(np.array([], dtype=np.int64), np.array([])).tolist() == []


def test_a_slate_of_fixed_size_has_no_item_twice(world: World) -> None:
    requests = world.candidates(np.random.default_rng(2), 400, slate=6, t=3.0)
    order = slates(requests, world.popularity(requests.items))
    ranked = np.take_along_axis(requests.items, order, axis=1)
    for row, length in zip(ranked, requests.length, strict=True):
        assert len(set(row[:length].tolist())) == length <= 6


def test_the_oracle_ranking_is_the_best_of_all_orders(world: World) -> None:
    """Against every permutation of small slates: what regret is measured from must be the optimum."""
    from itertools import permutations

    requests = world.candidates(np.random.default_rng(4), 30, slate=4, t=20.0)
    logit, _ = candidate_logits(world, requests)
    order = slates(requests, logit)
    best = 0.0
    got = 0.0
    for row in range(30):
        four = order[row, :4]
        person = ~world.catalog.bot[requests.user[row]]
        if not person or sigmoid(logit[row]).max() > 0.5:
            continue
        step = 0.5 * np.log1p(np.arange(4))
        got += sigmoid(logit[row, four] - step).sum()
        best += max(sigmoid(logit[row, list(p)] - step).sum() for p in permutations(four))
    assert got == pytest.approx(best)


def test_regret_orders_the_policies() -> None:
    """Equal random numbers give equal candidates, so the three differ by their ranking alone."""
    share = {}
    for policy in ("random", "logged", "oracle"):
        config = Double11Config(
            minutes=0.4, rate=400.0, seed=3, users=500, items=300, cell_s=1.0, regret=True, policy=policy
        )
        figures = Double11(config).night().sim.summary()
        share[policy] = figures["click_regret_share"]
        assert figures["revenue_regret"] > 0
    assert share["oracle"] == pytest.approx(0.0, abs=1e-12)
    assert 0.0 < share["logged"] < share["random"]


def test_a_live_scorer_ranks_through_the_hook() -> None:
    """It sees the candidates as they would be logged, and the dearest it names first is shown first."""

    def dearest_first(requests: Requests) -> np.ndarray:
        frame = sim.candidate_frame(requests)
        assert frame.height == requests.items.size
        assert not set(frame.columns) & set(TRUTH_SCHEMA)
        return frame["price"].to_numpy().reshape(requests.items.shape)

    sim = Double11(CONFIG, rank=dearest_first)
    log = sim.night().log.filter(pl.col("event") == "impression")
    falls = log.select(pl.col("price").diff().over("request_id").max()).item()
    assert log.height > 5_000 and falls <= 0.0


@pytest.mark.parametrize(
    ("scores", "message"),
    [(np.zeros((2, 2)), "scores of shape"), (None, "finite")],
)
def test_a_scorer_that_gives_no_scores_is_refused(scores: np.ndarray | None, message: str) -> None:
    sim = Double11(CONFIG, rank=lambda r: np.full(r.items.shape, np.nan) if scores is None else scores)
    with pytest.raises(RankError, match=message):
        list(sim.frames())
