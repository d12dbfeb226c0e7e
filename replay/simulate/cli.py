"""``surgeline simulate double11``: write a simulated night as a recorded log, and its truth beside it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import polars as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from contracts.events import IMPRESSION
from replay.simulate.config import POLICIES, RANGES, ConfigError, Double11Config
from replay.simulate.generate import Double11
from replay.simulate.parquet import RowGroupWriter, WriterError, sha256
from replay.simulate.summary import lines

_DEFAULTS = Double11Config()

#: Options beyond the first ones: field of the configuration -> help.
_OPTIONS: dict[str, str] = {
    "hours": "Hours of the real night that the span stands for.  [default: 8, or the span]",
    "jump_ratio": "Busiest minute of the night over its median minute.",
    "users": "Users.",
    "items": "Items.",
    "categories": "Categories.",
    "shops": "Shops.",
    "candidates": "Items retrieved a request.",
    "slate_min": "Fewest items shown a request.",
    "slate_max": "Most items shown a request.",
    "base_ctr": "Clicks per impression on an ordinary evening.",
    "base_cvr": "Purchases per click on an ordinary evening.",
    "shock_mean": "Mean of what 00:00 adds to items' click logits.",
    "shock_sd": "Spread of it over items.",
    "shifted_categories": "Share of categories that change level and taste.",
    "hot_share": "Share of items that turn hot.",
    "new_share": "Share of items that appear during the night.",
    "stockout_share": "Share of the sale's traffic whose items are scarce.",
    "bot_share": "Share of requests sent by bots.",
    "delay_scale": "Conversions come this many times faster than published.  [default: as fast as the night]",
    "max_delay_h": "Longest delay kept, hours of the night.",
    "cell_s": "Seconds for which retrieval and stock badges stand still.",
}


def _settings(command: Callable[..., None]) -> Callable[..., None]:
    for field, text in reversed(_OPTIONS.items()):
        default = getattr(_DEFAULTS, field)
        low, high = RANGES[field]
        kind = int if isinstance(default, int) else float
        command = click.option(
            f"--{field.replace('_', '-')}",
            type=kind,
            default=default,
            show_default=default is not None,
            metavar=f"{low:g}..{high:g}",
            help=text,
        )(command)
    return command


@click.group()
def simulate() -> None:
    """Write simulated traffic as a recorded log."""


@simulate.command()
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The log (Parquet)."
)
@click.option(
    "--truth", type=click.Path(path_type=Path, dir_okay=False), help="True probabilities (Parquet)."
)
@click.option(
    "--minutes", type=float, default=_DEFAULTS.minutes, show_default=True, help="Event time, minutes."
)
@click.option(
    "--rate", type=float, default=_DEFAULTS.rate, show_default=True, help="Mean impressions a second."
)
@click.option("--seed", type=int, default=_DEFAULTS.seed, show_default=True, help="Equal seeds, equal bytes.")
@click.option("--start", help="ISO time of the first event.  [default: 00:00 is 2025-11-11 in Beijing]")
@click.option("--policy", type=click.Choice(POLICIES), default="logged", show_default=True, help="Who ranks.")
@click.option("--regret", is_flag=True, help="Also compare every slate with the oracle's.")
@click.option("--limit-events", type=click.IntRange(min=1), help="Stop after so many events.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
@_settings
def double11(out: Path, truth: Path | None, limit_events: int | None, as_json: bool, **settings: Any) -> None:
    """A Double-11 night: pre-heat, the jump at 00:00 in the middle of the span, second waves, small hours.

    The log has the canonical columns; the truth file, which the engine never reads, has one row an
    impression. Equal options give files with equal hashes.
    """
    try:
        sim = Double11(Double11Config(**settings))
        if truth is not None and truth.absolute() == out.absolute():
            raise WriterError("--truth must not be the file of --out")
        started = time.perf_counter()
        events = _write(sim, out, truth, limit_events)
        seconds = time.perf_counter() - started
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    except WriterError as error:
        raise click.ClickException(str(error)) from error
    hashes = {str(path): sha256(path) for path in (out, truth) if path is not None}
    figures = sim.summary()
    if as_json:
        record = {"figures": figures, "written": events, "seconds": seconds, "sha256": hashes}
        click.echo(json.dumps(record, indent=1))
        return
    table = Table("", "simulated", "published", title="Double 11", title_justify="left")
    for row in lines(figures, sim.config.jump_ratio):
        table.add_row(*row)
    Console(width=max(100, Console().width)).print(table)
    click.echo(f"{events:,} events written in {seconds:.1f} s: {events / max(seconds, 1e-9):,.0f} events/s")
    for path, digest in hashes.items():
        click.echo(f"sha256 {digest}  {path}")


def _write(sim: Double11, out: Path, truth: Path | None, limit: int | None) -> int:
    """Write the stream (at most ``limit`` events of it) and return the number of events written."""
    written = 0
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(_progress())
        task = bar.add_task("simulating", total=round(sim.expected_impressions))
        log_file = stack.enter_context(RowGroupWriter(out))
        truth_file = stack.enter_context(RowGroupWriter(truth)) if truth is not None else None
        for log, latent in limited(sim.frames(), limit):
            log_file.write(log)
            if truth_file is not None:
                truth_file.write(latent)
            written += log.height
            bar.update(task, completed=int(sim.tally.events[0]))
        if not written:
            expected = f"{sim.expected_impressions:g} impressions were expected"
            raise WriterError(f"nobody came in so short a night ({expected}): raise --rate or --minutes")
    return written


def limited(
    frames: Iterator[tuple[pl.DataFrame, pl.DataFrame]], limit: int | None
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """The first ``limit`` events of a stream of (log, truth) frames, with the truth of just those."""
    left = limit
    for log, truth in frames:
        if left is None or log.height <= left:
            yield log, truth
            left = None if left is None else left - log.height
        else:
            cut = log.head(left)
            yield cut, truth.head(int((cut["event"] == IMPRESSION).sum()))
            left = 0
        if left == 0:
            return


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
