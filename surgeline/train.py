"""``surgeline train``: make a trunk from any recorded log."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import polars as pl

from contracts.scenario import home
from models.deep.load import kinds, load_trunk
from models.deep.manifest import TrunkError
from models.train import TrainError, TrainReport, train_from_log
from replay.files import write_log
from replay.log import RecordedLog
from replay.open_log import open_log
from surgeline.times import parse_time, stamp


def train_on(
    log: RecordedLog,
    out: Path,
    *,
    kind: str = "network",
    hidden: int = 0,
    epochs: int = 0,
    seed: int = 0,
    until: int | None = None,
    label_window_s: float = 0.0,
) -> TrainReport:
    """Export what ``log`` has before ``until`` (ms; None: all) to a temporary canonical file and train on it.

    Going through the adapters means that a row that replay would refuse is not trained on either. Raises
    ``TrainError``, which names the log.
    """
    with tempfile.TemporaryDirectory(prefix="surgeline-train-") as folder:
        # The name of the file is what the trunk's manifest says it was trained on.
        canonical = Path(folder) / f"{Path(log.name).stem or 'log'}.parquet"
        where = "" if until is None else f" before {stamp(until)}"
        if not write_log(_before(log, until), canonical):
            why = refused(log)
            raise TrainError(f"{log.name} has no events{where}{f': {why}' if why else ''}")
        try:
            return train_from_log(
                canonical,
                out,
                kind=kind,
                hidden=hidden,
                epochs=epochs,
                seed=seed,
                until=until,
                label_window_s=label_window_s,
            )
        except TrainError as error:
            # The temporary file is gone when somebody reads this.
            raise TrainError(str(error).replace(str(canonical), f"{log.name}{where}", 1)) from error


def refused(log: RecordedLog) -> str:
    """What the latest pass over ``log`` refused or left out, in words; empty where that is nothing."""
    tally = getattr(log, "tally", None)
    return tally.text() if tally is not None else ""


def _before(log: RecordedLog, until: int | None) -> Iterator[pl.DataFrame]:
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
@click.option(
    "--label-window-s",
    type=click.FloatRange(min=0.0),
    default=0.0,
    show_default=True,
    help="A click later than this does not count; 0 counts all.",
)
@click.option("--keep", is_flag=True, help="Leave a trunk that OUT already holds, and train nothing.")
def command(
    log: str,
    out: Path | None,
    mapping: Path | None,
    kind: str,
    hidden: int,
    epochs: int,
    seed: int,
    until: str | None,
    label_window_s: float,
    keep: bool,
) -> None:
    """Train a trunk from LOG: a file, a known log's name, or NAME:PATH."""
    folder = out if out is not None else home() / "trunk"
    if keep and holds_trunk(folder):
        click.echo(f"{folder} holds a trunk: kept")
        return
    opened = open_log(log, mapping)
    report = train_on(
        opened,
        folder,
        kind=kind,
        hidden=hidden,
        epochs=epochs,
        seed=seed,
        until=None if until is None else parse_time(until),
        label_window_s=label_window_s,
    )
    click.echo(report.describe())
    if left := refused(opened):
        click.echo(left)
