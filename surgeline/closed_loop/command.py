"""``surgeline closed-loop``: a simulated night whose slates the engine ranks while it learns from them.

Trunks are trained on the evening before, ranked by the logging policy of the same world. Then the same night
is ranked by each arm: the frozen trunk, the live scorer that a worker updates every second, and the oracle.
One table says what each won, and what it lost against the best slates of the same candidates.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from clients.connection import forget_security
from contracts.errors import SurgelineError
from contracts.scenario import home
from contracts.weights import LearnerMetrics
from models.deep.manifest import Training

if TYPE_CHECKING:
    from replay.simulate import Double11Config
    from replay.simulate.policy import Objective
    from surgeline.closed_loop.arm import Freshness, Outcome
    from surgeline.closed_loop.plan import Plan

#: The loop begins at this part of the night; 00:00 is its middle.
EVENING_SHARE = 0.4
#: Wall-clock seconds between two rankings.
CELL_WALL_S = 0.5
INTERRUPTED = 130
NOTHING = LearnerMetrics(samples=0, positives=0, auc=None, log_loss=None, pcoc=None)


class ArmsError(SurgelineError, ValueError):
    """An arm that does not exist; the message lists those that do."""


class Report(msgspec.Struct, kw_only=True):
    """What ``--json`` writes; ``trunks`` by name, none where no arm is scored by one."""

    minutes: float
    rate: float
    seed: int
    speed: float
    objective: str
    trunks: dict[str, Training]
    arms: list[Any]


def say(text: str = "") -> None:
    """One line to the person in front."""
    click.echo(text, err=True)


@click.command()
@click.option(
    "--minutes", type=click.FloatRange(0.5, 480), default=4.0, show_default=True, help="Of the night."
)
@click.option(
    "--rate", type=click.FloatRange(10, 5000), default=300.0, show_default=True, help="Impressions/s."
)
@click.option("--seed", type=click.IntRange(min=0), default=7, show_default=True)
@click.option("--arms", default="frozen,live,oracle", show_default=True, help="Also: unfed, random, logged.")
@click.option(
    "--objective",
    type=click.Choice(("clicks", "revenue")),
    default="clicks",
    show_default=True,
    help="What arms rank for: click probability, or that times price.",
)
@click.option(
    "--speed",
    type=click.FloatRange(0.1, 20),
    default=1.0,
    show_default=True,
    help="Nights pass N times faster.",
)
@click.option("--items", type=click.IntRange(24, 1_000_000), default=1_000, show_default=True)
@click.option("--users", type=click.IntRange(10, 10_000_000), default=10_000, show_default=True)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Also as JSON.")
def command(
    minutes: float,
    rate: float,
    seed: int,
    arms: str,
    objective: Objective,
    speed: float,
    items: int,
    users: int,
    json_file: Path | None,
) -> None:
    """A simulated night, ranked by the frozen model, by the live one, and by an oracle."""
    from surgeline.closed_loop.plan import SCORED
    from surgeline.local.broker import Broker, free_port

    names = parse_arms(arms)
    if json_file is not None and not json_file.absolute().parent.is_dir():
        # Now, and not when the night is over.
        raise click.UsageError(f"--json {json_file}: there is no folder {json_file.parent}")
    folder = (home() / "closed-loop").absolute()
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    config = night(minutes, rate, seed, speed, items, users)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with ExitStack() as stack:
            bootstrap = os.environ.get("KAFKA_BOOTSTRAP", "")
            if not bootstrap and any(name in SCORED for name in names):
                forget_security()
                bootstrap = stack.enter_context(Broker("embedded", free_port(), folder / "broker")).bootstrap
            report = run(names, config, speed, folder, bootstrap, objective)
    except KeyboardInterrupt:
        say("Stopped: worker, serving and broker have ended.")
        sys.exit(INTERRUPTED)
    show(report.arms)
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))


def _interrupt(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def parse_arms(text: str) -> list[str]:
    """The names in ``text``, comma-separated; scored and simulated ones before the one that takes time.

    >>> parse_arms("live, oracle,frozen")
    ['oracle', 'frozen', 'live']
    """
    from surgeline.closed_loop.plan import NAMES

    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        raise ArmsError(
            f"--arms has {', '.join(map(repr, unknown)) or 'none'}; allowed are {', '.join(NAMES)}"
        )
    order = ("random", "logged", "oracle", "frozen", "unfed", "live")
    return [name for name in order if name in names]


def night(minutes: float, rate: float, seed: int, speed: float, items: int, users: int) -> Double11Config:
    """The night: a catalogue in proportion to a laptop's traffic, a jump that it can take in real time."""
    from replay.simulate import Double11Config

    return Double11Config(
        minutes=minutes,
        rate=rate,
        seed=seed,
        items=items,
        users=users,
        categories=max(2, items // 20),
        shops=max(2, items // 5),
        jump_ratio=8.0,
        cell_s=min(1.0, CELL_WALL_S * speed),
        regret=True,
    )


def run(
    names: Sequence[str],
    config: Double11Config,
    speed: float,
    folder: Path,
    bootstrap: str,
    objective: Objective = "clicks",
) -> Report:
    """Train on the evening what the arms are scored by, then run every arm."""
    from surgeline.closed_loop.evening import train_on_evening
    from surgeline.closed_loop.plan import SCORED, Plan

    # On a cell's edge: the evening and the loop share no block.
    from_s = round(EVENING_SHARE * config.span_s / config.cell) * config.cell
    plan = Plan(config, from_s, speed, folder, bootstrap, secrets.token_hex(3), objective)
    trunks = train_on_evening(plan, sorted({SCORED[name] for name in names if name in SCORED}))
    for name, training in trunks.items():
        say(
            f"{name}: trained on {training.rows:,} impressions of the evening, AUC "
            f"{_or_dash(training.validation_auc, '.3f')} on its end"
        )
    outcomes = asyncio.run(run_arms(names, plan))
    compare(outcomes)
    return Report(
        minutes=config.minutes,
        rate=config.rate,
        seed=config.seed,
        speed=speed,
        objective=objective,
        trunks=trunks,
        arms=outcomes,
    )


async def run_arms(names: Sequence[str], plan: Plan) -> list[Outcome]:
    """One arm after the other; the same requests in each."""
    from surgeline.closed_loop.arm import Arm, ClosedLoopError

    outcomes: list[Outcome] = []
    for name in names:
        wall_s = (plan.config.span_s - plan.from_s) / plan.speed
        say(f"{name}: {f'{wall_s:.0f} s, paced' if name == 'live' else 'at once'} ...")
        outcomes.append(await Arm(name, plan).run())
        say(f"{name}: {outcomes[-1].impressions:,} impressions in {outcomes[-1].seconds:.0f} s")
    if len({outcome.checksum for outcome in outcomes}) > 1:
        raise ClosedLoopError("the arms did not get the same requests: nothing can be compared")
    return outcomes


def compare(outcomes: Sequence[Outcome]) -> None:
    """Fill in what each arm gained on the frozen one, as a share of what the oracle has over it."""
    frozen = next((outcome for outcome in outcomes if outcome.arm == "frozen"), None)
    for outcome in outcomes:
        if frozen is None:
            return
        with contextlib.suppress(ZeroDivisionError):
            outcome.gap_closed = 1.0 - outcome.click_regret / frozen.click_regret
            outcome.revenue_gap_closed = 1.0 - outcome.revenue_regret / frozen.revenue_regret


def show(outcomes: Sequence[Outcome]) -> None:
    """One row an arm."""
    table = Table(title="Closed loop: the same requests and candidates in every arm", title_justify="left")
    for head in (
        "arm",
        "impressions",
        "clicks",
        "CTR",
        "revenue",
        "click regret",
        "per 1000",
        "%",
        "gap closed",
        "revenue regret",
        "per 1000",
        "%",
        "gap closed",
        "AUC",
        "log loss",
        "PCOC",
    ):
        table.add_column(head, justify="left" if head == "arm" else "right")
    for one in outcomes:
        figures = one.predictions or NOTHING
        table.add_row(
            one.arm,
            f"{one.impressions:,}",
            f"{one.clicks:,}",
            f"{one.ctr:.4f}",
            f"{one.revenue:,.0f}",
            f"{one.click_regret:,.0f}",
            f"{one.click_regret_per_1000:.1f}",
            f"{one.click_regret_share:.1%}",
            _or_dash(one.gap_closed, ".1%"),
            f"{one.revenue_regret:,.0f}",
            f"{one.revenue_regret_per_1000:,.0f}",
            f"{one.revenue_regret_share:.1%}",
            _or_dash(one.revenue_gap_closed, ".1%"),
            _or_dash(figures.auc, ".4f"),
            _or_dash(figures.log_loss, ".4f"),
            _or_dash(figures.pcoc, ".3f"),
        )
    Console(width=190).print(table)
    for one in outcomes:
        if one.freshness is not None:
            click.echo(f"{one.arm}: {_served(one.freshness)}")
        for name, learned in (one.learners or {}).items():
            click.echo(f"  {name:<14} {_judged(learned)}  (each sample predicted before it was learned)")


def _served(fresh: Freshness) -> str:
    return (
        f"versions {fresh.first_version} to {fresh.last_version} served ({fresh.versions}), weights "
        f"{_or_dash(fresh.age_p50_ms, '.0f')} ms old (median); a call of the scorer takes "
        f"{fresh.call_p50_ms:.0f} ms (p99 {fresh.call_p99_ms:.0f}), {fresh.items_per_s:,.0f} items/s; "
        f"behind by at most {fresh.behind_s:.2f} s"
    )


def _judged(figures: LearnerMetrics) -> str:
    return (
        f"AUC {_or_dash(figures.auc, '.4f')}  log loss {_or_dash(figures.log_loss, '.4f')}  "
        f"PCOC {_or_dash(figures.pcoc, '.3f')}"
    )


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
