"""``surgeline worker``: become a Faust worker of ``stream.app``."""

from __future__ import annotations

import click

from clients.launch import become
from surgeline.local.services import worker_argv


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    help="Run one engine worker. Arguments after -- go to `faust worker`, for example -- --web-port 6067.",
)
@click.option(
    "-l",
    "--loglevel",
    type=click.Choice(["critical", "error", "warning", "info", "debug"]),
    default="info",
    show_default=True,
)
@click.argument("faust_options", nargs=-1, type=click.UNPROCESSED)
def command(loglevel: str, faust_options: tuple[str, ...]) -> None:
    """Replace this process, so that signals and the exit status are the worker's own."""
    become(worker_argv(*faust_options, loglevel=loglevel))
