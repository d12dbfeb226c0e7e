"""One arm of a closed loop: a simulated night ranked by one policy, and what came of it.

Every arm has the same requests and candidates, and the same random numbers decide over the same places of
its slates; what is shown there is the policy's. A learning arm has topics, a worker, a state and a scorer
of its own, and so learns from nothing but its own traffic. The latent truth stays in this process: it is
what regret is counted with.
"""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from clients.connection import connection
from clients.launch import Child
from contracts.errors import SurgelineError
from contracts.scenario import load_scenario
from contracts.weights import LearnerMetrics
from models.online.metrics import ProgressiveMetrics
from replay.player import prepare
from replay.produce import Sender, partitions_of
from replay.records import to_records
from replay.simulate import Double11, Regret, Requests
from replay.simulate.live import LiveRank, ScorerClient, Watched
from replay.simulate.policy import make_rank
from surgeline.closed_loop.plan import SCENARIO, SCORED, SETTINGS, Plan
from surgeline.local.broker import free_port
from surgeline.local.services import environment, fetch, serving_argv, worker_argv

#: Clicks later than this after the last impressions are not seen: those do not count for predictions.
SETTLE_S = 10.0
START_S = 90.0


class ClosedLoopError(SurgelineError, RuntimeError):
    """The loop cannot go on; the message says which part, and where its log is."""


class Freshness(msgspec.Struct, kw_only=True):
    """What a scorer served with. Ages and call durations in ms; ``behind_s``: the loop's worst delay."""

    versions: int
    first_version: int
    last_version: int
    age_p50_ms: float | None
    call_p50_ms: float
    call_p99_ms: float
    items_per_s: float
    behind_s: float


class Outcome(msgspec.Struct, kw_only=True):
    """One arm. Expected clicks and revenue are the truth's for what was shown and for the best slates of
    the same candidates; ``gap_closed`` is the share of the frozen arm's click regret that is gone."""

    arm: str
    requests: int
    checksum: int
    impressions: int
    clicks: int
    ctr: float
    revenue: float
    expected_clicks: float
    best_clicks: float
    click_regret: float
    click_regret_per_1000: float
    click_regret_share: float
    expected_revenue: float
    best_revenue: float
    revenue_regret: float
    revenue_regret_per_1000: float
    revenue_regret_share: float
    seconds: float
    predictions: LearnerMetrics | None = None
    freshness: Freshness | None = None
    learners: dict[str, LearnerMetrics] | None = None
    gap_closed: float | None = None
    revenue_gap_closed: float | None = None


class Clock:
    """Event time as it is sent: the night pressed together by ``speed``, beginning now."""

    def __init__(self, plan: Plan, ahead_s: float = 0.0) -> None:
        self._plan = plan
        self._origin_ms = round((time.time() + ahead_s) * 1000)
        self._begin = time.monotonic() + ahead_s
        self.behind_s = 0.0

    def of(self, t: np.ndarray) -> np.ndarray:
        """ms UTC of seconds after the night's start."""
        after_ms = (np.asarray(t) - self._plan.from_s) * 1000.0 / self._plan.speed
        return self._origin_ms + np.floor(after_ms).astype(np.int64)

    def left_s(self, t: float) -> float:
        """Wall-clock seconds until ``t``; how far it is behind is remembered."""
        left = self._begin + (t - self._plan.from_s) / self._plan.speed - time.monotonic()
        self.behind_s = max(self.behind_s, -left)
        return left


class Ledger:
    """What was shown and what users did, block by block."""

    def __init__(self) -> None:
        self.shown = 0
        self.revenue = 0.0
        self._clicked: list[np.ndarray] = []
        self._times: list[np.ndarray] = []
        self._truth: list[np.ndarray] = []

    def add(self, log: pl.DataFrame, truth: pl.DataFrame) -> None:
        """Count one block."""
        shown = log.filter(pl.col("event") == "impression")
        self.shown += shown.height
        self._times.append(shown["event_time"].to_numpy())
        self._truth.append(truth["p_click"].to_numpy().astype(np.float64))
        serial = pl.col("impression_id").str.split("-").list.last().cast(pl.Int64)
        clicks = log.filter(pl.col("action") == "click").select(serial)["impression_id"]
        self._clicked.append(clicks.to_numpy())
        for kind, sign in (("purchase", 1.0), ("refund", -1.0)):
            self.revenue += sign * float(log.filter(pl.col("action") == kind)["value"].to_numpy().sum())

    @property
    def clicks(self) -> int:
        """Clicks so far."""
        return sum(part.size for part in self._clicked)

    def truth(self) -> np.ndarray:
        """True click probability of each impression, float64 (n,)."""
        return np.concatenate(self._truth)

    def judge(self, predicted: np.ndarray) -> LearnerMetrics:
        """AUC, log loss and PCOC of predictions (n,) for the impressions whose clicks had time to come."""
        if predicted.size != self.shown:
            raise ClosedLoopError(f"{predicted.size} predictions for {self.shown} impressions")
        label = np.zeros(self.shown)
        label[np.concatenate(self._clicked)] = 1.0
        times = np.concatenate(self._times)
        settled = times <= times.max() - SETTLE_S * 1000
        metrics = ProgressiveMetrics()
        metrics.update(predicted[settled], label[settled])
        return metrics.summary()


