"""``surgeline demo``: a flash sale on this machine, from nothing to learned weights in serving.

A broker, a worker, serving and the live page as processes of their own; a recorded log (the last three days
of the Open Bandit Data) and then a simulated midnight through Kafka. The trunk is trained on what came
before both: the log's first four days and the simulated evening.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import click

from clients.connection import forget_security
from clients.launch import Child
from contracts.errors import SurgelineError
from contracts.events import ACTIONS
from contracts.scenario import home
from surgeline.local.broker import Broker, free_port
from surgeline.local.services import environment, fetch, serving_argv, worker_argv

SCENARIO = """\
# The demo's scenario: short windows, so that a minute shows what an hour would.
name = "demo"
trunk = {trunk}

[times]
label_window_s = 1.5
lateness_s = 0.3
join_limit_s = 120.0
"""
OBD_TRAINED_DAYS = 4
DAY_MS = 86_400_000
#: Event time of the simulated night, and how much of it is the evening that the trunk is trained on.
NIGHT_MINUTES = 8.0
EVENING_SHARE = 0.44
NIGHT_RATE = 300.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class DemoError(SurgelineError, RuntimeError):
    """The demo cannot go on; the message says which part and where its log is."""


class _Interrupted(Exception):  # noqa: N818 - not a fault
    """Ctrl-C or SIGTERM."""


@dataclass
class Place:
    """Where the demo's processes listen and write."""

    folder: Path
    bootstrap: str
    live_port: int
    serving_port: int

    @property
    def live(self) -> str:
        return f"http://127.0.0.1:{self.live_port}/live"

    @property
    def serving(self) -> str:
        return f"http://127.0.0.1:{self.serving_port}"


def say(text: str = "") -> None:
    """One line to the person in front."""
    click.echo(text)


@click.command()
@click.option("--obd-seconds", type=click.FloatRange(5, 600), default=20.0, show_default=True)
@click.option("--burst-seconds", type=click.FloatRange(10, 600), default=60.0, show_default=True)
@click.option(
    "--stay/--no-stay",
    default=None,
    help="Keep everything running at the end until Ctrl-C.  [default: at a terminal]",
)
def command(obd_seconds: float, burst_seconds: float, stay: bool | None) -> None:
    """A flash sale on this machine, start to end."""
    stay = sys.stdout.isatty() and sys.stdin.isatty() if stay is None else stay
    started = time.monotonic()
    with _interruptible(), ExitStack() as stack:
        try:
            place = prepare(stack)
            run(place, stack, obd_seconds, burst_seconds, started)
            if stay:
                say(f"\nEverything stays up. Open {place.live} - Ctrl-C ends it.")
                while True:
                    signal.pause() if hasattr(signal, "pause") else time.sleep(1)
        except _Interrupted:
            _ignore_interrupts()  # also where the player took the signal
            say("\nStopping: worker, serving and broker end now.")
        stack.close()
        say("Stopped cleanly.")


def prepare(stack: ExitStack) -> Place:
    """A fresh folder and a broker: ``KAFKA_BOOTSTRAP``'s where it is set, else the embedded one."""
    folder = home() / "demo"
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    bootstrap = os.environ.get("KAFKA_BOOTSTRAP")
    if bootstrap:
        say(f"Broker: {bootstrap} (KAFKA_BOOTSTRAP)")
    else:
        forget_security()
        broker = stack.enter_context(Broker("embedded", free_port(), folder / "broker"))
        bootstrap = broker.bootstrap
        say(f"Broker: embedded, on {bootstrap}")
    return Place(folder.absolute(), bootstrap, free_port(), free_port())


