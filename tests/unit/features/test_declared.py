"""Failure: a declaration that is wrong and is taken, or whose refusal does not say where and what is allowed;
a ready scenario or the defaults that no longer load.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from features.declared import default_families, kinds_of_families, plan_from
from features.errors import FeaturesError
from features.scope import CONTEXT

ACTIONS = ("click", "cart", "favourite", "purchase", "refund")
SCENARIOS = sorted((Path(__file__).parents[3] / "scenarios").glob("*.toml"))


def test_without_a_word_there_are_sixty_features_and_no_context_names() -> None:
    plan = plan_from({"session_gap_s": 600}, ACTIONS)
    assert len(plan.features) >= 60 and plan.scope.gap_s == 600
    assert not [column for column in plan.columns if column.startswith(CONTEXT)]
    assert [type(family).__name__ for _, family in default_families()]


def test_no_row_is_begun_for_a_pair_that_was_only_shown() -> None:
    """A row a shown (user, item) is memory without a bound."""
    plan = plan_from({}, ACTIONS)
    for block, (table, _) in plan.blocks.items():
        assert table != "user_id*item_id" or 0 not in block.kinds()


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_ready_scenario_loads(path: Path) -> None:
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    plan = plan_from(table["features"], ACTIONS)
    assert len(plan.features) >= 30
    assert plan.hash == plan_from(table["features"], ACTIONS).hash


def test_the_ready_scenarios_are_there() -> None:
    assert [path.stem for path in SCENARIOS] == ["ads_without_lists", "flash_sale", "ranked_lists"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            {"count": []},
            r"features\.count: there is no such family or setting; allowed are .*counts, crossing",
        ),
        ({"counts": 3}, r"features\.counts: must be tables, written as \[\[features\.counts\]\]"),
        ({"counts": [{}]}, r"features\.counts\[0\]: .*missing required field `keys`"),
        (
            {"counts": [{"keys": ["item_id"]}, {"keys": ["item"]}]},
            r"features\.counts\[1\]\.keys: no column 'item'; allowed are user_id, item_id",
        ),
        (
            {"counts": [{"keys": ["item_id"], "half_lives": [1]}]},
            r"features\.counts\[0\]\.half_lives: no such setting; allowed are keys, half_lives_s",
        ),
        (
            {"counts": [{"keys": ["item_id"], "half_lives_s": [0]}]},
            r"features\.counts\[0\]\.half_lives_s\[0\]",
        ),
        ({"counts": [{"keys": ["item_id"], "half_lives_s": [9, 3]}]}, r"half_lives_s: must ascend"),
        ({"counts": [{"keys": ["item_id"], "begin": ["any"]}]}, r"counts\[0\]\.begin: needs user_id"),
        ({"counts": [{"keys": ["item_id"], "rates": ["click"]}]}, r"counts\[0\]\.rates: 'click' is no rate"),
        ({"counts": [{"keys": ["item_id"]}] * 2}, r"features\.counts\[1\]: is declared twice"),
        ({"counts": [{"keys": ["item_id"], "volumes": [""]}]}, r"features\.counts\[0\]: .* has no name"),
        ({"counts": [{"keys": ["touched"]}]}, r"counts\[0\]\.keys: no column 'touched'"),
        ({"recency": [{"keys": ["item_id"]}]}, r"recency\[0\]\.as: steps are a user's"),
        ({"list": [{"of": "prize"}]}, r"features\.list\[0\]: no column 'prize'; allowed are price"),
        ({"list": [{"as": ["best"]}]}, r"features\.list\[0\]\.as\[0\]: Invalid enum value 'best'"),
        ({"crossing": [{}]}, r"features\.crossing\[0\]\.keys: needs at least one column"),
        ({"smoothing": 0}, r"features\.smoothing: Expected `float` > 0"),
        ({"sale_starts_at": tomllib.loads("t = 2026-11-11T00:00:00")["t"]}, "needs an offset"),
    ],
)
def test_a_wrong_declaration_says_where_and_what_is_allowed(table: dict[str, Any], said: str) -> None:
    with pytest.raises(FeaturesError, match=said):
        plan_from(table, ACTIONS)


def test_a_sale_may_start_at_a_time_of_toml() -> None:
    table = tomllib.loads("sale_starts_at = 2026-11-11T00:00:00+08:00\n[[stock]]")
    plan = plan_from(table, ACTIONS)
    assert plan.scope.sale_starts_at == 1_794_326_400_000 and "stock.to_start" in plan.names


def test_families_are_found_without_a_list() -> None:
    assert {"counts", "recency", "list", "session", "price", "place", "stock", "sequence", "crossing"} <= set(
        kinds_of_families()
    )


def test_features_change_the_hash() -> None:
    hashes = {
        plan_from(table, ACTIONS).hash
        for table in (
            {},
            {"smoothing": 5.0},
            {"session": [{}]},
            {"price": [{}]},
            {"price": [{"clicks": "cart"}]},
        )
    }
    assert len(hashes) == 5


def test_the_hash_is_the_same_in_every_process() -> None:
    """Serving refuses weights of another hash, and a restarted worker its own state."""
    code = f"from features.declared import plan_from; print(plan_from({{}}, {ACTIONS}).hash)"
    hashes = {
        subprocess.check_output([sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed})
        for seed in ("0", "1", "2")
    }
    assert hashes == {f"{plan_from({}, ACTIONS).hash}\n".encode()}
