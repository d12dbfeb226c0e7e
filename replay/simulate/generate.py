"""The stream itself: block by block, each with its own random numbers, in constant memory.

The span is cut into cells of event time (during which retrieval and stock badges stand still) and busy
cells into blocks of at most ``BLOCK`` expected impressions. A block's random numbers come from a
`SeedSequence` of (seed, cell, block), so a block does not depend on how earlier ones were read.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from replay.simulate import delays
from replay.simulate.catalog import CHANNELS
from replay.simulate.config import Double11Config
from replay.simulate.curve import ArrivalCurve
from replay.simulate.frames import FrameMaker
from replay.simulate.item_chance import item_click_probability
from replay.simulate.pending import ORDER, Pending, actions, behaviours, in_order
from replay.simulate.policy import Regret, add_regret, make_rank, slates
from replay.simulate.sessions import LEAD_MS, LOOK_BEFORE_S, LOOKS, SEARCH, SEARCH_BEFORE_S, Visits
from replay.simulate.shown import Shown
from replay.simulate.summary import summarise
from replay.simulate.tally import Tally
from replay.simulate.world import Rank, Requests, Response, World

BLOCK = 32_768


@dataclass(frozen=True, slots=True)
class Block:
    """A slice of event time: [``from_ms``, ``until_ms``) after the start, ``expected`` impressions."""

    cell: int
    number: int
    from_ms: int
    until_ms: int
    expected: float


@dataclass(frozen=True, slots=True)
class Arrivals:
    """The requests of a block before anything is retrieved: when (ms after the start) and whose.

    ``streams``: random numbers for what follows in the block (retrieval, ranking, responses, refunds).
    """

    block: Block
    at_ms: np.ndarray
    visits: Visits
    streams: list[np.random.Generator]


class Night(NamedTuple):
    """A whole night in memory: the stream it came from, the log and the truth."""

    sim: Double11
    log: pl.DataFrame
    truth: pl.DataFrame


class Double11:
    """A simulated night.

    ``rank`` replaces the configured policy by an external scorer: it is called once a block with its
    `Requests`, when the block is asked for, and gives scores (R, C).

    >>> sim = Double11(Double11Config(minutes=0.1, rate=100, users=100, items=100))
    >>> log, truth = next(sim.frames())
    >>> truth.height == (log["event"] == "impression").sum()
    True
    """

    def __init__(self, config: Double11Config | None = None, rank: Rank | None = None) -> None:
        self.config = config if config is not None else Double11Config()
        settings = self.config
        self._maker = FrameMaker(
            settings.seed, settings.users, settings.items, settings.categories, settings.shops
        )
        self.curve = ArrivalCurve(settings.span_s, settings.night_h, settings.rate, settings.jump_ratio)
        self.expected_impressions = settings.rate * settings.span_s
        self._after = self.expected_impressions - float(self.curve.expected(settings.midnight_s))
        self._rank = rank
        self._reset()

    def _reset(self) -> None:
        settings = self.config
        self.world = World(settings, self._after)
        self.tally = Tally(settings)
        self.regret = Regret()
        # Twenty cells ahead: most actions of a night at real speed come sooner or much later.
        self.pending = Pending(max(1, round(settings.cell * 20_000)))
        self._serial = 0
        self._request = 0

    # Time ----------------------------------------------------------------------------------------

    def blocks(self) -> Iterator[Block]:
        """The blocks of the stream in order of time; 00:00 always begins one."""
        settings = self.config
        end = round(settings.span_s * 1000)
        midnight = round(settings.midnight_s * 1000)
        cell_ms = max(1, round(settings.cell * 1000))
        left, cell = 0, 0
        while left < end:
            right = min(end, left + cell_ms)
            right = midnight if left < midnight < right else right
            low, high = (float(self.curve.expected(ms / 1000)) for ms in (left, right))
            parts = max(1, math.ceil((high - low) / BLOCK))
            cuts = self.curve.when(np.linspace(low, high, parts + 1)) * 1000
            edges = [left, *np.clip(np.floor(cuts[1:-1]).astype(np.int64), left, right).tolist(), right]
            for number in range(parts):
                begin, until = edges[number], edges[number + 1]
                expected = self.curve.expected(until / 1000) - self.curve.expected(begin / 1000)
                yield Block(cell, number, begin, until, float(expected))
            left, cell = right, cell + 1

    # Frames --------------------------------------------------------------------------------------

    def frames(self, from_s: float = 0.0) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        """(log, truth) frames in order of event time; every call starts the night anew.

        ``from_s`` leaves out the blocks that begin earlier (seconds after the stream's start), and with
        them their actions: the same requests as in the whole night, from then on. One reader at a time: a
        second call takes the world from the first.
        """
        self._reset()
        for arrivals in self._foreseen(b for b in self.blocks() if b.from_ms >= from_s * 1000):
            log, truth = self._block(arrivals)
            if log.height:
                yield log, truth
        self.tally.unseen += len(self.pending)

    def night(self) -> Night:
        """Every frame at once: for notebooks and tests, where the stream is known to be small."""
        logs, truths = zip(*self.frames(), strict=True)
        return Night(self, pl.concat(logs), pl.concat(truths))

    def candidate_frame(self, requests: Requests) -> pl.DataFrame:
        """All that a scorer may know of the candidates: R x C rows, request by request.

        The canonical columns of an impression, without the ids that it would have if it were shown and
        with position 0. Scores for these rows, reshaped to (R, C), are what ``rank`` gives back.
        """
        catalog, (n, width) = self.world.catalog, requests.items.shape
        item, user, t = requests.items.ravel(), requests.user.repeat(width), requests.t.repeat(width)
        zero = np.zeros(item.size, dtype=np.int64)
        context = catalog.user_device[requests.user].astype(np.int64) * len(CHANNELS) + requests.channel
        frame = self._maker.log(
            {
                "event": zero,
                "event_time": self.config.start_ms + np.round(t * 1000).astype(np.int64),
                "impression_id": zero,
                "user_id": user,
                "item_id": item,
                "category_id": catalog.category[item],
                "shop_id": catalog.shop[item],
                "position": zero,
                "price": self.world.prices(item, t),
                "request_id": np.arange(n).repeat(width),
                "context": context.repeat(width),
                "value": zero.astype(np.float64),
                "stock": self.world.units_left(item),
            }
        )
        return frame.drop("event", "impression_id", "request_id", "action", "value", "type", "query")

    def summary(self) -> dict[str, Any]:
        """Figures of what was generated so far, beside the published ones; see `summary.py`."""
        return summarise(self.config, self.tally, self.world, self.regret, self.pending.largest)

    def _foreseen(self, blocks: Iterable[Block]) -> Iterator[Arrivals]:
        """The arrivals of each block, once the behaviours that lead to the lists after it are known."""
        ahead: deque[Arrivals] = deque()
        first_ms = None
        for block in blocks:
            first_ms = block.from_ms if first_ms is None else first_ms
            ahead.append(self._arrive(block))
            self._lead_to(ahead[-1], first_ms)
            while ahead and ahead[0].block.until_ms + LEAD_MS <= block.until_ms:
                yield ahead.popleft()
        yield from ahead

    def _arrive(self, block: Block) -> Arrivals:
        settings = self.config
        seed = np.random.SeedSequence(settings.seed, spawn_key=(1, block.cell, block.number))
        *streams, sessions = (np.random.default_rng(s) for s in seed.spawn(5))
        r_arrive = streams[0]
        mean_slate = (settings.slate_min + settings.slate_max) / 2.0
        n = int(r_arrive.poisson(block.expected / mean_slate))
        low = float(self.curve.expected(block.from_ms / 1000))
        when = self.curve.when(low + block.expected * np.sort(r_arrive.random(n)))
        at_ms = np.clip(np.floor(when * 1000).astype(np.int64), block.from_ms, block.until_ms - 1)
        return Arrivals(block, at_ms, self.world.visits(r_arrive, sessions, at_ms / 1000), streams)

    def _lead_to(self, arrivals: Arrivals, first_ms: int) -> None:
        """Put what people do before their lists into the calendar, from ``first_ms`` on."""
        visits, category = arrivals.visits, self.world.catalog.category
        rng, n = visits.rng, arrivals.at_ms.size

        def before(rows: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
            wait_ms = np.round(rng.uniform(*bounds, n)[rows] * 1000)
            return np.asarray(arrivals.at_ms[rows] - wait_ms.astype(np.int64))

        searched = np.flatnonzero((visits.intent >= 0) & (rng.random(n) < SEARCH))
        user, wanted = visits.user[searched], visits.intent[searched]
        none = np.full(searched.size, -1)
        due = before(searched, SEARCH_BEFORE_S)
        made = [behaviours("search", due, user.astype(np.int64) * LOOKS, user, none, wanted)]
        for k in range(LOOKS):
            rows = np.flatnonzero(visits.looked[:, k] >= 0)
            user, item = visits.user[rows], visits.looked[rows, k]
            serial = user.astype(np.int64) * LOOKS + k
            made.append(behaviours("look", before(rows, LOOK_BEFORE_S), serial, user, item, category[item]))
        every = np.concatenate(made)
        self.pending.push(every[every["due"] >= first_ms])

    def _block(self, arrivals: Arrivals) -> tuple[pl.DataFrame, pl.DataFrame]:
        block = arrivals.block
        _, r_rank, r_respond, r_refund = arrivals.streams
        self.world.advance(block.from_ms / 1000)
        shown = self._show(arrivals, r_rank)
        response = self.world.respond(
            r_respond, shown.user, shown.item, shown.position, shown.t, shown.channel, shown.interest
        )
        self._remember(shown, response)
        done = self._due(block.until_ms, r_refund)
        # What sold out within the block could not be bought from that moment on.
        sold_out = self.world.sold_out(shown.item, shown.t)
        p_purchase = np.where(sold_out, 0.0, response.p_purchase)
        truth = self._truth(shown, response, p_purchase, sold_out)
        self.tally.add(self.world, shown, response, p_purchase, truth, done)
        return self._log(shown, done), self._maker.truth({"impression_id": shown.serial, **truth})

    def _show(self, arrivals: Arrivals, r_rank: np.random.Generator) -> Shown:
        """Requests of the block, their candidates, and what the policy showed."""
        settings, world, at_ms = self.config, self.world, arrivals.at_ms
        n = at_ms.size
        requests = world.candidates(arrivals.streams[0], n, t=at_ms / 1000, visits=arrivals.visits)
        rank = self._rank or make_rank(settings.policy, world, r_rank)
        scores = rank(requests) if n else np.zeros(requests.items.shape)
        order = slates(requests, np.asarray(scores, dtype=np.float64))
        if settings.regret:
            add_regret(self.regret, world, requests, order)
        on = np.arange(settings.candidates) < requests.length[:, None]
        row, position = np.nonzero(on)
        item = np.take_along_axis(requests.items, order, axis=1)[on]
        t_ms = at_ms[row]
        t = t_ms / 1000
        serial = self._serial + np.arange(row.size)
        request = self._request + row
        self._serial += row.size
        self._request += n
        return Shown(
            serial=serial,
            t_ms=t_ms,
            t=t,
            user=requests.user[row],
            item=item,
            position=position,
            channel=requests.channel[row],
            request=request,
            price=world.prices(item, t),
            stock=world.units_left(item),
            interest=np.take_along_axis(requests.interest, order, axis=1)[on],
        )

    def _remember(self, shown: Shown, response: Response) -> None:
        """Put every action that follows into the calendar; what comes after the longest delay is lost."""
        settings = self.config
        click_ms = shown.t_ms + np.maximum(1, np.round(response.click_s * 1000)).astype(np.int64)
        rows = np.flatnonzero(response.clicked)
        zero = np.zeros(rows.size)
        self.pending.push(
            actions("click", click_ms[rows], shown.serial[rows], shown.user[rows], shown.item[rows], zero)
        )
        for kind, (did, wait_s) in response.later.items():
            self.tally.drawn(kind, wait_s)
            kept = wait_s / settings.delay_speed <= settings.max_delay_s
            self.tally.too_late += int((~kept).sum())
            did, wait_s = did[kept], wait_s[kept]
            due = click_ms[did] + np.maximum(1, np.round(wait_s * 1000 / settings.delay_speed)).astype(
                np.int64
            )
            value = shown.price[did] if kind == "purchase" else np.zeros(did.size)
            self.pending.push(actions(kind, due, shown.serial[did], shown.user[did], shown.item[did], value))

    def _due(self, until_ms: int, rng: np.random.Generator) -> np.ndarray:
        """Actions before ``until_ms`` in order; purchases take stock, and may be refunded later."""
        settings, world = self.config, self.world
        due = in_order(self.pending.pop(until_ms))
        on_sale = (due["kind"] == ORDER.index("purchase")) & (due["due"] >= settings.midnight_s * 1000)
        sold = np.ones(due.size, dtype=bool)
        sold[on_sale] = world.sell(due["item"][on_sale], due["due"][on_sale] / 1000)
        self.tally.refused += int((~sold).sum())
        due = due[sold]
        bought = due[due["kind"] == ORDER.index("purchase")]
        back = bought[rng.random(bought.size) < world.true_refund_probability(bought["item"])]
        wait_s = delays.action_delay(rng, "refund", back.size)
        kept = wait_s / settings.delay_speed <= settings.max_delay_s
        self.tally.too_late += int((~kept).sum())
        back, wait_s = back[kept].copy(), wait_s[kept]
        back["kind"] = ORDER.index("refund")
        back["due"] += np.maximum(1, np.round(wait_s * 1000 / settings.delay_speed)).astype(np.int64)
        self.pending.push(back)
        soon = self.pending.pop(until_ms)
        return in_order(np.concatenate([due, soon])) if soon.size else due

    def _truth(
        self, shown: Shown, response: Response, p_purchase: np.ndarray, sold_out: np.ndarray
    ) -> dict[str, np.ndarray]:
        world, catalog = self.world, self.world.catalog
        return {
            "p_click": response.p_click,
            "p_cart": response.p_cart,
            "p_favourite": response.p_favourite,
            "p_purchase": p_purchase,
            "p_refund": world.true_refund_probability(shown.item),
            "p_click_item": item_click_probability(
                world,
                shown.item,
                shown.position,
                shown.t,
                catalog.user_device[shown.user],
                shown.channel,
                shown.interest,
            ),
            "hot": world.hot(shown.item, shown.t),
            "sold_out": sold_out,
            "bot": catalog.bot[shown.user],
            "new_item": catalog.born_s[shown.item] > -np.inf,
            "shifted": catalog.shifted[shown.item] & world.sale(shown.t),
            "intent": shown.interest > 0.0,
        }

    def _log(self, shown: Shown, done: np.ndarray) -> pl.DataFrame:
        catalog = self.world.catalog
        due = np.concatenate([shown.t_ms, done["due"]])
        kind = np.concatenate([np.zeros(shown.t_ms.size, np.int8), done["kind"]])
        order = np.argsort(due * len(ORDER) + kind, kind="stable")
        none = np.full(done.size, -1)
        looked = done["kind"] == ORDER.index("look")
        shop = np.where(looked, catalog.shop[done["item"]], -1)
        zero = np.zeros(done.size)

        def joined(impressions: np.ndarray, others: np.ndarray) -> np.ndarray:
            return np.concatenate([impressions, others])[order]

        context = catalog.user_device[shown.user].astype(np.int64) * len(CHANNELS) + shown.channel
        return self._maker.log(
            {
                "event": kind[order],
                "event_time": self.config.start_ms + due[order],
                "impression_id": joined(shown.serial, done["serial"]),
                "user_id": joined(shown.user, done["user"]),
                "item_id": joined(shown.item, done["item"]),
                "category_id": joined(catalog.category[shown.item], done["category"]),
                "shop_id": joined(catalog.shop[shown.item], shop),
                "position": joined(shown.position, none),
                "price": joined(shown.price, zero),
                "request_id": joined(shown.request, none),
                "context": joined(context, none),
                "value": joined(np.zeros(shown.t_ms.size), done["value"]),
                "stock": joined(shown.stock, none),
            }
        )
