"""Fails when a message names another line of a scenario than the one where the wrong setting stands."""

from pathlib import Path

import pytest

from contracts.scenario import ScenarioError, load_scenario
from contracts.toml_lines import line_of
from features.load import load_declared

TEXT = """\
name = "sale"  # a comment

[times]
  tick_s = 1.0
[features]
smoothing = 3
[[features.counts]]
keys = ["item_id"]

[[features.counts]]  # the second
keys = [
    "user_id",
]
"half_lives_s" = [9]
[[features.session]]
"""


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("name", 1),
        ("times.tick_s", 4),
        ("times.idle_s", 3),
        ("features.smoothing", 6),
        ("features.counts[0].keys", 8),
        ("features.counts[1]", 10),
        ("features.counts[1].keys[0]", 11),
        ("features.counts[1].half_lives_s[0]", 14),
        ("features.counts[1].rates", 10),
        ("features.session[0].gap", 15),
        ("features.session", 15),
        ("features.other", 5),
        ("state.cached_rows", None),
    ],
)
def test_a_setting_is_found_or_else_its_table(place: str, line: int | None) -> None:
    assert line_of(TEXT, place) == line


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("tick_s = 1.0", "tick_s = 0.0", "line 4: Expected `float` >= 0.1 - at `$.times.tick_s`"),
        ("tick_s = 1.0", "tick = 1.0", "line 4: Object contains unknown field `tick`"),
        ('name = "sale"', "name = 3", "line 1: Expected `str`"),
    ],
)
def test_a_wrong_setting_names_file_and_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    file = tmp_path / "sale.toml"
    file.write_text(TEXT.replace(old, new))
    with pytest.raises(ScenarioError) as error:
        load_scenario(file)
    assert str(error.value).startswith(f"scenario {file}, {says}")


def test_a_wrong_declaration_names_file_and_line(tmp_path: Path) -> None:
    """Whoever loads a scenario to compute its features."""
    file = tmp_path / "sale.toml"
    file.write_text(TEXT.replace('"half_lives_s"', "half_life"))
    with pytest.raises(ScenarioError, match="half_life: no such setting; allowed are keys") as error:
        load_declared(file)
    assert str(error.value).startswith(f"scenario {file}, line 14: features.counts[1].half_life")
    file.write_text(TEXT.replace("[[features.session]]", "[[features.sessions]]"))
    with pytest.raises(ScenarioError, match=r"line 15: features\.sessions: there is no such family"):
        load_declared(file)
    file.write_text(TEXT)
    assert load_declared(file).name == "sale"
    assert load_declared(None).features == {}
