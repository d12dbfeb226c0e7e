"""``surgeline train``: make a trunk from any recorded log."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from models.deep.trunk import Trunk, TrunkError
from models.train import TrainReport, train_from_log
from replay.log import open_log, write_log
from stream.scenario import home


def train(
    log: str,
    out: Path,
    mapping: Path | None = None,
    *,
    hidden: int,
    epochs: int,
    seed: int,
    until: int | None = None,
    label_window_s: float = 0.0,
) -> TrainReport:
    """Export ``log`` (a name, ``name:path`` or a file) to a temporary canonical file and train on it.

    Going through the adapters means that a row that replay would refuse is not trained on either.
    """
    opened = open_log(log, mapping)
    with tempfile.TemporaryDirectory(prefix="surgeline-train-") as folder:
        # The name of the file is what the trunk's manifest says it was trained on.
        canonical = Path(folder) / f"{Path(opened.name).stem or 'log'}.parquet"
        write_log(opened.chunks(), canonical)
        return train_from_log(
            canonical,
            out,
            hidden=hidden,
            epochs=epochs,
            seed=seed,
            until=until,
            label_window_s=label_window_s,
        )


def holds_trunk(folder: Path) -> bool:
    """Whether ``folder`` has a trunk that loads; a half-written one does not count.

    Workers and serving agree on a trunk by its hash, so that a job which runs at every start must not
    replace one that is good.
    """
    try:
        Trunk.load(folder)
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
    "--hidden", type=click.IntRange(min=1), default=32, show_default=True, help="Last hidden layer."
)
@click.option(
    "--epochs", type=click.IntRange(min=1), default=20, show_default=True, help="At most; stops early."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--until", type=int, default=None, metavar="MS", help="Read only what is older (ms UTC).")
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
    hidden: int,
    epochs: int,
    seed: int,
    until: int | None,
    label_window_s: float,
    keep: bool,
) -> None:
    """Train a trunk from LOG: a file, a known log's name, or NAME:PATH."""
    folder = out if out is not None else home() / "trunk"
    if keep and holds_trunk(folder):
        click.echo(f"{folder} holds a trunk: kept")
        return
    report = train(
        log,
        folder,
        mapping,
        hidden=hidden,
        epochs=epochs,
        seed=seed,
        until=until,
        label_window_s=label_window_s,
    )
    click.echo(report.describe())
