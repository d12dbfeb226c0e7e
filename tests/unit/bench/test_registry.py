"""The registry and its command: every figure is listed, importable and complete; limits set the status."""

from __future__ import annotations

import json
import types
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import bench.__main__ as command
from bench._registry import FIGURES, BenchError, Entry, Options, load

ROOT = Path(__file__).parents[3]


def figure(result: dict[str, Any] | Exception, broken: list[str]) -> types.SimpleNamespace:
    def measure(options: Options) -> dict[str, Any]:
        if isinstance(result, Exception):
            raise result
        return {**result, **asdict(options)}

    return types.SimpleNamespace(measure=measure, table=lambda _: "the table", broken=lambda _: broken)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    def call(*arguments: str, **figures: types.SimpleNamespace) -> Result:
        monkeypatch.setattr(command, "FIGURES", {name: Entry("", f"About {name}.") for name in figures})
        monkeypatch.setattr(command, "load", figures.__getitem__)
        return CliRunner().invoke(command.main, arguments)

    return call


def test_every_module_of_a_figure_is_registered_and_no_other() -> None:
    """A new file in bench/ is a figure, an app that a figure starts, or begins with an underscore."""
    files = {path.stem for path in (ROOT / "bench").glob("[a-z]*.py")}
    apps = {name for name in files if name.endswith("_app")}
    assert files - apps == {entry.module.removeprefix("bench.") for entry in FIGURES.values()}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_what_the_command_calls(name: str) -> None:
    module = load(name)
    assert all(callable(getattr(module, part)) for part in ("measure", "table", "broken"))


def test_without_a_name_the_figures_are_listed() -> None:
    result = CliRunner().invoke(command.main, [])
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.splitlines()] == list(FIGURES)


def test_json_holds_what_was_measured_with_the_options_that_were_given(run: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    given = {"quick": True, "broker": "h:1", "repeats": 2, "log": "trivago:F", "seeds": 3}
    arguments = ["one", "--quick", "--broker", "h:1", "--repeats", "2", "--log", "trivago:F", "--seeds", "3"]
    arguments += ["--json", str(out)]
    result = run(*arguments, one=figure({"x": 1.5}, []))
    assert result.exit_code == 0 and "the table" in result.output
    assert json.loads(out.read_text()) == {"x": 1.5, **given}


def test_a_broken_limit_is_status_1_and_still_written(run: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    result = run("one", "--json", str(out), one=figure({"x": 1}, ["too slow"]))
    assert result.exit_code == 1 and "LIMIT BROKEN: one: too slow" in result.output
    assert json.loads(out.read_text())["x"] == 1


def test_what_could_not_be_measured_is_status_2_and_not_written(run: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    result = run("one", "--json", str(out), one=figure(BenchError("lost 3 events"), []))
    assert result.exit_code == 2 and "lost 3 events" in result.output
    assert not out.exists()


def test_all_measures_every_figure_into_one_file(run: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    figures = {"one": figure({"x": 1}, []), "two": figure({"y": 2}, ["bad"])}
    result = run("all", "--json", str(out), **figures)
    assert result.exit_code == 1 and "two: bad" in result.output
    assert set(json.loads(out.read_text())) == {"one", "two"}


def test_an_unknown_figure_names_those_there_are(run: Any) -> None:
    result = run("three", one=figure({}, []))
    assert result.exit_code == 2 and "'three'" in result.output and "one" in result.output
