"""Fails when README or docs show a command or an option that does not exist, or a file that is refused.

Every `surgeline` command in fenced code and in inline code is parsed by the command itself; TOML blocks are
read by who reads them. What README's commands do when they run is for tests/integration/test_readme_walk.py.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from contracts.events import ACTIONS
from contracts.scenario import load_scenario
from features.declared import plan_from
from replay.adapters.mapping_file import load_mapping
from surgeline.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def shown(text: str) -> Iterator[str]:
    """The `surgeline` commands of a page, one line each."""
    code = re.findall(r"^```\w*\n(.*?)^```$", text, re.M | re.S)
    rest = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    lines = [line for block in code for line in re.sub(r"\\\n", " ", block).splitlines()]
    lines += re.findall(r"`(surgeline [^`]+)`", rest.replace("\n", " "))
    for line in lines:
        line = re.sub(r"\s+#\s.*$", "", line).strip().removesuffix("&").strip()
        if line.startswith("surgeline ") and "..." not in line:
            yield line


COMMANDS = [(page.name, line) for page in PAGES for line in shown(page.read_text(encoding="utf-8"))]


def test_there_are_commands_to_look_at() -> None:
    assert len(COMMANDS) > 20


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_every_command_that_is_shown_exists_with_its_options(page: str, line: str) -> None:
    name, *words = shlex.split(line)[1:]
    with click.Context(main) as parent:
        command = main.get_command(parent, name)
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            command = command.get_command(parent, words.pop(0))
    assert command is not None, f"{page}: no command in {line}"
    known = {"--help"} | {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    for word in words:
        if word == "--":
            break
        if word.startswith("-"):
            assert word.partition("=")[0] in known, f"{page}: {line}: no option {word}"


def test_readmes_files_are_read(tmp_path: Path) -> None:
    blocks = re.findall(
        r"^```toml\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S
    )
    mapping, scenario = blocks
    for name, text in (("mine.toml", mapping), ("night.toml", scenario)):
        (tmp_path / name).write_text(text)
    night = load_scenario(tmp_path / "night.toml")
    assert night.learners.river == ["logistic", "ftrl"]
    assert plan_from(night.features, ACTIONS).names
    load_mapping(tmp_path / "mine.toml")
