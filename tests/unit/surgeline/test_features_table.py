"""Fails when `surgeline features` lists other features than the engine computes, or tells what none measured.

Required: every feature of the plan once, with the tables whose rows it reads and a cost where it is measured;
the worth that an evaluation wrote, by name; a wrong file or declaration in one line.
"""

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from contracts.events import ACTIONS
from contracts.feature_worth import FeatureWorth
from contracts.scenario import Scenario
from features.declared import plan_from
from replay.simulate import Double11Config
from surgeline import features_table as module
from surgeline.cli import main
from surgeline.features_table import FeaturesTable, FeaturesTableError, features_table, text

SMALL = {"counts": [{"keys": ["item_id"], "half_lives_s": [60]}], "session": [{"as": ["step"]}]}
NAMES = ["item_id.click/impression.60s", "item_id.impression.60s", "session.step"]


def worth(name: str, gain: float) -> FeatureWorth:
    return FeatureWorth(name=name, known=0.25, auc=0.625, gain_share=gain)


def test_every_feature_is_listed_with_its_tables() -> None:
    """Of the defaults, without measuring."""
    table = features_table(Scenario(), measured=False)
    plan = plan_from({}, ACTIONS)
    assert [one.name for one in table.features] == plan.names
    assert {one.name for one in table.tables} == set(plan.tables)
    by_name = {one.name: one for one in table.features}
    assert by_name["session.step"].tables == ["user_id"]
    assert by_name["item_id.click/impression.60s"].tables == ["category_id", "everything", "item_id"]
    assert all(one.low <= one.neutral <= one.high and one.nanoseconds is None for one in table.features)
    assert all(one.bytes_a_row == plan.tables[one.name].width * 8 for one in table.tables)


def test_costs_are_of_the_engines_own_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every feature takes some time, and the parts add up to what the plan spent."""
    monkeypatch.setattr(module, "MEASURED", Double11Config(minutes=1.0, rate=20.0, seed=1))
    table = features_table(Scenario(features=SMALL))
    assert [one.name for one in table.features] == NAMES
    assert all(one.nanoseconds is not None and one.nanoseconds > 0.0 for one in table.features)
    assert "All together" in text(table)


def test_what_is_shared_is_split_and_nothing_is_lost() -> None:
    """Blocks that several families read are paid by all of them."""
    plan = plan_from({}, ACTIONS)
    steps = [*plan.families, *plan.blocks]
    plan.spent = {step: 100 + k for k, step in enumerate(steps)}
    assert sum(plan.spent_by()) == pytest.approx(sum(plan.spent.values()))
    plan.spent = None
    assert plan.spent_by() == [0.0] * len(plan.names)


def test_worth_stands_beside_and_the_most_first() -> None:
    """Features that the evaluation did not have stay without."""
    table = features_table(Scenario(features=SMALL), [worth(NAMES[2], 0.75), worth(NAMES[0], 0.25)], False)
    lines = text(table).splitlines()
    shown = [line for line in lines if line.startswith(tuple(NAMES))]
    assert [line.split()[0] for line in shown] == [NAMES[2], NAMES[0], NAMES[1]]
    assert "75.0%" in shown[0] and "0.625" in shown[0] and "25.0%" in shown[0]
    assert shown[2].count("–") == 4
    with pytest.raises(FeaturesTableError, match="none of the features"):
        features_table(Scenario(features=SMALL), [worth("other", 1.0)], False)


def test_the_command_prints_and_names_what_is_wrong(tmp_path: Path) -> None:
    """In one line, with the file and the entry."""
    run = CliRunner().invoke
    found = run(main, ["features", "--no-cost", "--json"])
    assert found.exit_code == 0, found.output
    assert len(msgspec.json.decode(found.output, type=FeaturesTable).features) == len(
        plan_from({}, ACTIONS).names
    )
    (tmp_path / "wrong.json").write_text(json.dumps({"features": 3}))
    wrong = run(main, ["features", "--no-cost", "--evaluation", str(tmp_path / "wrong.json")])
    assert wrong.exit_code == 2 and "surgeline evaluate --json" in wrong.output
    missing = run(main, ["features", "--no-cost", "--evaluation", str(tmp_path / "missing.json")])
    assert missing.exit_code == 2 and "missing.json" in missing.output
    (tmp_path / "s.toml").write_text('[[features.counts]]\nkeys = ["item_id"]\nhalf_life = 3\n')
    declared = run(main, ["features", "--no-cost", "--scenario", str(tmp_path / "s.toml")])
    assert declared.exit_code == 2 and "half_life" in declared.output and "half_lives_s" in declared.output
