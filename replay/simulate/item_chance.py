"""What is known of a click without knowing the user: the best that a model without tastes could say."""

from __future__ import annotations

import numpy as np

from replay.simulate.catalog import SENSITIVITY_SD
from replay.simulate.world import (
    BOT_CLICK,
    CHANNEL_LOGIT,
    DEVICE_LOGIT,
    HURRY_LOGIT,
    POSITION_SLOPE,
    World,
    sigmoid,
)

#: Nodes of the quadrature: enough for a chance that is right to six digits.
NODES = 24


def item_click_probability(
    world: World,
    items: np.ndarray,
    position: np.ndarray,
    t: np.ndarray,
    device: np.ndarray,
    channel: np.ndarray,
    interest: np.ndarray | None = None,
) -> np.ndarray:
    """Chance that somebody clicks an item at ``position`` at ``t`` of whom device and channel are known.

    The true one, over tastes, care for price cuts and bots as the catalog draws them: what is normal in the
    logit is integrated by Gauss-Hermite quadrature. Arrays of one shape (N,), as in ``World``.

    ``interest``: what sessions add to the impressions of the same time, for no item in particular; the chance
    is the mean over that, too. None: nothing.
    """
    catalog, share = world.catalog, world.config.bot_share
    sale = world.sale(t)
    taste = np.where(sale[:, None], catalog.taste_sale[items], catalog.taste[items]).astype(np.float64)
    care = np.where(sale, SENSITIVITY_SD * catalog.cut[items], 0.0)
    spread = np.sqrt((taste**2).sum(axis=1) + care**2)
    logit = world.click_base + DEVICE_LOGIT[device] + CHANNEL_LOGIT[channel]
    logit = logit - POSITION_SLOPE * np.log1p(position)
    moved = np.where(world.hot(items, t), catalog.hot_lift[items], 0.0)
    moved += np.where(world.few_left(items), HURRY_LOGIT, 0.0)
    logit += np.where(sale, catalog.appeal_sale[items] + moved, catalog.appeal[items])
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    added, often = np.unique(np.zeros(1) if interest is None else interest, return_counts=True)
    people = np.zeros(len(logit))
    for more, times in zip(added, often / often.sum(), strict=True):
        people += times * (
            sigmoid(logit[:, None] + more + spread[:, None] * nodes) @ (weights / weights.sum())
        )
    return np.asarray((1.0 - share) * people + share * BOT_CLICK)
