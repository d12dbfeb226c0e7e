"""The peer of the serving figure: rows in dictionaries, features by NumPy, an aiohttp handler around them.

It computes the counts whose keys a request brings (everything, item, category, shop, user, position and their
crossings), the price and its place among those of the list, with the formulas of ``features.families``. What
a session, recency and touched items say it leaves out: that favours it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from aiohttp import web

from bench._serving_rows import COLUMNS, Night
from features.families.count_rows import HEAD, CountRows
from features.families.counts import BASE_RATE, BASE_WEIGHT, EVERYTHING, FLOOR, VOLUME_SCALE, Counts
from features.plan import table_name

FloatArray = npt.NDArray[np.float64]
Key = tuple[str, ...]
#: Features beside the counts.
OF_PRICES = ("price.log", "list.price.rank", "list.price.log_over_mean", "list.price.log_over_least")


class Peer:
    """``names``: its features. ``weights``: one a feature."""

    def __init__(self, night: Night) -> None:
        scope = night.plan.scope
        self._kinds = {kind: scope.numbers(kind) for kind in scope.kinds}
        self._smoothing = scope.smoothing
        brought = {*COLUMNS, "position", EVERYTHING}
        self._families = [
            family
            for family in night.plan.families
            if isinstance(family, Counts) and {column for key in family.chain() for column in key} <= brought
        ]
        self.names = [feature.name for family in self._families for feature in family.features(scope)]
        self.names += OF_PRICES
        self.weights = np.random.default_rng(5).normal(size=len(self.names)) / 10.0
        self._blocks: dict[Key, CountRows] = {}
        self._rows: dict[Key, dict[tuple[str | int, ...], FloatArray]] = {}
        for key in dict.fromkeys(key for family in self._families for key in family.chain()):
            self._load(key, night)

    def _load(self, key: Key, night: Night) -> None:
        """What is counted of a key, by its texts."""
        block, part = next(one for one in night.plan.rows_of(key) if isinstance(one[0], CountRows))
        assert isinstance(block, CountRows)
        self._blocks[key] = block
        known, table = night.keys(key), night.tables[table_name(key)]
        slots = table.rows.find(np.array(list(known.values()), dtype=np.uint64))
        rows = table.values[slots][:, part]
        self._rows[key] = {text: row for text, row, slot in zip(known, rows, slots, strict=True) if slot >= 0}

    def features(self, request: Mapping[str, Any]) -> FloatArray:
        """(items, features) of a request."""
        items, now = request["items"], float(request["event_time"])
        columns: dict[str, Sequence[Any]] = {
            name: [item[name] for item in items] for name in (*COLUMNS[1:], "position")
        }
        columns["user_id"] = [request["user_id"]] * len(items)
        counts = {key: self._read(key, columns, len(items), now) for key in self._rows}
        out = [column for family in self._families for column in self._counts(family, counts)]
        price = np.array([item["price"] for item in items])
        order = np.sort(price)
        smaller, up_to = np.searchsorted(order, price), np.searchsorted(order, price, side="right")
        out += [
            np.log1p(price) / 10.0,
            (smaller + 0.5 * (up_to - smaller)) / len(price),
            np.log((1.0 + price) / (1.0 + price.mean())),
            np.log((1.0 + price) / (1.0 + price.min())),
        ]
        return np.stack(out, axis=1)

    def _read(self, key: Key, columns: Mapping[str, Sequence[Any]], n: int, now: float) -> FloatArray:
        """Decayed counts, (items, cells)."""
        cells = self._blocks[key].cells
        none, table = np.zeros(HEAD + len(cells)), self._rows[key]
        if key == (EVERYTHING,):
            rows = np.array([table.get((), none)] * n)
        else:
            rows = np.array([table.get(text, none) for text in zip(*(columns[c] for c in key), strict=True)])
        ago = rows[:, :1] - np.maximum(rows[:, 1:2], now)
        counts: FloatArray = rows[:, HEAD:] * 2.0 ** (ago / (1000.0 * np.array([h for _, h in cells])))
        return counts

    def _counts(self, family: Counts, counts: Mapping[Key, FloatArray]) -> list[FloatArray]:
        out = []
        for rate in family.rates:
            above, below = rate.split("/")
            for half_life in family.half_lives_s:
                base = found = np.full(len(counts[EVERYTHING,]), BASE_RATE)
                for key in reversed(family.chain()):
                    weight = BASE_WEIGHT if key == (EVERYTHING,) else self._smoothing
                    read = counts[key]
                    up, down = (read[:, self._cell(key, kind, half_life)] for kind in (above, below))
                    base, found = found, (up + weight * found) / (down + weight)
                out.append(np.log(found / base))
        for kind in family.volumes:
            for half_life in family.half_lives_s:
                read = counts[family.keys][:, self._cell(family.keys, kind, half_life)]
                out.append(np.log1p(read) / VOLUME_SCALE)
        for kind in family.velocities:
            speeds = [
                counts[family.keys][:, self._cell(family.keys, kind, h)] * np.log(2.0) / h + FLOOR
                for h in family.half_lives_s
            ]
            out += [np.log(short / long) for short, long in pairwise(speeds)]
        return out

    def _cell(self, key: Key, kind: str, half_life: float) -> int:
        for number, (quantity, own) in enumerate(self._blocks[key].cells):
            if (quantity.kinds, quantity.weight, own) == (self._kinds[kind], "", float(half_life)):
                return number
        raise KeyError(f"{kind} of {key} at {half_life} s is not counted")

    async def score(self, request: web.Request) -> web.Response:
        """POST /score."""
        scores = self.features(await request.json()) @ self.weights
        return web.json_response({"scores": (1.0 / (1.0 + np.exp(-scores))).tolist()})


def app(night: Night) -> web.Application:
    """The peer's server."""
    made = web.Application(client_max_size=8 * 1024 * 1024)
    made.add_routes([web.post("/score", Peer(night).score)])
    return made
