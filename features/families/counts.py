"""Rates and volumes of any key: decayed counts, smoothed towards a parent's rate.

For a rate ``a/b`` at half-life h with counts c as of the impression::

    rate = (c_a + w * parent) / (c_b + w),    feature = log(rate / parent)

``parent`` is the smoothed rate of the parent's key, and that one's parent is everything, which is smoothed
towards ``BASE_RATE``. ``everything`` itself is compared with ``BASE_RATE``. A volume is
``log(1 + c) / 5``; a velocity the log of one half-life's events a second over the next longer one's.

A kind may carry a weight, as in "impression.expected": ``value`` (money: "purchase.value/click" is the amount
a click), ``place`` (from 1 on: "click.place/impression.place"), ``expected`` and ``examined``
(``clicked_places``: "click/impression.expected" are clicks over expected clicks).

Sources: hierarchical smoothing of rare keys as in He et al., "Practical lessons from predicting clicks on ads
at Facebook" (ADKDD 2014), section 4, and Chapelle, Manavoglu, Rosales, "Simple and scalable response
prediction" (TIST 2014), section 3; real-time counts of a sale at several half-lives.

Range: a log ratio within +-20 (rates between 2e-9 of the parent's and all), a volume in 0..5, a velocity
within +-20.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from features.compiled import kernel
from features.errors import FeaturesError
from features.events import FloatArray
from features.families.clicked_places import clicked_places
from features.families.count_rows import CountRows, HalfLife, Quantity, count_rows
from features.family import Feature
from features.passes import Block, Pass
from features.scope import IMPRESSION, Scope, check_columns

EVERYTHING = "everything"
#: A click rate that is assumed before anything was seen, and its weight in events.
BASE_RATE, BASE_WEIGHT = 0.02, 50.0
VOLUME_SCALE = 5.0
LARGEST = 20.0
#: Events a second that both sides of a velocity have in any case.
FLOOR = 1e-3
#: What may stand behind a kind, and the number of an event that it is.
WEIGHTS = {"value": "value", "place": "place_from_1", "expected": "expected", "examined": "examined"}
#: Weights that are worked out from the places of clicks.
BY_PLACE = ("expected", "examined")
CLICK = "click"


class Counts(msgspec.Struct, forbid_unknown_fields=True, frozen=True, cache_hash=True):
    """``[[features.counts]]``: ``rates`` as "click/impression"; ``volumes``, ``velocities`` of kinds.

    ``keys`` are columns, several for a crossing. ``parent``: the columns that a rate is smoothed towards.
    ``half_lives_s``: after so long an event counts half; each gives features of its own. ``smoothing``:
    impressions that the parent is worth, where not as much as ``features.smoothing`` says.
    ``begin``: kinds of events that begin a row of ``keys``; empty: every kind that is counted. Where most
    pairs of a user and something are only ever shown, ``begin = ["any"]`` saves their rows: counting begins
    with the first action or behaviour (or with what else is kept of the same keys).
    """

    DECLARED: ClassVar[str] = "counts"

    keys: tuple[str, ...]
    half_lives_s: tuple[HalfLife, ...] = (600.0, 86_400.0)
    rates: tuple[str, ...] = ("click/impression",)
    volumes: tuple[str, ...] = (IMPRESSION,)
    velocities: tuple[str, ...] = ()
    parent: tuple[str, ...] = ()
    smoothing: Annotated[float, msgspec.Meta(gt=0.0, le=1e6)] | None = None
    begin: tuple[str, ...] = ()

    def kinds(self) -> tuple[str, ...]:
        """Every kind that is counted."""
        named = [weighted(name) for name in self.counted()]
        clicks = [CLICK for _, weight in named if weight in BY_PLACE]
        return tuple(dict.fromkeys((*(kind for kind, _ in named), *clicks, *self.begin)))

    def counted(self) -> tuple[str, ...]:
        """Everything that is counted: kinds, some with a weight."""
        both = [side for rate in self.rates for side in rate.split("/")]
        return tuple(dict.fromkeys((*both, *self.volumes, *self.velocities)))

    def check(self, scope: Scope, where: str) -> None:
        """Raises ``FeaturesError``."""
        check_columns(self.keys, scope, f"{where}.keys")
        if self.parent:
            check_columns(self.parent, scope, f"{where}.parent")
        for rate in self.rates:
            if len(rate.split("/")) != 2 or not all(rate.split("/")):
                raise FeaturesError(f"{where}.rates: {rate!r} is no rate; write it as 'click/impression'")
        if self.velocities and len(self.half_lives_s) < 2:
            raise FeaturesError(f"{where}.velocities: need at least two half-lives")
        if list(self.half_lives_s) != sorted(set(self.half_lives_s)):
            raise FeaturesError(f"{where}.half_lives_s: must ascend and not repeat a value")
        if self.begin and "user_id" not in self.keys:
            # Else a row would be begun by one worker's users and miss what others counted before.
            raise FeaturesError(f"{where}.begin: needs user_id among the keys")
        if not (self.rates or self.volumes or self.velocities):
            raise FeaturesError(f"{where}: has no rates, volumes or velocities")

    def blocks(self, scope: Scope) -> tuple[Block, ...]:
        """The key's counts, its parent's, and those of everything."""
        return _blocks(self, scope)

    def features(self, scope: Scope) -> tuple[Feature, ...]:
        """Rates first, then volumes, then velocities; half-lives inside."""
        name = "*".join(self.keys)
        found = [
            Feature(f"{name}.{rate}.{h:g}s", -LARGEST, LARGEST)
            for rate in self.rates
            for h in self.half_lives_s
        ]
        found += [Feature(f"{name}.{v}.{h:g}s", 0.0, 5.0) for v in self.volumes for h in self.half_lives_s]
        found += [
            Feature(f"{name}.{v}.{short:g}s/{long:g}s", -LARGEST, LARGEST)
            for v in self.velocities
            for short, long in pairwise(self.half_lives_s)
        ]
        return tuple(found)

    def compute(self, batch: Pass, scope: Scope) -> FloatArray:
        """See ``features.family.Family``."""
        own, *above = _blocks(self, scope)
        # Of a user and of everything, impressions that are alike are told the same.
        alike = all(batch.shares(key) for key in self.chain())
        ran, raw = batch.read_alike(own) if alike else batch.read(own)
        base = self._parent(batch, above, len(raw), alike, scope)
        out = np.empty((self._width, len(raw)))
        numerators, denominators = _sides(ran, self, scope)
        weight = _worth(self, self._smoothing(own, scope))
        volumes = _columns(ran, self.volumes, self.half_lives_s, scope)
        short, long, rates = _velocities(ran, self, scope)
        _tell(raw, numerators, denominators, base, weight, volumes, short, long, rates, FLOOR, out)
        np.log(out, out=out)
        out[len(numerators) : len(numerators) + len(volumes)] /= VOLUME_SCALE
        return batch.spread(out) if alike else out

    def chain(self) -> tuple[tuple[str, ...], ...]:
        """The key, its parent and everything, without repetition."""
        keys = [self.keys, *([self.parent] if self.parent else []), (EVERYTHING,)]
        return tuple(dict.fromkeys(keys))

    @property
    def _width(self) -> int:
        """Features that it gives."""
        half_lives = len(self.half_lives_s)
        return half_lives * (len(self.rates) + len(self.volumes)) + (half_lives - 1) * len(self.velocities)

    def _smoothing(self, block: CountRows, scope: Scope) -> float:
        """Impressions that the parent of a block is worth."""
        return BASE_WEIGHT if block.key == (EVERYTHING,) else self.smoothing or scope.smoothing

    def _parent(
        self, batch: Pass, above: Sequence[CountRows], size: int, alike: bool, scope: Scope
    ) -> FloatArray:
        """What every rate at every half-life is smoothed towards; (rates x half-lives, ``size``).

        ``above``: the blocks of the parents. ``alike``: one column a group of ``Pass.alike``.
        """
        if not above or not self.rates:
            return np.repeat(_bases(self)[:, None], size, axis=1)
        shared = ("counts", self.rates, self.half_lives_s)
        groups, spread = (shared, "alike"), (shared, "each")
        if groups not in batch.memo:
            ran, raw = batch.read_alike(above[-1])
            batch.memo[groups] = self._smoothed(
                ran, raw, np.repeat(_bases(self)[:, None], len(raw), axis=1), scope
            )
        if alike:
            base: FloatArray = batch.memo[groups]
        else:
            if spread not in batch.memo:
                batch.memo[spread] = batch.spread(batch.memo[groups])
            base = batch.memo[spread]
        for block in reversed(above[:-1]):
            ran, raw = batch.read_alike(block) if alike else batch.read(block)
            base = self._smoothed(ran, raw, base, scope)
        return base

    def _smoothed(self, ran: CountRows, raw: FloatArray, base: FloatArray, scope: Scope) -> FloatArray:
        """Every rate at every half-life as ``ran`` counts it, smoothed towards ``base``; like ``base``."""
        out = np.empty_like(base)
        above, below = _sides(ran, self, scope)
        _smooth(raw, above, below, base, _worth(self, self._smoothing(ran, scope)), out)
        return out


@lru_cache(maxsize=1024)
def _blocks(family: Counts, scope: Scope) -> tuple[CountRows, ...]:
    quantities = tuple(quantity(name, scope) for name in family.counted())
    by_place = any(weighted(name)[1] in BY_PLACE for name in family.counted())
    after = (clicked_places(scope, CLICK),) if by_place else ()
    begun_by = tuple(sorted({number for kind in family.begin for number in scope.numbers(kind)}))
    return tuple(
        count_rows(key, quantities, family.half_lives_s, after, begun_by if key == family.keys else ())
        for key in family.chain()
    )


def weighted(name: str) -> tuple[str, str]:
    """A kind and its weight, "" where it has none.

    >>> weighted("purchase.value"), weighted("clickout item")
    (('purchase', 'value'), ('clickout item', ''))
    """
    kind, _, weight = name.rpartition(".")
    return (kind, weight) if kind and weight in WEIGHTS else (name, "")


def quantity(name: str, scope: Scope) -> Quantity:
    """What a name counts."""
    kind, weight = weighted(name)
    return Quantity(scope.numbers(kind), WEIGHTS.get(weight, ""))


@lru_cache(maxsize=4096)
def _sides(ran: CountRows, family: Counts, scope: Scope) -> tuple[npt.NDArray[np.int64], ...]:
    """Where what stands above and below each rate's line is read."""
    sides = ([rate.split("/")[side] for rate in family.rates] for side in range(2))
    return tuple(_columns(ran, tuple(side), family.half_lives_s, scope) for side in sides)


