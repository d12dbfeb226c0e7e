"""``surgeline train``: make a trunk from any recorded log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click
import msgspec
import polars as pl

from contracts.scenario import Scenario, home
from features.load import load_declared
from models.deep.fitted import Options
from models.deep.load import kinds, load_trunk
from models.deep.manifest import TrunkError
from models.train import TrainError, TrainReport, train_from_samples
from replay.log import RecordedLog
from replay.open_log import open_log
from surgeline.times import parse_time, stamp
from surgeline.training_pass import collect


def train_on(
    log: RecordedLog,
    out: Path,
    *,
    scenario: Scenario | None = None,
    kind: str = "network",
    hidden: int = 0,
    epochs: int = 0,
    seed: int = 0,
    until: int | None = None,
) -> TrainReport:
    """Run the engine over what ``log`` has before ``until`` (ms; None: all), train on what it saw.

    Features are those of the scenario (None: of the defaults), each as of its impression, and a click counts
    within the scenario's label window. Raises ``TrainError``, which names the log.
    """
    return train_on_frames(
        before(log, until),
        out,
        log.name,
        scenario=scenario,
        kind=kind,
        options=Options(hidden_size=hidden, epochs=epochs, seed=seed),
        where="" if until is None else f" before {stamp(until)}",
        why=lambda: refused(log),
    )


def train_on_frames(
    frames: Iterable[pl.DataFrame],
    out: Path,
    name: str,
    *,
    scenario: Scenario | None = None,
    kind: str = "network",
    options: Options | None = None,
    where: str = "",
    why: Callable[[], str] = str,
) -> TrainReport:
    """``train_on`` for canonical frames in event-time order, of a log called ``name``.

    ``where`` and ``why``: for an error, which part of the log that is, and what was refused of it.
    """
    scenario = scenario or Scenario()
    samples, found = collect(frames, scenario)
    if not len(samples):
        reasons = [text for text in (why(), found.refused_because) if text]
        raise TrainError(f"{name} has no impressions{where}{f': {reasons[0]}' if reasons else ''}")
    report = train_from_samples(
        samples,
        out,
        kind,
        options or Options(),
        log=name,
        label_window_s=scenario.times.label_window_s,
    )
    return msgspec.structs.replace(report, late_actions=found.actions_after_label)


def refused(log: RecordedLog) -> str:
    """What the latest pass over ``log`` refused or left out, in words; empty where that is nothing."""
    tally = getattr(log, "tally", None)
    return tally.text() if tally is not None else ""


def before(log: RecordedLog, until: int | None) -> Iterator[pl.DataFrame]:
    """Frames of what ``log`` has before ``until`` (ms); None: all."""
    for frame in log.chunks():
        times = frame["event_time"]
        cut = frame.height if until is None else int(times.search_sorted(until, side="left"))
        if cut:
            yield frame.head(cut)
        if cut < frame.height:
            return


def holds_trunk(folder: Path) -> bool:
    """Whether ``folder`` has a trunk that loads; a half-written one does not count.

    Workers and serving agree on a trunk by its hash, so that a job which runs at every start must not
    replace one that is good.
    """
    try:
        load_trunk(folder)
    except TrunkError:
        return False
    return True


@click.command()
@click.argument("log")
@click.option(
    "--scenario",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="Whose features and times the trunk is trained for.  [default: SURGELINE_SCENARIO]",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Folder of the trunk.  [default: trunk under SURGELINE_HOME]",
)
@click.option(
    "--mapping",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="TOML column mapping, for any other CSV, JSONL or Parquet table.",
)
@click.option(
    "--trunk",
    "kind",
    type=click.Choice(kinds()),
    default="network",
    show_default=True,
    help="What is trained: a small neural network, or boosted trees.",
)
@click.option(
    "--hidden", type=click.IntRange(min=0), default=0, help="Units of the last hidden layer; 0: its kind's."
)
@click.option(
    "--epochs",
    type=click.IntRange(min=0),
    default=0,
    help="Passes over the log, or rounds of trees, at most; it stops early. 0: its kind's.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--until", metavar="TIME", help="Read only what is older (ms or ISO).")
@click.option("--keep", is_flag=True, help="Leave a trunk that OUT already holds, and train nothing.")
def command(
    log: str,
    scenario: Path | None,
    out: Path | None,
    mapping: Path | None,
    kind: str,
    hidden: int,
    epochs: int,
    seed: int,
    until: str | None,
    keep: bool,
) -> None:
    """Train a trunk from LOG: a file, a known log's name, or NAME:PATH.

    The engine's own pass over the log gives what it is trained on: features as of each impression, and
    labels by the scenario's window.
    """
    folder = out if out is not None else home() / "trunk"
    if keep and holds_trunk(folder):
        click.echo(f"{folder} holds a trunk: kept")
        return
    opened = open_log(log, mapping)
    report = train_on(
        opened,
        folder,
        scenario=load_declared(scenario),
        kind=kind,
        hidden=hidden,
        epochs=epochs,
        seed=seed,
        until=None if until is None else parse_time(until),
    )
    click.echo(report.describe())
    if left := refused(opened):
        click.echo(left)
