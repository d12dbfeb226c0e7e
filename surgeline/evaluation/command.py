"""``surgeline evaluate``: the command line of an evaluation."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import msgspec

from features.load import load_declared
from models.deep.load import kinds
from replay.report.schema import Evaluation
from surgeline.evaluation.evaluate import EvaluateError, Request, evaluate
from surgeline.progress import Bar
from surgeline.times import parse_time

#: Makes a file's content.
Renderer = Callable[[Evaluation], bytes]


def _file(exists: bool = False) -> click.Path:
    return click.Path(dir_okay=False, path_type=Path, exists=exists)


@click.command()
@click.argument("log")
@click.option("--scenario", type=_file(), help="Scenario file.  [default: SURGELINE_SCENARIO]")
@click.option(
    "--trunk",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of a trunk.  [default: the scenario's, else the home folder's]",
)
@click.option("--until-train", metavar="TIME", help="Train on what is older (ms or ISO), evaluate the rest.")
@click.option(
    "--warm/--cold",
    default=True,
    show_default=True,
    help="Whether features know what came before --until-train.",
)
@click.option("--kind", type=click.Choice(kinds()), default="network", help="Trained trunk.")
@click.option("--hidden", type=click.IntRange(min=0), default=0, help="Trained trunk; 0: its kind's.")
@click.option("--epochs", type=click.IntRange(min=0), default=0, help="Trained trunk; 0: its kind's.")
@click.option("--mapping", type=_file(), help="TOML column mapping, for any other table.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N events (after --until-train).")
@click.option("--cadence", default="", metavar="LIST", help="Weights published every: frozen,30m,1m,10s,1s.")
@click.option("--truth", type=_file(), help="A simulation's truth file (Parquet).")
@click.option("--predictions", type=_file(), help="Write row-level predictions (Parquet).")
@click.option("--json", "json_file", type=_file(), help="Write all figures (JSON).")
@click.option("--report", "html_file", type=_file(), help="Write a page (HTML, self-contained).")
@click.option("--seed", type=int, default=0, show_default=True, help="Of training and of the bootstrap.")
def command(
    scenario: Path | None,
    until_train: str | None,
    json_file: Path | None,
    html_file: Path | None,
    log: str,
    trunk: Path | None,
    warm: bool,
    kind: str,
    hidden: int,
    epochs: int,
    mapping: Path | None,
    limit: int | None,
    cadence: str,
    truth: Path | None,
    predictions: Path | None,
    seed: int,
) -> None:
    """Rehearse LOG (a known name, or a file) without a broker, and report progressive figures."""
    from surgeline.evaluation.summary import lines

    for path in (predictions, json_file, html_file):
        if path is not None and not path.absolute().parent.is_dir():
            raise EvaluateError(f"{path}: its folder does not exist")
    request = Request(
        log=log,
        mapping=mapping,
        trunk=trunk,
        until_train=None if until_train is None else parse_time(until_train),
        warm=warm,
        kind=kind,
        hidden=hidden,
        epochs=epochs,
        limit=limit,
        truth=truth,
        cadence=cadence,
        predictions=predictions,
        written=tuple(path for path in (json_file, html_file) if path is not None),
        seed=seed,
    )
    with Bar() as bar:
        found = evaluate(request, load_declared(scenario), _command_line(), bar)
    for text in lines(found):
        click.echo(text)
    for path, render in _outputs(json_file, html_file):
        path.write_bytes(render(found))
        click.echo(f"wrote {path}")
    if predictions is not None:
        click.echo(f"wrote {predictions}")


def _outputs(json_file: Path | None, html_file: Path | None) -> Iterator[tuple[Path, Renderer]]:
    if json_file is not None:
        yield json_file, lambda found: msgspec.json.format(msgspec.json.encode(found), indent=1)
    if html_file is not None:
        from replay.report.page import render

        yield html_file, lambda found: render(found).encode()


def _command_line() -> str:
    return shlex.join(["surgeline", *sys.argv[1:]])
