"""Who ranks the candidates, and what a ranking costs against the oracle's.

A policy gives a score to every candidate; the highest are shown in their order. The logging policy is
popularity with noise, the oracle knows the true click probability, a live scorer comes in as a `Rank`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from replay.errors import ReplayError
from replay.simulate.world import Rank, Requests, World, sigmoid

LOGGED_NOISE = 1.0

#: What a ranking is meant to bring: clicks, or what they are expected to sell.
Objective = Literal["clicks", "revenue"]


class RankError(ReplayError, ValueError):
    """An external scorer gave scores of the wrong shape or no numbers."""


@dataclass(slots=True)
class Regret:
    """Expected clicks and revenue of what was shown and of the oracles, on the same candidates.

    The click oracle ranks by true click probability, the revenue oracle by click x purchase x price, both
    at the first position: optimal wherever click probabilities are below one half, as they nearly all are.
    """

    requests: int = 0
    clicks: float = 0.0
    best_clicks: float = 0.0
    revenue: float = 0.0
    best_revenue: float = 0.0

    @property
    def click_regret(self) -> float:
        """Expected clicks lost against the oracle."""
        return self.best_clicks - self.clicks

    @property
    def revenue_regret(self) -> float:
        """Expected revenue lost against the oracle."""
        return self.best_revenue - self.revenue


def make_rank(name: str, world: World, rng: np.random.Generator, objective: Objective = "clicks") -> Rank:
    """The scorer of a named policy; ``rng`` is its noise, ``objective`` what an oracle is after."""
    if name == "random":
        return lambda requests: rng.random(requests.items.shape)
    if name == "oracle" and objective == "revenue":
        return lambda requests: expected_revenue(world, requests)
    if name == "oracle":
        return lambda requests: candidate_logits(world, requests)[0]
    return lambda requests: (
        world.popularity(requests.items) + LOGGED_NOISE * rng.gumbel(size=requests.items.shape)
    )


def candidate_logits(world: World, requests: Requests) -> tuple[np.ndarray, np.ndarray]:
    """Click logits at the first position and affinities of all candidates, float64 (R, C) each."""
    user, t, channel = requests.user[:, None], requests.t[:, None], requests.channel[:, None]
    affinity = world.affinity(user, requests.items, t)
    return world.click_logit(user, requests.items, t, channel, affinity, requests.interest), affinity


def expected_revenue(world: World, requests: Requests) -> np.ndarray:
    """Expected money of each candidate at the first position, float64 (R, C)."""
    logit, affinity = candidate_logits(world, requests)
    return np.asarray(sigmoid(logit) * _money(world, requests, affinity))


def _money(world: World, requests: Requests, affinity: np.ndarray) -> np.ndarray:
    """Expected money of a click on each candidate, float64 (R, C)."""
    user, t = requests.user[:, None], requests.t[:, None]
    p_buy = world.true_purchase_probability(user, requests.items, t, affinity)
    return np.asarray(p_buy * world.prices(requests.items, t))


def slates(requests: Requests, scores: np.ndarray) -> np.ndarray:
    """Candidates of each request from best to worst, int64 (R, C); copies come last.

    Ties keep the order of retrieval.
    """
    if scores.shape != requests.items.shape:
        raise RankError(f"rank must give scores of shape {requests.items.shape}, not {scores.shape}")
    if not np.isfinite(scores).all():
        raise RankError("rank must give finite scores")
    return np.argsort(np.where(requests.copy, np.inf, -scores), axis=1, kind="stable")


def add_regret(regret: Regret, world: World, requests: Requests, shown: np.ndarray) -> None:
    """Count the expected clicks and revenue of the slates ``shown`` (R, C) and of both oracles."""
    logit, affinity = candidate_logits(world, requests)
    user = requests.user[:, None]
    money = _money(world, requests, affinity)
    position = np.arange(requests.items.shape[1])
    on = position < requests.length[:, None]

    def value(order: np.ndarray) -> tuple[float, float]:
        ranked = np.take_along_axis(logit, order, axis=1)
        p = np.where(on, world.click_given_logit(user, ranked, position), 0.0)
        return float(p.sum()), float((p * np.take_along_axis(money, order, axis=1)).sum())

    clicks, revenue = value(shown)
    best_clicks, _ = value(slates(requests, logit))
    _, best_revenue = value(slates(requests, sigmoid(logit) * money))
    regret.requests += requests.user.size
    regret.clicks += clicks
    regret.best_clicks += best_clicks
    regret.revenue += revenue
    regret.best_revenue += best_revenue
