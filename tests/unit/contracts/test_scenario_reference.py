"""Fails when the scenario's reference page is not what the structs say, or a setting has no meaning there."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec.inspect import StructType

from contracts.scenario import Scenario, ScenarioError, load_scenario
from contracts.scenario_reference import described, page, sections, table_of, toml

PUBLISHED = Path(__file__).parents[3] / "docs" / "scenario.md"


class Window(msgspec.Struct, forbid_unknown_fields=True):
    """What counts.

    ``of``: the action, such as ``click``. ``last_s`` bounds how far back
    it looks; more is not kept. A sentence of no field.
    """

    of: Literal["click", "cart"]
    last_s: Annotated[float, msgspec.Meta(gt=0.0, lt=10.0)] | None = None
    edges: Annotated[list[Annotated[int, msgspec.Meta(ge=1)]], msgspec.Meta(max_length=3)] = []
    silent: Annotated[str, msgspec.Meta(pattern="^a|b$", description="One | of two.")] = "a"


class Odd(msgspec.Struct):
    """Top."""

    windows: list[Window] = []
    one: Window | None = None
    name: str = ""


def struct(of: type) -> StructType:
    found = msgspec.inspect.type_info(of)
    assert isinstance(found, StructType)
    return found


def test_the_published_page_is_what_the_structs_say() -> None:
    assert PUBLISHED.read_text(encoding="utf-8") == page(), (
        "run `python -m contracts.scenario_reference > docs/scenario.md`"
    )


def test_every_setting_has_a_meaning() -> None:
    """A field that no sentence of its struct's docstring names is a riddle to who writes a scenario."""

    def silent(of: StructType, path: str) -> list[str]:
        _, meanings = described(of)
        found = [f"{path}{field.name}" for field in of.fields if not meanings[field.name]]
        tables = {f"{path}{f.name}": table[0] for f in of.fields if (table := table_of(f.type))}
        inner = [name for where, table in tables.items() for name in silent(table, f"{where}.")]
        return [name for name in found if name not in tables] + inner

    assert silent(struct(Scenario), "") == []


def test_the_file_of_all_defaults_is_the_default_scenario(tmp_path: Path) -> None:
    file = tmp_path / "all.toml"
    file.write_text(page().partition("```toml\n")[2].partition("```")[0])
    assert load_scenario(file) == Scenario()


@pytest.mark.parametrize("value", ["0.0999", "3600.1"])
def test_limits_on_the_page_are_those_that_hold(tmp_path: Path, value: str) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(f"[times]\ntick_s = {value}\n")
    assert "| `tick_s` | number | `1.0` | 0.1 to 3,600 |" in page()
    with pytest.raises(ScenarioError, match="tick_s"):
        load_scenario(file)


def test_tables_lists_of_tables_and_limits_are_shown() -> None:
    top, windows, one = sections(struct(Odd), "")
    assert top.startswith("## At the top\n\nTop.") and "| `name` | text |" in top and "windows" not in top
    assert windows.startswith("## `[[windows]]`\n\nAny number of these tables")
    assert one.startswith("## `[one]`\n\nWhat counts. A sentence of no field.\n")
    rows = [line for line in one.splitlines() if line.startswith("| `")]
    assert rows == [
        "| `of` | one of `cart`, `click` | required |  | The action, such as `click`. |",
        "| `last_s` | number | none | more than 0; less than 10 | "
        "`last_s` bounds how far back it looks; more is not kept. |",
        "| `edges` | list of whole numbers | `[]` | at most 3 entries; each at least 1 |  |",
        '| `silent` | text | `"a"` | as `^a\\|b$` | One \\| of two. |',
    ]


def test_what_is_written_as_toml_is_read_as_the_same() -> None:
    table = {
        "name": 'a "b" é\n',
        "list": [1.5, 2],
        "on": True,
        "inner": {"x": 1, "deeper": {"y": []}, "rows": [{"z": "a"}, {"z": "b", "table": {"k": 1}}]},
        "odd key": {"q": 1},
    }
    assert tomllib.loads(toml(table)) == table
