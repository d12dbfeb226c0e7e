"""Fails when the chance of a click without the user is not the mean over users of the true chances."""

from __future__ import annotations

import numpy as np
import pytest

from replay.simulate import Double11, Double11Config, World
from replay.simulate.item_chance import item_click_probability

CONFIG = Double11Config(minutes=0.4, rate=400.0, seed=3, users=40_000, items=300, bot_share=0.1)
SAMPLE = 8_000


@pytest.fixture(scope="module")
def world() -> World:
    return World(CONFIG, expected_after=8_000.0)


@pytest.mark.parametrize("at", [1.0, CONFIG.midnight_s, CONFIG.span_s - 1.0])
def test_it_is_the_mean_over_users_at_every_moment_and_place(world: World, at: float) -> None:
    catalog = world.catalog
    rng = np.random.default_rng(1)
    for item, position in ((5, 0), (123, 4), (int(np.flatnonzero(np.isfinite(catalog.hot_s))[0]), 1)):
        people = np.flatnonzero(~catalog.bot & (catalog.user_device == 1))
        users = rng.choice(people, SAMPLE)
        mean = world.true_click_probability(
            users,
            np.full(SAMPLE, item),
            np.full(SAMPLE, position),
            np.full(SAMPLE, at),
            np.full(SAMPLE, 2, np.int8),
        )
        one = item_click_probability(
            world, np.array([item]), np.array([position]), np.array([at]), np.array([1]), np.array([2])
        )
        expected = 0.9 * mean.mean() + 0.1 * 0.35
        assert one[0] == pytest.approx(expected, abs=5 * 0.9 * mean.std() / np.sqrt(SAMPLE))


def test_the_truth_has_it_and_it_foretells_the_clicks_on_the_whole() -> None:
    night = Double11(CONFIG).night()
    item, click = night.truth["p_click_item"], night.truth["p_click"]
    assert item.is_between(0.0, 1.0).all()
    assert item.mean() == pytest.approx(click.mean(), rel=0.05)
    assert item.std() < click.std()
