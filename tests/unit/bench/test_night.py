"""Fails when the night's figure loses a side, measures another stretch, or misjudges its limits."""

from __future__ import annotations

import json
import math

import pytest

from bench import night
from bench._registry import BenchError
from replay.simulate import Double11Config

SMALL = Double11Config(
    minutes=6.0, rate=15.0, jump_ratio=2.0, users=150, items=60, categories=5, shops=5, base_ctr=0.2, seed=21
)


def one(engine: float, calm: float = 0.0) -> dict[str, object]:
    losses = dict.fromkeys(night.SIDES, 0.3) | {"frozen_ids": 0.43, "hindsight": 0.35, "engine": engine}
    parts = dict.fromkeys(night.PARTS, losses)
    return {
        "parts": parts,
        "closed": night.closed(losses),
        "calm_difference": calm,
        "from": "2025-11-10T15:58:00Z",
        "fitted_on": 10,
        "features": 3,
    }


def test_a_small_night_has_every_side_and_its_parts_add_up() -> None:
    result = night.night(SMALL)
    assert result["from"] == "2025-11-10T15:58:00Z"
    counts, parts = result["impressions"], result["parts"]
    assert counts["all"] == counts["calm"] + counts["sale"] > 0
    for side in night.SIDES:
        whole = sum(parts[part][side] * counts[part] for part in ("calm", "sale")) / counts["all"]
        assert math.isclose(parts["all"][side], whole)
    # The truth knows more than the item alone, and both more than what was frozen before the sale.
    assert parts["all"]["truth"] < parts["all"]["item_oracle"] < parts["all"]["frozen_ids"]
    json.dumps(night.combine({"21": result}))


def test_a_night_without_an_evening_is_no_number() -> None:
    with pytest.raises(BenchError, match="no evening"):
        night.night(Double11Config(minutes=3.0, rate=5.0, jump_ratio=2.0, users=50, items=40))


def test_what_is_closed_is_the_part_of_the_way_to_hindsight() -> None:
    assert math.isclose(night.closed({"frozen_ids": 0.43, "engine": 0.37, "hindsight": 0.35}), 0.75)


def test_means_are_over_seeds_and_stand_under_their_sides() -> None:
    result = night.combine({"21": one(0.36), "22": one(0.34)})
    assert math.isclose(result["engine"], 0.35)
    assert math.isclose(result["closed"], (night.closed(one(0.36)["parts"]["all"]) + 9 / 8) / 2)  # type: ignore[index]
    assert set(night.SIDES) <= set(result) and set(result["seeds"]) == {"21", "22"}


@pytest.mark.parametrize(
    ("engine", "calm", "told"),
    [
        (0.355, 0.0, []),
        (0.37, 0.0, ["closed 0.750"]),
        (0.355, 0.001, [r"+0.00100"]),
        (math.nan, math.nan, ["nan", "nan"]),
    ],
)
def test_limits_are_on_what_is_closed_and_on_the_calm(engine: float, calm: float, told: list[str]) -> None:
    broken = night.broken(night.combine({"21": one(engine, calm)}))
    assert len(broken) == len(told)
    assert all(words in reason for words, reason in zip(told, broken, strict=True))


def test_the_table_names_every_side_its_limit_and_whether_it_holds() -> None:
    result = night.combine({"21": one(0.37), "22": one(0.36)})
    machine = dict.fromkeys(("cores", "cpu", "memory_gb", "system", "python", "load"), 2)
    text = night.table({**result, "minutes": 20.0, "machine": machine})
    assert all(words in text for words in night.SIDES.values())
    assert "limit 0.88" in text and "BROKEN" in text and "21, 22" in text
