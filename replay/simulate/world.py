"""The latent state of the night, and the only place where true probabilities are computed.

`World` answers "how likely is it that this user clicks this item at this position now", lets a policy
rank candidates, and responds. The engine never sees it: the log holds what happened, the truth file what
was likely.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from replay.simulate import delays
from replay.simulate.catalog import CHANNEL_SHARE, HOT_BOOST, NEARLY_SOLD, Catalog, cdf, draw_catalog, pick
from replay.simulate.config import Double11Config
from replay.simulate.sessions import LOOKS, Intents, Shelves, Visits, looks, retrieved

#: Logit lost per log step of position. Trivago's clicks fall with a log-log slope of about -1 from the
#: second position on; half of that is taken for bias, the other half for the ranking being good.
POSITION_SLOPE = 0.5
DEVICE_LOGIT = np.array([0.0, 0.1, -0.3])
CHANNEL_LOGIT = np.array([0.2, -0.1, 0.0])
BOT_CLICK = 0.35
HURRY_LOGIT = 0.3  # "only a few left" is clicked more
MAIN_SKU_GONE_LOGIT = -0.7  # and bought less
BUY_WAIT_LOGIT, CART_WAIT_LOGIT, WAIT_TAU_H = -1.2, 0.8, 1.0  # before 00:00 people fill carts and wait
BUY_SALE_LOGIT, CART_SALE_LOGIT = 1.0, -0.3
REFUND_LOGIT = -2.4
PLENTY = 2**62


@dataclass(frozen=True, slots=True)
class Requests:
    """R requests with their candidates, in order of time.

    ``t`` float64 (R,): seconds after the stream's start. ``user`` int32 (R,). ``items`` int32 (R, C).
    ``length`` int64 (R,): how many of the candidates are shown. ``channel`` int8 (R,). ``copy`` bool
    (R, C): candidates retrieved twice; the second one is never shown. ``interest`` float64 (R, C): what the
    user's session adds to the click logit of each, which no scorer may know.
    """

    t: np.ndarray
    user: np.ndarray
    items: np.ndarray
    length: np.ndarray
    channel: np.ndarray
    copy: np.ndarray
    interest: np.ndarray


#: Scores of candidates, float (R, C): the highest ``length`` of a request are shown in their order.
Rank = Callable[[Requests], np.ndarray]


@dataclass(frozen=True, slots=True)
class Response:
    """True probabilities and draws for N shown items; everything after the click is given the click.

    ``clicked`` bool (N,), ``click_s`` float64 (N,) delay in seconds. The arrays of ``cart``,
    ``favourite`` and ``buy`` hold the rows (of N) that did it, and their delays after the click.
    """

    p_click: np.ndarray
    p_cart: np.ndarray
    p_favourite: np.ndarray
    p_purchase: np.ndarray
    clicked: np.ndarray
    click_s: np.ndarray
    later: dict[str, tuple[np.ndarray, np.ndarray]]


class World:
    """A catalog, the clock and the stock.

    ``t`` is seconds after the stream's start everywhere. Stock badges and retrieval change between calls
    of ``advance`` only, so that the probabilities of a block are exact.
    """

    def __init__(self, config: Double11Config, expected_after: float) -> None:
        self.config = config
        self.catalog: Catalog = draw_catalog(config)
        self._hour = config.span_s / config.night_h
        self.click_base = 0.0
        self.buy_base = 0.0
        self.stock0 = np.full(config.items, PLENTY, dtype=np.int64)
        self.stock = self.stock0
        self.sold_out_s = np.full(config.items, np.inf)
        #: Items by category: as of the last ``advance``, and as of the visits that were asked for last.
        self._shelves = Shelves(self.catalog.category, config.categories)
        self._shelves_to_come = Shelves(self.catalog.category, config.categories)
        wanted = np.bincount(self.catalog.category, self.weights(0.0), minlength=config.categories)
        self._intents = Intents(config.seed, config.speed, wanted)
        self.advance(0.0)
        self._calibrate()
        self.stock0 = self._draw_stock(expected_after)
        self.stock = self.stock0.copy()

    # The state at a time -------------------------------------------------------------------------

    def advance(self, t: float) -> None:
        """Set retrieval and stock badges to what they are at ``t``."""
        weight = self.weights(t)
        self._items_cdf = cdf(weight)
        self._shelves.fill(weight)
        self._log_weight = np.log(np.maximum(weight, 1e-300))
        self._units = self.stock.copy()
        self._few_left = self.stock < NEARLY_SOLD * self.stock0

    def weights(self, t: float) -> np.ndarray:
        """Popularity of each item at ``t`` (I,): born ones only, hot ones boosted. Sold-out items stay."""
        catalog = self.catalog
        boost = np.where(catalog.hot_s <= t, HOT_BOOST, 1.0)
        return np.where(catalog.born_s <= t, catalog.weight * boost, 0.0)

    def units_left(self, items: np.ndarray) -> np.ndarray:
        """Stock of ``items`` at the last ``advance``, int64; -1 of what there is plenty of."""
        return np.asarray(np.where(self.stock0[items] < PLENTY, self._units[items], -1))

    def sale(self, t: np.ndarray) -> np.ndarray:
        """Whether the sale is on, bool, like ``t``."""
        return np.asarray(t >= self.config.midnight_s)

    def prices(self, items: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Price shown for ``items`` at ``t``, money."""
        catalog = self.catalog
        return np.asarray(np.where(self.sale(t), catalog.sale_price[items], catalog.price[items]))

    def hot(self, items: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Whether the items have turned hot by ``t``."""
        return np.asarray(self.catalog.hot_s[items] <= t)

    def few_left(self, items: np.ndarray) -> np.ndarray:
        """Whether the items carry the badge "only a few left", as of the last ``advance``."""
        return np.asarray(self._few_left[items])

    def sold_out(self, items: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Whether the last unit is gone by ``t``; exact up to the last call of ``sell``."""
        return np.asarray(self.sold_out_s[items] <= t)

    # Probabilities -------------------------------------------------------------------------------

    def affinity(self, user: np.ndarray, items: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Product of the latent vectors, about N(0, 1), float64; arrays of one shape."""
        catalog = self.catalog
        sale = self.sale(t)
        vectors = catalog.user_vector[user]

        def product(taste: np.ndarray) -> np.ndarray:
            return np.asarray(np.einsum("...k,...k->...", vectors, taste[items]), dtype=np.float64)

        if sale.all():
            return product(catalog.taste_sale)
        if not sale.any():
            return product(catalog.taste)
        return np.where(sale, product(catalog.taste_sale), product(catalog.taste))

    def click_logit(
        self,
        user: np.ndarray,
        items: np.ndarray,
        t: np.ndarray,
        channel: np.ndarray,
        affinity: np.ndarray,
        interest: np.ndarray | float = 0.0,
    ) -> np.ndarray:
        """Logit of a click at the first position by a person; arrays of one shape.

        ``interest`` is what the user's session adds.
        """
        catalog = self.catalog
        sale = self.sale(t)
        logit = self.click_base + affinity + DEVICE_LOGIT[catalog.user_device[user]] + CHANNEL_LOGIT[channel]
        logit += interest
        if not sale.any():
            logit += catalog.appeal[items]
            return np.asarray(logit)
        cheap = catalog.appeal_sale[items] + catalog.sensitivity[user] * catalog.cut[items]
        logit += cheap if sale.all() else np.where(sale, cheap, catalog.appeal[items])
        logit += np.where(self.hot(items, t), catalog.hot_lift[items], 0.0)
        logit += np.where(self._few_left[items], HURRY_LOGIT, 0.0)
        return np.asarray(logit)

    def true_click_probability(
        self,
        user_idx: np.ndarray,
        item_idx: np.ndarray,
        position: np.ndarray,
        t: np.ndarray,
        channel: np.ndarray | None = None,
    ) -> np.ndarray:
        """Chance that the user clicks the item at ``position`` (0 is the top) at ``t``, in a session that is
        not after it; one shape."""
        user, items, at = np.broadcast_arrays(user_idx, item_idx, t)
        where = np.zeros(user.shape, dtype=np.int8) if channel is None else channel
        logit = self.click_logit(user, items, at, where, self.affinity(user, items, at))
        return self.click_given_logit(user, logit, position)

    def click_given_logit(self, user: np.ndarray, logit: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Chance of a click at ``position``; bots do not read, they click at one rate."""
        p = sigmoid(logit - POSITION_SLOPE * np.log1p(position))
        return np.where(self.catalog.bot[user], BOT_CLICK, p)

    def true_purchase_probability(
        self, user: np.ndarray, items: np.ndarray, t: np.ndarray, affinity: np.ndarray
    ) -> np.ndarray:
        """Chance that a click leads to a purchase, with the stock of the moment; arrays of one shape."""
        catalog = self.catalog
        sale = self.sale(t)
        logit = self.buy_base + catalog.buy_appeal[items] + 0.5 * affinity
        logit += np.where(sale, BUY_SALE_LOGIT + catalog.cut[items], BUY_WAIT_LOGIT * self._waiting(t))
        logit += np.where(self._few_left[items], MAIN_SKU_GONE_LOGIT, 0.0)
        none = catalog.bot[user] | self.sold_out(items, t)
        return np.where(none, 0.0, sigmoid(logit))

    def true_refund_probability(self, items: np.ndarray) -> np.ndarray:
        """Chance that a purchase is refunded; deep cuts are regretted more."""
        return sigmoid(REFUND_LOGIT + 1.5 * self.catalog.cut[items])

    def _cart(self, t: np.ndarray, affinity: np.ndarray) -> np.ndarray:
        base = _logit(delays.TAOBAO["cart_per_click"])
        return sigmoid(
            base
            + 0.3 * affinity
            + np.where(self.sale(t), CART_SALE_LOGIT, CART_WAIT_LOGIT * self._waiting(t))
        )

    def _waiting(self, t: np.ndarray) -> np.ndarray:
        """How much people wait for the sale, 0 to 1, growing towards 00:00."""
        return np.exp(np.minimum(t - self.config.midnight_s, 0.0) / (WAIT_TAU_H * self._hour))

    # The loop: retrieve, rank, respond, sell -----------------------------------------------------

    def visits(self, rng: np.random.Generator, sessions: np.random.Generator, t: np.ndarray) -> Visits:
        """Who comes for the lists at ``t`` (n,), after what, and what they looked at before.

        Knows the catalog alone: it may be asked for a time to come. ``sessions``: for what people are after.
        """
        config, catalog = self.config, self.catalog
        user = pick(rng, catalog.user_cdf, t.size)
        if config.bot_share > 0:
            bots = rng.random(t.size) < config.bot_share
            which = rng.integers(0, catalog.bot_ids.size, t.size)
            user = np.where(bots, catalog.bot_ids[which], user)
        person = ~catalog.bot[user]
        intent = np.where(person, self._intents.of(user, t), -1)
        weight = self.weights(float(t[0]) if t.size else 0.0)
        shelves = self._shelves_to_come
        shelves.fill(weight)
        popular = pick(sessions, cdf(weight), t.size * LOOKS).reshape(t.size, LOOKS)
        return Visits(t, user, intent, looks(sessions, intent, person, shelves, popular), sessions)

    def candidates(
        self,
        rng: np.random.Generator,
        n_requests: int,
        slate: int | None = None,
        t: np.ndarray | float = 0.0,
        visits: Visits | None = None,
    ) -> Requests:
        """``n_requests`` requests with retrieved candidates; ``slate`` fixes how many are shown.

        ``visits``: who comes and after what, where that has been drawn already.
        """
        config = self.config
        at = np.broadcast_to(np.asarray(t, dtype=np.float64), (n_requests,))
        visits = visits or self.visits(rng, rng.spawn(1)[0], at)
        items = pick(rng, self._items_cdf, n_requests * config.candidates)
        items = retrieved(visits, items.reshape(n_requests, config.candidates), self._shelves)
        copy = _copies(items)
        length = rng.integers(config.slate_min, config.slate_max + 1, n_requests)
        if slate is not None:
            length[:] = slate
        return Requests(
            t=at,
            user=visits.user,
            items=items,
            length=np.minimum(length, config.candidates - copy.sum(axis=1)),
            channel=pick(rng, np.cumsum(CHANNEL_SHARE), n_requests).astype(np.int8),
            copy=copy,
            interest=visits.interest(items, self.catalog.category),
        )

    def popularity(self, items: np.ndarray) -> np.ndarray:
        """Log popularity of the moment, the logging policy's score without its noise."""
        return np.asarray(self._log_weight[items])

    def respond(
        self,
        rng: np.random.Generator,
        user: np.ndarray,
        items: np.ndarray,
        position: np.ndarray,
        t: np.ndarray,
        channel: np.ndarray,
        interest: np.ndarray | float = 0.0,
    ) -> Response:
        """What N users do with N shown items; arrays (N,)."""
        affinity = self.affinity(user, items, t)
        logit = self.click_logit(user, items, t, channel, affinity, interest)
        p_click = self.click_given_logit(user, logit, position)
        person = ~self.catalog.bot[user]
        p_cart = np.where(person, self._cart(t, affinity), 0.0)
        p_favourite = np.where(person, delays.TAOBAO["favourite_per_click"], 0.0)
        p_purchase = self.true_purchase_probability(user, items, t, affinity)
        clicked = rng.random(user.size) < p_click
        rows = np.flatnonzero(clicked)
        later = {}
        for action, p in (("cart", p_cart), ("favourite", p_favourite), ("purchase", p_purchase)):
            did = rows[rng.random(rows.size) < p[rows]]
            later[action] = (did, delays.action_delay(rng, action, did.size))
        return Response(
            p_click, p_cart, p_favourite, p_purchase, clicked, delays.click_delay(rng, user.size), later
        )

    def sell(self, items: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Take one unit for each purchase, in the given order of time; False where none was left.

        Stock counts from 00:00 on: before that the sale's units are held back.
        """
        left = self.stock[items]
        if not left.size:
            return np.zeros(0, dtype=bool)
        order = np.argsort(items, kind="stable")
        ranked = items[order]
        first = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
        rank = np.arange(items.size) - np.repeat(first, np.diff(np.append(first, items.size)))
        nth = np.empty(items.size, dtype=np.int64)
        nth[order] = rank
        sold = nth < left
        last = nth == left - 1
        self.sold_out_s[items[last]] = t[last]
        np.subtract.at(self.stock, items[sold], 1)
        return np.asarray(sold)

    # Before the night ----------------------------------------------------------------------------

    def _calibrate(self) -> None:
        """Set both base logits so that an ordinary evening, ranked by popularity with noise, has
        ``base_ctr`` and ``base_cvr``."""
        config, catalog = self.config, self.catalog
        rng = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(2,)))
        requests = self.candidates(rng, 3_000)
        noisy = self.popularity(requests.items) + rng.gumbel(size=requests.items.shape)
        order = np.argsort(np.where(requests.copy, np.inf, -noisy), axis=1)
        ranked = np.take_along_axis(requests.items, order, axis=1)
        row, position = np.nonzero(np.arange(config.candidates) < requests.length[:, None])
        person = ~catalog.bot[requests.user[row]]
        row, position = row[person], position[person]
        user, items, channel = requests.user[row], ranked[row, position], requests.channel[row]
        affinity = np.einsum("nk,nk->n", catalog.user_vector[user], catalog.taste[items]).astype(np.float64)
        click = affinity + catalog.appeal[items] + CHANNEL_LOGIT[channel]
        click += DEVICE_LOGIT[catalog.user_device[user]] - POSITION_SLOPE * np.log1p(position)
        click += np.take_along_axis(requests.interest, order, axis=1)[row, position]
        self.click_base = _intercept(click, np.ones(click.size), config.base_ctr)
        buy = catalog.buy_appeal[items] + 0.5 * affinity
        self.buy_base = _intercept(buy, sigmoid(click + self.click_base), config.base_cvr)

    def _draw_stock(self, expected_after: float) -> np.ndarray:
        """Units of each item for the sale, int64 (I,): scarce for some, plenty for the others.

        A scarce item has a part of what it would sell after 00:00 if it never ran out. Items are made
        scarce in random order, among those that sell at all, until their traffic reaches the share.
        """
        config, catalog = self.config, self.catalog
        weight = self.weights(config.span_s)
        share = weight / weight.sum()
        at = np.log1p(np.arange(config.slate_max)).mean() * POSITION_SLOPE
        ctr = sigmoid(self.click_base + catalog.appeal_sale + catalog.hot_lift - at)
        cvr = sigmoid(self.buy_base + catalog.buy_appeal + BUY_SALE_LOGIT + catalog.cut)
        demand = expected_after * (1.0 - config.bot_share) * share * ctr * cvr
        stock = np.full(config.items, PLENTY, dtype=np.int64)
        rng = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(3,)))
        order = rng.permutation(config.items)
        order = order[demand[order] * catalog.scarcity[order] >= 1.0]
        scarce = order[np.cumsum(share[order]) <= config.stockout_share]
        stock[scarce] = (demand[scarce] * catalog.scarcity[scarce]).astype(np.int64)
        return stock


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x))."""
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


def _logit(p: float) -> float:
    return float(np.log(p / (1.0 - p)))


def _intercept(logit: np.ndarray, weight: np.ndarray, target: float) -> float:
    """The constant that makes the weighted mean of ``sigmoid(constant + logit)`` equal ``target``."""
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2.0
        mean = float(np.average(sigmoid(middle + logit), weights=weight))
        low, high = (middle, high) if mean < target else (low, middle)
    return (low + high) / 2.0


def _copies(items: np.ndarray) -> np.ndarray:
    """Marks the second and later occurrence of an item in its row, bool like ``items``."""
    order = np.argsort(items, axis=1, kind="stable")
    ranked = np.take_along_axis(items, order, axis=1)
    same = np.zeros(items.shape, dtype=bool)
    same[:, 1:] = ranked[:, 1:] == ranked[:, :-1]
    copy = np.zeros(items.shape, dtype=bool)
    np.put_along_axis(copy, order, same, axis=1)
    return copy