def run(place: Place, stack: ExitStack, obd_seconds: float, burst_seconds: float, started: float) -> None:
    """Train, start worker and serving, replay both logs, and say what was learned."""
    recorded, burst = make_logs(place.folder)
    start_processes(place, stack)
    say(f"\n  Live page:  {place.live}\n  Scores:     {place.serving}/score (POST)\n")
    request = example_request(burst)
    before = score(place, request)

    say(f"1. A recorded log: Open Bandit Data, its last three days in {obd_seconds:.0f} seconds")
    sent = play(place, recorded, obd_seconds)
    say(f"   Learning since {time.monotonic() - started:.0f} s after the start.")
    say(f"2. A simulated midnight of Double 11 in {burst_seconds:.0f} seconds")
    more = play(place, burst, burst_seconds)
    total = {name: sent.get(name, 0) + count for name, count in more.items()}
    view = wait_until_learned(place, total["impressions"])
    summarise(place, total, view, before, score(place, request), request)


def make_logs(folder: Path) -> tuple[Path, Path]:
    """Logs to replay, and the trunk, trained on what came before them. Returns (recorded, burst)."""
    import polars as pl

    from models.deep.fitted import Options
    from replay.open_log import open_log
    from replay.simulate.config import Double11Config
    from replay.simulate.generate import Double11
    from surgeline.train import train_on_frames

    begun = time.monotonic()
    obd = pl.concat(list(open_log("obd").chunks()))
    split = int(obd["event_time"][0]) + OBD_TRAINED_DAYS * DAY_MS
    settings = Double11Config(minutes=NIGHT_MINUTES, rate=NIGHT_RATE, seed=11)
    night = pl.concat([log for log, _ in Double11(settings).frames()])
    midnight = int(night["event_time"][0] + EVENING_SHARE * NIGHT_MINUTES * 60_000)
    before = [obd.filter(pl.col("event_time") < split), night.filter(pl.col("event_time") < midnight)]
    paths = folder / "recorded.parquet", folder / "burst.parquet"
    obd.filter(pl.col("event_time") >= split).write_parquet(paths[0])
    night.filter(pl.col("event_time") >= midnight).write_parquet(paths[1])
    say(f"Logs: {len(obd):,} recorded events, {len(night):,} simulated ({time.monotonic() - begun:.0f} s)")

    begun = time.monotonic()
    options = Options(hidden_size=32, epochs=6)
    report = train_on_frames(before, folder / "trunk", "what came before", options=options)
    say(
        f"Trunk: trained on {report.training.rows:,} impressions from before the replay in "
        f"{time.monotonic() - begun:.0f} s, then frozen"
    )
    (folder / "scenario.toml").write_text(
        SCENARIO.format(trunk=json.dumps(str((folder / "trunk").absolute()))), encoding="utf-8"
    )
    return paths


def start_processes(place: Place, stack: ExitStack) -> None:
    """The worker as ``faust -A stream.app worker``, and serving; returns when both are ready."""
    env = environment(place.folder, place.folder / "scenario.toml", place.bootstrap)
    worker = worker_argv("--web-port", str(place.live_port))
    children = {
        "worker": Child(worker, place.folder / "worker.log", env),
        "serving": Child(serving_argv(place.serving_port), place.folder / "serving.log", env),
    }
    for child in children.values():
        stack.callback(child.stop)
    urls = {"worker": f"{place.live}/data", "serving": f"{place.serving}/ready"}
    deadline = time.monotonic() + 60
    while urls:
        for name, url in list(urls.items()):
            status = children[name].poll()
            if status is not None:
                raise DemoError(
                    f"the {name} ended with status {status}: {children[name].last_line()} "
                    f"(log: {children[name].log})"
                )
            if fetch(url) is not None:
                del urls[name]
        if time.monotonic() > deadline:
            raise DemoError(f"{' and '.join(urls)} did not come up in a minute (logs in {place.folder})")
        time.sleep(0.2)
    say(f"Worker and serving are up (logs in {place.folder})")