@lru_cache(maxsize=4096)
def _columns(
    ran: CountRows, kinds: tuple[str, ...], half_lives_s: tuple[float, ...], scope: Scope
) -> npt.NDArray[np.int64]:
    """Where kinds, each at all half-lives, are read."""
    return ran.columns((quantity(kind, scope), float(h)) for kind in kinds for h in half_lives_s)


@lru_cache(maxsize=4096)
def _velocities(
    ran: CountRows, family: Counts, scope: Scope
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], FloatArray]:
    """Where the shorter and the longer half-life of each velocity are read, and what makes them events
    a second, (velocities, 2)."""
    pairs = [
        (*_columns(ran, (kind,), pair, scope), *np.log(2.0) / np.array(pair))
        for kind in family.velocities
        for pair in pairwise(family.half_lives_s)
    ]
    table = np.array(pairs).reshape(len(pairs), 4)
    short, long = (np.ascontiguousarray(table[:, k]).astype(np.int64) for k in range(2))
    return short, long, np.ascontiguousarray(table[:, 2:])


@lru_cache(maxsize=1024)
def _bases(family: Counts) -> FloatArray:
    """What is assumed of each rate before anything was seen: of clicks over expected ones, as many."""
    bases = [1.0 if weighted(r.split("/")[1])[1] == "expected" else BASE_RATE for r in family.rates]
    return np.repeat(bases, len(family.half_lives_s))


