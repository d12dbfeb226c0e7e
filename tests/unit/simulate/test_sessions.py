"""Fails when an intent depends on who asks with whom, or an item is drawn that its category does not have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.simulate.sessions import INTENT_SHARE, LOOKS, Intents, Shelves, Visits, looks, uniform


@given(st.integers(0, 2**63 - 1), st.lists(st.integers(0, 10**8 - 1), min_size=1, max_size=20))
def test_an_intent_is_the_same_in_whatever_company(seed: int, users: list[int]) -> None:
    intents = Intents(seed, 24.0, np.array([1.0, 0.0, 3.0]))
    user, t = np.array(users, dtype=np.int32), np.linspace(0.0, 500.0, len(users))
    together = intents.of(user, t).tolist()
    assert together == [int(intents.of(user[k : k + 1], t[k : k + 1])[0]) for k in range(len(users))]
    assert set(together) <= {-1, 0, 2}


def test_intents_last_a_session_and_are_as_frequent_as_wanted() -> None:
    intents = Intents(3, 24.0, np.array([1.0, 1.0, 2.0]))
    user = np.arange(200_000)
    found = intents.of(user, np.full(user.size, 100.0))
    shares = [(found == k).mean() for k in (-1, 0, 1, 2)]
    half = INTENT_SHARE / 4
    assert shares == pytest.approx([1 - INTENT_SHARE, half, half, 2 * half], abs=0.01)
    # 30 minutes at 24 times the speed are 75 s: a second later 1 session of 75 is another.
    changed = (intents.of(user, np.full(user.size, 101.0)) != found).mean()
    assert 0 < changed < 2 / 75
    later = intents.of(user, np.full(user.size, 300.0))
    assert 0.2 < (later == found).mean() < 0.5


def test_hashed_numbers_are_uniform_and_unlike_their_neighbours() -> None:
    user = np.arange(100_000)
    drawn = uniform(1, user, np.zeros(user.size), 0)
    assert np.histogram(drawn, 10, (0.0, 1.0))[0] == pytest.approx(10_000, rel=0.05)
    for other in (uniform(2, user, np.zeros(user.size), 0), uniform(1, user, np.ones(user.size), 0)):
        assert abs(np.corrcoef(drawn, other)[0, 1]) < 0.02


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(0, 1000), st.data())
def test_a_shelf_gives_its_own_items_and_none_without_weight(
    category: list[int], seed: int, data: st.DataObject
) -> None:
    of, weight = np.array(category), np.zeros(len(category))
    weight[data.draw(st.lists(st.integers(0, len(category) - 1), min_size=1))] = 1.0
    shelves = Shelves(of, 5)
    shelves.fill(weight)
    wanted = np.unique(of[weight > 0]).repeat(20)
    found = shelves.pick(np.random.default_rng(seed), wanted)
    assert (of[found] == wanted).all() and (weight[found] > 0).all()


def test_bots_look_at_nothing_and_interest_is_of_the_session() -> None:
    rng = np.random.default_rng(1)
    category = np.arange(40) % 4
    shelves = Shelves(category, 4)
    shelves.fill(np.ones(40))
    intent = np.array([2, -1, 2] * 100)
    person = np.array([True, True, False] * 100)
    looked = looks(rng, intent, person, shelves, np.full((300, LOOKS), 7))
    assert (looked[2::3] == -1).all() and set(looked[1::3].ravel()) == {-1, 7}
    some = looked[::3][looked[::3] >= 0]
    assert some.size > 100 and (category[some] == 2).all()
    visits = Visits(np.zeros(1), np.zeros(1, np.int32), np.array([2]), np.array([[7, -1, -1]]), rng)
    interest = visits.interest(np.array([[2, 7, 3, 6]]), category)[0]
    assert interest.tolist() == [1.0, 1.0, 0.0, 1.0]
