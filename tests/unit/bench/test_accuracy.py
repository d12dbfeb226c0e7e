"""Fails when the figure of accuracy loses a side, fits on what it measures, or misjudges its limits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bench import accuracy
from bench._metrics import METRICS
from bench._registry import BenchError, Options
from bench._rows import events_of, impressions_of, touched, touches_of
from replay.open_log import open_log

LISTS, SHOWN = 120, 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days of made lists in trivago's form: users touch a hotel, and mostly click it in the list."""
    made = tmp_path_factory.mktemp("trivago")
    rng = np.random.default_rng(5)
    start = accuracy.CUT // 1000 - 43_200
    impressions, actions = [], []
    for number in range(2 * LISTS):
        at = start + number * 86_400 // (2 * LISTS)
        user, session = f"u{number % 25}", f"s{number}"
        items = rng.choice(np.arange(100, 160), SHOWN, replace=False)
        chosen = int(rng.integers(0, SHOWN))
        about = {"user_id": user, "session_id": session, "platform": "US", "city": "a b", "device": "mobile"}
        impressions += [
            {
                "imp_id": number,
                "timestamp": at,
                "step": 3,
                "current_filters": "4 Star|Hotel",
                "item_id": int(item),
                "price": float(rng.integers(20, 200)),
                "position": place,
                "clicked": int(place == chosen),
                **about,
            }
            for place, item in enumerate(items)
        ]
        touch = items[chosen] if rng.random() < 0.8 else items[0]
        # In the click's own second: only the step says that it came before.
        actions.append(
            {
                **about,
                "timestamp": at,
                "step": 2,
                "action_type": "interaction item image",
                "current_filters": None,
                "reference": str(touch),
            }
        )
        actions.append(
            {
                **about,
                "timestamp": at,
                "step": 3,
                "action_type": "clickout item",
                "current_filters": "4 Star|Hotel",
                "reference": str(items[chosen]),
            }
        )
    pl.DataFrame(impressions, infer_schema_length=None).write_parquet(made / "impressions.parquet")
    pl.DataFrame(actions).write_parquet(made / "actions.parquet")
    return made


@pytest.fixture(scope="module")
def result(folder: Path) -> dict[str, object]:
    return accuracy.measure(Options(log=f"trivago:{folder}"))


def test_every_side_has_its_figures(result: dict) -> None:
    figures = result["segments"]["day2"]
    assert set(figures) == set(accuracy.SIDES)
    for one in figures.values():
        assert set(one) == set(METRICS)
    assert set(accuracy.TO_BEAT) <= set(result["differences"])
    assert (result["lists"], result["clicks"], result["fitted_on"]) == (LISTS, LISTS, LISTS * SHOWN)
    json.dumps(result)
    assert "are BROKEN" in accuracy.table(result)


def test_peers_see_the_sessions_and_not_the_click_itself(result: dict, folder: Path) -> None:
    """A click-out is a row of the sessions at its list's own second: known, it would tell the label."""
    vw = result["segments"]["day2"]["vw"]
    assert 0.8 < vw["auc"] < 0.97 and vw["auc"] > result["position_alone"]["auc"]
    log = open_log(f"trivago:{folder}")
    events = events_of(log)
    shown = impressions_of(events)
    count, _ = touched(shown, touches_of(events), ["user_id", "item_id"])
    clicked = pl.read_parquet(folder / "impressions.parquet")["clicked"].to_numpy() > 0
    first = np.arange(len(count)) < SHOWN
    assert count[first].sum() == 1 and 0.7 < (count[clicked] > 0).mean() < 0.95


@pytest.mark.parametrize("name", ["taobao", "nothing.parquet", "trivago:/no/such/folder"])
def test_another_log_is_refused(name: str) -> None:
    with pytest.raises(BenchError, match="trivago"):
        accuracy.measure(Options(log=name))


def test_a_file_that_is_no_table_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "impressions.parquet").write_bytes(b"no table")
    with pytest.raises(BenchError, match="cannot be read"):
        accuracy.measure(Options(log=f"trivago:{tmp_path}"))


def test_a_log_of_one_day_is_no_number(folder: Path, tmp_path: Path) -> None:
    table = pl.read_parquet(folder / "impressions.parquet")
    table.filter(pl.col("timestamp") * 1000 < accuracy.CUT).write_parquet(tmp_path / "impressions.parquet")
    with pytest.raises(BenchError, match="no impressions from 2018-11-08"):
        accuracy.measure(Options(log=f"trivago:{tmp_path}"))


def reached(**other: float) -> dict:
    figures = {side: {"auc": 0.9, "logloss": 0.11, "mrr": 0.63} for side in accuracy.SIDES}
    figures["engine"] |= other
    sure = {
        "auc": {"difference": 0.1, "low": 0.05, "high": 0.15},
        "logloss": {"difference": -0.1, "low": -0.15, "high": -0.05},
        "mrr": {"difference": 0.1, "low": 0.05, "high": 0.15},
    }
    return {
        "segments": {"day2": figures},
        "differences": {peer: dict(sure) for peer in (*accuracy.TO_BEAT, accuracy.FROZEN)},
    }


def test_limits_hold_where_every_figure_reaches_its_own() -> None:
    assert accuracy.broken(reached()) == []


@pytest.mark.parametrize(
    ("name", "value"), [("auc", 0.8969), ("logloss", 0.1119), ("mrr", 0.6219), ("auc", float("nan"))]
)
def test_a_figure_that_falls_short_is_named(name: str, value: float) -> None:
    (reason,) = accuracy.broken(reached(**{name: value}))
    assert reason.startswith(f"engine: {name}")


@pytest.mark.parametrize(
    ("name", "low", "high", "says"),
    [
        ("logloss", -0.02, 0.01, "better"),
        ("auc", -0.01, 0.02, None),
        ("auc", -0.02, -0.01, "not worse"),
        ("mrr", -0.02, -0.01, "not worse"),
    ],
)
def test_the_frozen_head_is_to_be_beaten_in_log_loss_and_matched_in_the_others(
    name: str, low: float, high: float, says: str | None
) -> None:
    result = reached()
    result["differences"]["frozen"][name] = {"difference": (low + high) / 2, "low": low, "high": high}
    found = accuracy.broken(result)
    assert len(found) == (says is not None)
    assert not found or (found[0].startswith(f"engine against frozen: {name}") and says in found[0])


def test_a_difference_whose_interval_has_zero_is_named() -> None:
    result = reached()
    result["differences"]["vw"]["mrr"] = {"difference": 0.1, "low": -0.01, "high": 0.2}
    (reason,) = accuracy.broken(result)
    assert reason.startswith("engine against vw: mrr +0.1000")