@lru_cache(maxsize=4096)
def _worth(family: Counts, impressions: float) -> FloatArray:
    """So many impressions in the unit below each rate's line; an expected click is one click on the mean."""
    units = [BASE_RATE if weighted(r.split("/")[1])[1] == "expected" else 1.0 for r in family.rates]
    return np.repeat(units, len(family.half_lives_s)) * impressions


@kernel
def _smooth(raw, above, below, base, weight, out):  # type: ignore[no-untyped-def]
    for i in range(len(raw)):
        for k in range(len(above)):
            out[k, i] = (raw[i, above[k]] + weight[k] * base[k, i]) / (raw[i, below[k]] + weight[k])


@kernel
def _tell(  # type: ignore[no-untyped-def]
    raw, above, below, base, weight, volumes, short, long, rates, floor, out
):
    """What the features are the logarithms of: rates over ``base``, one and a count, velocities."""
    for i in range(len(raw)):
        k = 0
        for r in range(len(above)):
            smoothed = (raw[i, above[r]] + weight[r] * base[r, i]) / (raw[i, below[r]] + weight[r])
            out[k, i] = smoothed / base[r, i]
            k += 1
        for v in volumes:
            out[k, i] = 1.0 + raw[i, v]
            k += 1
        for v in range(len(short)):
            fast, slow = raw[i, short[v]] * rates[v, 0] + floor, raw[i, long[v]] * rates[v, 1] + floor
            out[k, i] = fast / slow
            k += 1