class Arm:
    """Runs one policy through the night; ``stop`` ends it between two blocks."""

    def __init__(self, name: str, plan: Plan) -> None:
        self.name = name
        self.plan = plan
        self.stopping = threading.Event()
        self._ledger = Ledger()
        self._children: dict[str, Child] = {}
        self._worker_url = self._serving_url = ""

    async def run(self) -> Outcome:
        """The whole night. Raises ``ClosedLoopError``, ``LiveScorerError`` or ``BrokerError``."""
        began = time.monotonic()
        with ExitStack() as stack:
            stack.callback(self.stopping.set)
            if self.name in SCORED:
                await self._start(stack)
            clock = Clock(self.plan, ahead_s=0.5)
            client = ScorerClient(self._serving_url) if self.name in SCORED else None
            live = LiveRank(client, clock.of, self.plan.objective) if client else None
            watched = self._rank(live, clock)
            sim = Double11(self.plan.config, rank=watched)
            if live is not None:
                live.bind(sim)
            self._sim = sim
            if self.name == "live":
                await self._loop(sim, clock)
            else:
                await asyncio.to_thread(self._at_once, sim)
            outcome = self._outcome(sim.regret, watched, time.monotonic() - began)
            if live is not None and client is not None:
                outcome.predictions = self._ledger.judge(np.concatenate(live.predicted))
                outcome.freshness = _freshness(client, clock.behind_s if self.name == "live" else 0.0)
                client.close()
            elif self.name == "oracle":
                outcome.predictions = self._ledger.judge(self._ledger.truth())
            if self.name == "live":
                outcome.learners = await self._learned()
        return outcome

    def _rank(self, live: LiveRank | None, clock: Clock) -> Watched:
        if live is not None:
            return Watched(live, self._paced(clock) if self.name == "live" else None)
        noise = np.random.default_rng(np.random.SeedSequence(self.plan.config.seed, spawn_key=(9,)))

        def simulated(requests: Requests) -> np.ndarray:
            return make_rank(self.name, self._sim.world, noise, self.plan.objective)(requests)

        return Watched(simulated)

    def _paced(self, clock: Clock) -> Any:
        """Waits in the night's own thread until a block's cell begins: a scorer knows no more by then."""
        cell = self.plan.config.cell

        def wait(requests: Requests) -> None:
            start = math.floor(float(requests.t.min()) / cell + 1e-9) * cell
            if self.stopping.wait(max(0.0, clock.left_s(start))):
                raise ClosedLoopError("stopped")

        return wait

    def _at_once(self, sim: Double11) -> None:
        for log, truth in sim.frames(self.plan.from_s):
            if self.stopping.is_set():
                raise ClosedLoopError("stopped")
            self._ledger.add(log, truth)

    async def _loop(self, sim: Double11, clock: Clock) -> None:
        """Each block's events go out when its cell is over, and not one earlier."""
        config, frames = self.plan.config, sim.frames(self.plan.from_s)
        scenario = load_scenario(self._scenario)
        topics = scenario.topics
        kafka = connection(scenario.kafka, self.plan.bootstrap)
        async with Sender(kafka, topics.sources) as sender:
            while (made := await asyncio.to_thread(_next, frames)) is not None:
                log, truth = made
                # A night without its worker would go on with old weights, for minutes and for nothing.
                for name in self._children:
                    self._check_alive(name)
                self._ledger.add(log, truth)
                t = (log["event_time"].to_numpy() - config.start_ms) / 1000.0
                await asyncio.sleep(
                    max(0.0, clock.left_s(math.floor(t.min() / config.cell) * config.cell + config.cell))
                )
                sent = log.with_columns(pl.Series("event_time", clock.of(t)))
                await sender.send(to_records(sent), partitions_of(sent["user_id"], sender.partitions))
            await sender.flush()

    def _outcome(self, regret: Regret, watched: Watched, seconds: float) -> Outcome:
        shown, clicks = self._ledger.shown, self._ledger.clicks
        return Outcome(
            arm=self.name,
            requests=watched.requests,
            checksum=watched.checksum,
            impressions=shown,
            clicks=clicks,
            ctr=clicks / max(shown, 1),
            revenue=self._ledger.revenue,
            expected_clicks=regret.clicks,
            best_clicks=regret.best_clicks,
            click_regret=regret.click_regret,
            click_regret_per_1000=1000.0 * regret.click_regret / max(shown, 1),
            click_regret_share=regret.click_regret / max(regret.best_clicks, 1e-9),
            expected_revenue=regret.revenue,
            best_revenue=regret.best_revenue,
            revenue_regret=regret.revenue_regret,
            revenue_regret_per_1000=1000.0 * regret.revenue_regret / max(shown, 1),
            revenue_regret_share=regret.revenue_regret / max(regret.best_revenue, 1e-9),
            seconds=seconds,
        )

    # Processes -----------------------------------------------------------------------------------

    @property
    def _scenario(self) -> Path:
        return self.plan.folder / f"{self.name}.toml"

    async def _start(self, stack: ExitStack) -> None:
        """Serving, and for a learning arm a worker; ready when this returns."""
        trunk = json.dumps(str(self.plan.folder / SCORED[self.name]))
        self._scenario.write_text(
            SCENARIO.format(run=self.plan.name, arm=self.name, trunk=trunk, settings=SETTINGS),
            encoding="utf-8",
        )
        scenario = load_scenario(self._scenario)
        await asyncio.to_thread(prepare, connection(scenario.kafka, self.plan.bootstrap), scenario)
        env = environment(self.plan.folder, self._scenario, self.plan.bootstrap)
        serving, worker = free_port(), free_port()
        self._serving_url = f"http://127.0.0.1:{serving}"
        self._worker_url = f"http://127.0.0.1:{worker}/live/data"
        argv = {"serving": serving_argv(serving)}
        if self.name == "live":
            argv["worker"] = worker_argv("--web-port", str(worker))
        for name, words in argv.items():
            log = self.plan.folder / f"{self.name}-{name}.log"
            child = Child(words, log, env)
            stack.callback(child.stop)
            self._children[name] = child
        urls = {"serving": f"{self._serving_url}/ready", "worker": self._worker_url}
        for name in argv:
            await self._until(name, urls[name], lambda answer: answer is not None)

    async def _until(self, name: str, url: str, good: Any) -> Any:
        deadline = time.monotonic() + START_S
        while True:
            answer = await asyncio.to_thread(fetch, url)
            if answer is not None and good(answer):
                return answer
            self._check_alive(name)
            if time.monotonic() > deadline:
                log = self._children[name].log
                raise ClosedLoopError(f"the {name} of arm {self.name} is not ready ({log})")
            await asyncio.sleep(0.2)

    def _check_alive(self, name: str) -> None:
        child = self._children[name]
        if child.poll() is not None:
            raise ClosedLoopError(f"the {name} of arm {self.name} ended: {child.last_line()} ({child.log})")

    async def _learned(self) -> dict[str, LearnerMetrics]:
        """The worker's own progressive figures, once it joined every impression that was shown."""

        def all_of_it(view: Any) -> bool:
            return bool(view["totals"]["impressions"] >= self._ledger.shown)

        view = await self._until("worker", f"{self._worker_url}?since={2**62}", all_of_it)
        return msgspec.convert(view["metrics"], dict[str, LearnerMetrics])


def _next(frames: Iterator[Any]) -> Any:
    return next(frames, None)


def _freshness(client: ScorerClient, behind_s: float) -> Freshness:
    calls = np.array(client.seconds) * 1000.0
    return Freshness(
        versions=len(client.versions),
        first_version=min(client.versions),
        last_version=max(client.versions),
        age_p50_ms=float(np.median(client.ages_ms)) if client.ages_ms else None,
        call_p50_ms=float(np.median(calls)),
        call_p99_ms=float(np.quantile(calls, 0.99)),
        items_per_s=client.items / max(sum(client.seconds), 1e-9),
        behind_s=behind_s,
    )
