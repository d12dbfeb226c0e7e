"""Fails when help becomes slow by importing everything, or one of our errors shows as a traceback."""

from __future__ import annotations

import subprocess
import sys
import types

import click
import pytest
from click.testing import CliRunner

from contracts.scenario import ScenarioError
from serving.errors import ServingError
from surgeline import cli
from surgeline.local.broker import BrokerError


def install(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """A subcommand ``fails`` that raises ``error``, in a module that nothing has imported."""

    @click.command()
    def fails() -> None:
        raise error

    module = types.ModuleType("a_room_of_its_own")
    module.fails = fails  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(cli.COMMANDS, "fails", cli.Lazy(module.__name__, "fails", "Fails."))


def test_help_imports_no_subcommand() -> None:
    """Every module of a subcommand, and whatever is heavy, stays out until it is chosen."""
    heavy = {lazy.module for lazy in cli.COMMANDS.values()} | {"torch", "faust", "numpy", "polars", "kafka"}
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from surgeline.cli import main\n"
        "result = CliRunner().invoke(main, ['--help'])\n"
        "assert result.exit_code == 0, result.output\n"
        f"print(sorted(set(sys.modules) & {heavy!r}))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_help_lists_every_command_with_its_line() -> None:
    output = CliRunner().invoke(cli.main, ["--help"]).output
    for name, lazy in cli.COMMANDS.items():
        assert name in output and lazy.summary in output


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_exists_and_has_help(name: str) -> None:
    """A row of the table whose module or attribute is gone would fail only when somebody uses it."""
    result = CliRunner().invoke(cli.main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"Usage: main {name}")


def test_version_is_the_package_s() -> None:
    result = CliRunner().invoke(cli.main, ["--version"])
    assert result.output.startswith("surgeline, version ")


def test_an_unknown_command_is_refused_with_status_2() -> None:
    result = CliRunner().invoke(cli.main, ["nonsense"])
    assert result.exit_code == 2 and "No such command 'nonsense'" in result.output


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ScenarioError("times.tick_s must be positive"), 2),
        (BrokerError("port 1 is taken"), 1),
        (ServingError("neither a ValueError nor a RuntimeError"), 1),
    ],
    ids=["wrong input", "failed", "only the root"],
)
def test_our_errors_are_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, status: int) -> None:
    install(monkeypatch, error)
    result = CliRunner().invoke(cli.main, ["fails"])
    assert result.exit_code == status
    assert result.output == f"Error: {error}\n"


@pytest.mark.parametrize("error", [ValueError("a bug"), RuntimeError("a bug"), KeyError("a bug")])
def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """A plain error is nobody's message: hiding where it arose would cost its finder the day."""
    install(monkeypatch, error)
    result = CliRunner().invoke(cli.main, ["fails"])
    assert result.exception is error