def play(place: Place, path: Path, seconds: float) -> dict[str, int]:
    """Replay a log in about ``seconds``, shifted to now. Returns counts by kind."""
    from contracts.scenario import load_scenario
    from replay.display import Display
    from replay.open_log import open_log
    from replay.player import play as replay

    log = open_log(str(path))
    info = log.info()
    span_s = ((info.last_ms or 0) - (info.first_ms or 0)) / 1000.0
    speed = max(span_s / seconds, 0.01)
    with Display(path.stem, info, None) as display:
        report = replay(
            log,
            load_scenario(place.folder / "scenario.toml"),
            place.bootstrap,
            f"{speed:.4f}x",
            time="now",
            on_progress=display.update,
        )
    if report.interrupted:
        raise _Interrupted
    # A replay ends by closing its labels, ahead of the clock: what another one sends until then is late.
    time.sleep(max(0.0, (report.watermark_ms or 0) / 1000.0 - time.time()))
    actions = ", ".join(f"{count:,} {name}" for name, count in sorted(report.by_action.items()))
    say(f"   sent {report.impressions:,} impressions; {actions} ({report.rate:,.0f} events/s)")
    return {"impressions": report.impressions, "actions": report.actions}


def wait_until_learned(place: Place, impressions: int) -> dict[str, Any]:
    """The live view once every impression was joined and its sample learned."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        view: dict[str, Any] = fetch(f"{place.live}/data?since={2**62}") or {}
        totals = view.get("totals", {})
        if totals.get("impressions", 0) >= impressions and totals["samples"] >= impressions:
            time.sleep(1.5)  # one more tick: the weights that hold all of it are then in serving
            return fetch(f"{place.live}/data?since={2**62}") or view
        time.sleep(0.3)
    raise DemoError(f"the worker did not get through the events in time (log: {place.folder}/worker.log)")


def summarise(
    place: Place, sent: dict[str, int], view: dict[str, Any], before: Any, after: Any, request: Any
) -> None:
    """What happened, in words."""
    totals = view["totals"]
    actions = sum(totals[name] for name in ACTIONS)
    say("\nWhat happened")
    say(f"  events in        {sent['impressions']:,} impressions and {sent['actions']:,} actions")
    say(
        f"  joined           {actions:,} actions to their impressions "
        f"({totals['orphans_waiting']:,} wait, {totals['orphans_expired']:,} came too late)"
    )
    say(f"  learned from     {totals['samples']:,} samples, {totals['positives']:,} of them clicked in time")
    say(f"  weights          {after['stamp']['version']:,} versions, about one a second, served as they came")
    say("\n  learner           AUC     log loss   predicted/observed   (each predicted before it learned)")
    ranked = sorted(view["metrics"].items(), key=lambda item: item[1]["log_loss"] or 9.0)
    for name, figures in ranked:
        mark = "  <- published" if name == "last_layer" else ""
        auc, pcoc = (f"{figures[key]:.3f}" if figures[key] is not None else "-" for key in ("auc", "pcoc"))
        say(f"  {name:<16}  {auc:<6}  {figures['log_loss']:.4f}     {pcoc}{mark}")
    hot = ", ".join(item["item"] for item in view["hot_items"][:5])
    say(f"\n  hot now          {hot}")
    say("  same request     " + json.dumps(request["items"][0]))
    for name, answer in (("before", before), ("after", after)):
        say(f"    {name:<7} version {answer['stamp']['version']:>4}   p(click) = {answer['scores'][0]:.4f}")


def example_request(burst: Path) -> dict[str, Any]:
    """A request for the item that the burst shows most."""
    import polars as pl

    shown = pl.read_parquet(burst).filter(pl.col("event") == "impression")
    top = shown.group_by("item_id", "category_id", "shop_id").len().sort("len", "item_id")[-1]
    row = shown.filter(pl.col("item_id") == top["item_id"][0]).row(0, named=True)
    item = {name: row[name] for name in ("item_id", "category_id", "shop_id", "position", "price")}
    return {"user_id": row["user_id"], "items": [item]}


def score(place: Place, request: dict[str, Any]) -> Any:
    """Ask serving for scores."""
    answer = fetch(f"{place.serving}/score", json.dumps(request).encode())
    if answer is None:
        raise DemoError(f"serving does not answer (log: {place.folder}/serving.log)")
    return answer


def _ignore_interrupts() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM raise ``_Interrupted`` in the main thread, once; cleaning up is not interrupted."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        _ignore_interrupts()
        raise _Interrupted

    kept = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
