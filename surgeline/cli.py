"""The command line. A subcommand's module is imported when it is chosen, so that help is instant."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import click

from contracts.errors import SurgelineError


class Lazy(NamedTuple):
    """Where a subcommand lives, and its line in the help."""

    module: str
    attribute: str
    summary: str


COMMANDS = {
    "demo": Lazy("surgeline.local.demo", "command", "A flash sale on this machine, start to end."),
    "closed-loop": Lazy(
        "surgeline.closed_loop.command", "command", "A night ranked by the engine while it learns."
    ),
    "broker": Lazy("surgeline.local.broker", "command", "Run a broker on this machine until Ctrl-C."),
    "topics": Lazy("surgeline.topics", "command", "Create the scenario's topics, or show them."),
    "train": Lazy("surgeline.train", "command", "Train a trunk from a recorded log."),
    "worker": Lazy("surgeline.local.worker", "command", "Run one engine worker (Faust)."),
    "serve": Lazy("serving.cli", "serve", "Score over HTTP with the newest weights."),
    "simulate": Lazy("replay.simulate.cli", "simulate", "Write a simulated sale as a recorded log."),
    "replay": Lazy("replay.cli", "replay", "Send a recorded log to Kafka at its own pace or faster."),
    "evaluate": Lazy(
        "surgeline.evaluation.command", "command", "Rehearse a log without a broker and report."
    ),
    "features": Lazy(
        "surgeline.features_table", "command", "List the scenario's features: what each costs, and is worth."
    ),
    "logs": Lazy("replay.cli", "logs", "List the recorded logs that are known by name."),
    "inspect": Lazy("replay.cli", "inspect_log", "Describe a recorded log."),
    "export": Lazy("replay.cli", "export", "Write a recorded log in the canonical columns."),
}


class OneLine(click.ClickException):
    """One of our typed errors as a message: status 2 for wrong input (``ValueError``), else 1."""

    def __init__(self, error: SurgelineError) -> None:
        super().__init__(str(error) or type(error).__name__)
        self.exit_code = 2 if isinstance(error, ValueError) else 1


class LazyGroup(click.Group):
    """A group that knows its subcommands by name and imports the one that is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        lazy = COMMANDS.get(cmd_name)
        if lazy is None:
            return None
        command = getattr(importlib.import_module(lazy.module), lazy.attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of subcommands from the table, where click would import every one of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.summary) for name, lazy in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SurgelineError as error:
            raise OneLine(error) from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="surgeline", prog_name="surgeline")
def main() -> None:
    """Surgeline: online learning for flash-sale traffic. Kafka in, a last layer that moves every second."""


if __name__ == "__main__":
    main()
