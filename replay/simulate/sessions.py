"""Sessions: what users are after, and what they do before a list is shown to them.

A person's session has an intent, one category, or none. It comes from a hash of (seed, user, session), so
that it is the same in every block of a session and no block needs those before it. Before a list the user may
search the category and look at items, of it where there is an intent. All sizes are chosen, none measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Sessions with an intent, and how long a session is in seconds of the night, at least in event time.
INTENT_SHARE = 0.5
SESSION_S, SESSION_LEAST_S = 1800.0, 60.0
#: Chance of a search before a list, and of each of three looks with and without an intent.
SEARCH = 0.7
LOOKS = 3
LOOK, LOOK_AROUND = 0.55, 0.2
#: How long before the list, in seconds of event time: people do not hurry with the night.
SEARCH_BEFORE_S, LOOK_BEFORE_S = (4.0, 25.0), (1.0, 20.0)
LEAD_MS = 25_000
#: Chance that a candidate is retrieved for the intent, and that an item comes back that was looked at.
RETRIEVED, SEEN_AGAIN = 0.35, 0.5
#: What an item of the intent, and one that was looked at, gains in its click logit.
INTENT_LOGIT, LOOKED_LOGIT = 1.0, 1.0


@dataclass(frozen=True, slots=True)
class Visits:
    """N visits that each end in a list at ``t`` (seconds after the stream's start), float64 (N,).

    ``user`` int32 (N,). ``intent`` int64 (N,): a category, -1 for none. ``looked`` int32 (N, LOOKS): the
    items that were looked at before, -1 for none. ``rng``: for what follows.
    """

    t: np.ndarray
    user: np.ndarray
    intent: np.ndarray
    looked: np.ndarray
    rng: np.random.Generator

    def interest(self, items: np.ndarray, category: np.ndarray) -> np.ndarray:
        """What the session adds to the click logits of ``items`` (N, C), float64; ``category`` by item."""
        wanted = category[items] == self.intent[:, None]
        seen = np.zeros(items.shape, dtype=bool)
        for k in range(LOOKS):
            seen |= items == self.looked[:, k, None]
        return np.where(wanted, INTENT_LOGIT, 0.0) + np.where(seen, LOOKED_LOGIT, 0.0)


class Intents:
    """The intents of all users' sessions; ``share`` (C,) is how often each category is wanted."""

    def __init__(self, seed: int, speed: float, share: np.ndarray) -> None:
        self._seed = seed
        self._length_s = max(SESSION_LEAST_S, SESSION_S / speed)
        self._cumulated = np.cumsum(share) / share.sum()

    def of(self, user: np.ndarray, t: np.ndarray) -> np.ndarray:
        """The category that each ``user`` is after at ``t`` (seconds), int64; -1 for none."""
        first = uniform(self._seed, user, np.zeros_like(t), 0)
        number = np.floor(t / self._length_s + first)
        some = uniform(self._seed, user, number, 1) < INTENT_SHARE
        found = np.searchsorted(self._cumulated, uniform(self._seed, user, number, 2), side="right")
        return np.asarray(np.where(some, np.minimum(found, self._cumulated.size - 1), -1))


class Shelves:
    """Draws items within a category, by their weight."""

    def __init__(self, category: np.ndarray, categories: int) -> None:
        self._items = np.argsort(category, kind="stable")
        self._first = np.searchsorted(category[self._items], np.arange(categories + 1))
        self._cumulated = np.zeros(category.size + 1)

    def fill(self, weight: np.ndarray) -> None:
        """Set the weights of all items."""
        np.cumsum(weight[self._items], out=self._cumulated[1:])

    def pick(self, rng: np.random.Generator, category: np.ndarray) -> np.ndarray:
        """An item of each category (n,), int32; each must have one with a weight."""
        low, high = self._first[category], self._first[category + 1]
        begin, end = self._cumulated[low], self._cumulated[high]
        at = begin + rng.random(category.size) * (end - begin)
        found = np.searchsorted(self._cumulated, at, side="right") - 1
        items: np.ndarray = self._items[np.clip(found, low, high - 1)].astype(np.int32)
        return items


def uniform(seed: int, user: np.ndarray, number: np.ndarray, salt: int) -> np.ndarray:
    """Numbers in [0, 1) from a hash (SplitMix64's finalizer), float64 like ``user``.

    >>> uniform(7, np.array([1, 1, 2]), np.array([0, 1, 0]), 0).round(3).tolist()
    [0.825, 0.26, 0.525]
    """
    key = (seed * 0x9E3779B97F4A7C15 + salt * 0xD1B54A32D192ED03) & (2**64 - 1)
    x = user.astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9) + np.uint64(key)
    x += number.astype(np.int64).astype(np.uint64) * np.uint64(0x94D049BB133111EB)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    x ^= x >> np.uint64(31)
    return np.asarray((x >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def looks(
    rng: np.random.Generator, intent: np.ndarray, person: np.ndarray, shelves: Shelves, popular: np.ndarray
) -> np.ndarray:
    """Items that are looked at before each of n lists, int32 (n, LOOKS), -1 for none.

    ``popular`` (n, LOOKS): what is looked at without an intent.
    """
    after = intent[:, None] >= 0
    did = rng.random((intent.size, LOOKS)) < np.where(after, LOOK, LOOK_AROUND)
    did &= person[:, None]
    found = np.where(did, popular, -1).astype(np.int32)
    wanted = did & after
    found[wanted] = shelves.pick(rng, np.broadcast_to(intent[:, None], did.shape)[wanted])
    return found


def retrieved(visits: Visits, items: np.ndarray, shelves: Shelves) -> np.ndarray:
    """Candidates (n, C) with some that the session brings in place of others."""
    rng = visits.rng
    n, width = items.shape
    swap = (rng.random((n, width)) < RETRIEVED) & (visits.intent >= 0)[:, None]
    found: np.ndarray = items.copy()
    found[swap] = shelves.pick(rng, np.broadcast_to(visits.intent[:, None], swap.shape)[swap])
    for k in range(LOOKS):
        again = (visits.looked[:, k] >= 0) & (rng.random(n) < SEEN_AGAIN)
        rows = np.flatnonzero(again)
        place = np.asarray(rng.integers(0, width, size=n))
        found[rows, place[rows]] = visits.looked[rows, k]
    return found
