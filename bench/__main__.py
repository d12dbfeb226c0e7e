"""``python -m bench`` lists the figures, ``python -m bench NAME`` measures one, ``all`` every one."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from types import FrameType

import click

from bench._registry import FIGURES, BenchError, Options, load

ALL = "all"


def listing() -> str:
    """One line a figure."""
    width = max(map(len, FIGURES))
    return "\n".join(f"{name:<{width}}  {entry.summary}" for name, entry in FIGURES.items())


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", required=False)
@click.option("--quick", is_flag=True, help="Fewer events: minutes become a minute, and the noise grows.")
@click.option("--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="Write them here.")
@click.option(
    "--broker",
    help="kafka, embedded, or host:port of one that runs.  [default: kafka where KAFKA_HOME and Java are]",
)
@click.option("--repeats", type=click.IntRange(min=1), help="How often each side is measured.")
@click.option("--log", metavar="LOG", help="accuracy: trivago, or trivago:FOLDER.  [default: trivago]")
@click.option("--seeds", type=click.IntRange(min=1), help="night: how many simulated nights.  [default: 5]")
def main(
    name: str | None,
    quick: bool,
    out: Path | None,
    broker: str | None,
    repeats: int | None,
    log: str | None,
    seeds: int | None,
) -> None:
    """Measure figure NAME beside its peer and its limit; without NAME list what there is.

    Status 1 where a limit does not hold, 2 where nothing could be measured.
    """
    if name is None:
        click.echo(listing())
        return
    if name != ALL and name not in FIGURES:
        raise click.UsageError(f"no figure {name!r}; there are {', '.join(FIGURES)}, and {ALL}")
    # A terminated run must end its children and drop its folders as one that is interrupted does.
    signal.signal(signal.SIGTERM, _terminated)
    options = Options(quick=quick, broker=broker, repeats=repeats, log=log, seeds=seeds)
    results, broken = {}, []
    for each in FIGURES if name == ALL else (name,):
        figure = load(each)
        try:
            result = figure.measure(options)
        except (BenchError, ValueError) as error:
            click.echo(f"{each}: {error}", err=True)
            sys.exit(2)
        results[each] = result
        click.echo(figure.table(result))
        broken += [f"{each}: {reason}" for reason in figure.broken(result)]
    if out is not None:
        content = results if name == ALL else results[name]
        out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for reason in broken:
        click.echo(f"LIMIT BROKEN: {reason}", err=True)
    sys.exit(1 if broken else 0)


def _terminated(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(143)


if __name__ == "__main__":
    main()
