"""Who and what is in the simulated shop: users, items, categories, shops, and what the night does to them.

Everything here is drawn once from the seed and never changes; what moves during the night is in
`world.py`. Popularity is Zipf. Exponents come from public logs: items of the Tmall log fall with slope
-0.61 (the top 1 % have 14 % of the actions), users with -0.72, shops with -1.19; categories of Taobao's
UserBehavior with -1.18.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from replay.simulate.config import Double11Config

ITEM_ZIPF, USER_ZIPF, SHOP_ZIPF, CATEGORY_ZIPF = 0.61, 0.72, 1.19, 1.18
BOT_USERS = 0.002
DEVICES = ("android", "ios", "pc")
DEVICE_SHARE = (0.55, 0.35, 0.10)
CHANNELS = ("search", "recommend", "venue")
CHANNEL_SHARE = (0.4, 0.4, 0.2)
#: How differently users care for price cuts: deviation of the logit a unit of cut.
SENSITIVITY_SD = 0.6
#: How much more often a hot item is retrieved (cold items of the tail become head items).
HOT_BOOST = 20.0
#: What "only a few left" and "the main SKU is gone" begin at: this share of the stock is left.
NEARLY_SOLD = 0.2


@dataclass(frozen=True, slots=True)
class Catalog:
    """Fixed arrays of one world; U users, I items, C categories, S shops, K latent dimensions.

    Effects are logits. ``taste`` and ``taste_sale`` (I, K): item vectors before and after 00:00, equal
    but for items of shifted categories. ``born_s``, ``hot_s`` (I,): seconds after the stream's start when
    an item appears (``-inf``: it was there before) and turns hot (``inf``: never).
    """

    user_cdf: np.ndarray
    user_vector: np.ndarray
    user_device: np.ndarray
    sensitivity: np.ndarray
    bot: np.ndarray
    bot_ids: np.ndarray
    weight: np.ndarray
    taste: np.ndarray
    taste_sale: np.ndarray
    category: np.ndarray
    shop: np.ndarray
    price: np.ndarray
    sale_price: np.ndarray
    cut: np.ndarray
    appeal: np.ndarray
    appeal_sale: np.ndarray
    buy_appeal: np.ndarray
    shifted: np.ndarray
    born_s: np.ndarray
    hot_s: np.ndarray
    hot_lift: np.ndarray
    scarcity: np.ndarray


def zipf(rng: np.random.Generator, n: int, exponent: float) -> np.ndarray:
    """Zipf weights of ``n`` things in random order, float64 (n,), sum 1."""
    weight = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    return rng.permutation(weight / weight.sum())


def cdf(weight: np.ndarray) -> np.ndarray:
    """Cumulated shares of ``weight``; the last is exactly 1."""
    total = np.cumsum(weight)
    total /= total[-1]
    return total


def pick(rng: np.random.Generator, cumulated: np.ndarray, n: int) -> np.ndarray:
    """Indices drawn with the cumulated shares, int32 (n,)."""
    found = np.searchsorted(cumulated, rng.random(n), side="right")
    return np.minimum(found, cumulated.size - 1).astype(np.int32)


def draw_catalog(config: Double11Config) -> Catalog:
    """The catalog of ``config.seed``; each family has its own stream of random numbers."""
    streams = np.random.SeedSequence(config.seed, spawn_key=(0,)).spawn(4)
    r_user, r_group, r_item, r_night = (np.random.default_rng(stream) for stream in streams)
    users, items, dim = config.users, config.items, config.dim

    user_weight = zipf(r_user, users, USER_ZIPF)
    bot = np.zeros(users, dtype=bool)
    bot[r_user.choice(users, size=max(1, round(users * BOT_USERS)), replace=False)] = config.bot_share > 0
    people = np.where(bot, 0.0, user_weight)

    category_level = 0.4 * r_group.standard_normal(config.categories)
    category_vector = r_group.standard_normal((config.categories, dim))
    category_price = np.exp(4.5 + 0.9 * r_group.standard_normal(config.categories))
    shop_level = 0.2 * r_group.standard_normal(config.shops)

    weight = zipf(r_item, items, ITEM_ZIPF)
    category = pick(r_item, cdf(zipf(r_item, config.categories, CATEGORY_ZIPF)), items)
    shop = pick(r_item, cdf(zipf(r_item, config.shops, SHOP_ZIPF)), items)
    taste = 0.7 * category_vector[category] + 0.7 * r_item.standard_normal((items, dim))
    relative_price = np.exp(0.5 * r_item.standard_normal(items))
    price = np.maximum(1.0, np.round(category_price[category] * relative_price, 2))
    fame = np.log(weight) - np.log(weight).mean()
    quality = 0.3 * fame / fame.std() + 0.4 * r_item.standard_normal(items)
    appeal = category_level[category] + shop_level[shop] + quality - 0.25 * np.log(relative_price)
    buy_appeal = 0.5 * r_item.standard_normal(items) - 0.15 * np.log(relative_price)

    # What 00:00 does: price cuts for seven items of ten, a shock for each, and new tastes and levels in
    # some categories only.
    cut = np.where(r_night.random(items) < 0.7, r_night.uniform(0.1, 0.5, items), 0.0)
    shock = config.shock_mean + config.shock_sd * r_night.standard_normal(items)
    shifted_category = _exactly(r_night, config.categories, config.shifted_categories)
    level = np.where(shifted_category, config.shift_sd * r_night.standard_normal(config.categories), 0.0)
    turn = np.where(shifted_category[:, None], r_night.standard_normal((config.categories, dim)), 0.0)
    hour = config.span_s / config.night_h
    after = config.span_s - config.midnight_s
    hot = _exactly(r_night, items, config.hot_share)
    hot_s = np.where(hot, config.midnight_s + r_night.random(items) * min(2.0 * hour, after), np.inf)
    new = _exactly(r_night, items, config.new_share) & ~hot
    first = config.midnight_s - min(hour, config.midnight_s)
    born_s = np.where(new, first + r_night.random(items) * min(3.0 * hour, config.span_s - first), -np.inf)
    # The vectors' products have a standard deviation of about one logit before the sale.
    scale = 1.0 / np.sqrt(0.98 * dim)
    return Catalog(
        user_cdf=cdf(people),
        user_vector=r_user.standard_normal((users, dim)).astype(np.float32),
        user_device=r_user.choice(len(DEVICES), size=users, p=DEVICE_SHARE).astype(np.int8),
        sensitivity=SENSITIVITY_SD * r_user.standard_normal(users),
        bot=bot,
        bot_ids=np.flatnonzero(bot).astype(np.int32),
        weight=weight,
        taste=(scale * taste).astype(np.float32),
        taste_sale=(scale * (taste + 0.6 * turn[category])).astype(np.float32),
        category=category,
        shop=shop,
        price=price,
        sale_price=np.round(price * (1.0 - cut), 2),
        cut=cut,
        appeal=appeal,
        appeal_sale=appeal + shock + level[category],
        buy_appeal=buy_appeal,
        shifted=shifted_category[category],
        born_s=born_s,
        hot_s=hot_s,
        hot_lift=np.where(hot, 1.0 + 0.3 * r_night.standard_normal(items), 0.0),
        scarcity=r_night.uniform(0.05, 0.6, items),
    )


def _exactly(rng: np.random.Generator, n: int, share: float) -> np.ndarray:
    """A mask with ``round(n * share)`` random members, bool (n,)."""
    mask = np.zeros(n, dtype=bool)
    mask[rng.permutation(n)[: round(n * share)]] = True
    return mask
