"""Fails when arms are compared that had not the same night, or what an arm won is counted wrong."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from models.deep.load import load_trunk
from models.deep.manifest import Training
from replay.simulate import Double11
from surgeline.closed_loop.arm import Arm, Clock, ClosedLoopError, Ledger, Outcome
from surgeline.closed_loop.command import (
    ArmsError,
    command,
    compare,
    night,
    parse_arms,
    run_arms,
    show,
)
from surgeline.closed_loop.evening import train_on_evening
from surgeline.closed_loop.plan import OF_IDS, SCORED, WITH_FEATURES, Plan


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    config = night(minutes=0.5, rate=300.0, seed=3, speed=1.0, items=200, users=500)
    return Plan(
        config, from_s=12.0, speed=2.0, folder=tmp_path_factory.mktemp("loop"), bootstrap="", name="test"
    )


@pytest.fixture(scope="module")
def outcomes(plan: Plan) -> list[Outcome]:
    """Those arms that need no processes."""
    return asyncio.run(run_arms(["random", "logged", "oracle"], plan))


def test_every_arm_has_the_same_night(outcomes: list[Outcome]) -> None:
    assert len({(one.checksum, one.requests, one.impressions) for one in outcomes}) == 1
    assert outcomes[0].requests > 500


def test_regret_orders_the_arms(outcomes: list[Outcome]) -> None:
    """The oracle loses no click; what is expected is what happens, within its noise."""
    chance, logged, oracle = outcomes
    assert oracle.click_regret == pytest.approx(0.0, abs=1e-9)
    assert chance.click_regret > logged.click_regret > 0
    assert chance.clicks < logged.clicks < oracle.clicks
    for one in outcomes:
        noise = np.sqrt(one.expected_clicks)
        # Clicks of the last impressions come after the end.
        assert one.expected_clicks - 5 * noise < one.clicks < one.expected_clicks + 4 * noise
        assert one.click_regret == pytest.approx(one.best_clicks - one.expected_clicks)
        assert one.click_regret_per_1000 == pytest.approx(1000 * one.click_regret / one.impressions)
        assert one.revenue_regret_share == pytest.approx(one.revenue_regret / one.best_revenue)
        assert one.ctr == one.clicks / one.impressions


def test_an_oracle_loses_nothing_of_what_it_ranks_for(plan: Plan, outcomes: list[Outcome]) -> None:
    """Fails where arms that rank for revenue are measured against an oracle that ranks for clicks."""
    clicks, revenue = outcomes[2], asyncio.run(run_arms(["oracle"], replace(plan, objective="revenue")))[0]
    assert revenue.checksum == clicks.checksum
    assert revenue.revenue_regret == pytest.approx(0.0, abs=1e-9)
    assert revenue.click_regret > 0 and clicks.revenue_regret > 0
    assert revenue.expected_revenue > clicks.expected_revenue


def test_the_oracle_s_predictions_are_calibrated(outcomes: list[Outcome]) -> None:
    figures = outcomes[2].predictions
    assert figures is not None and figures.auc is not None and figures.pcoc is not None
    assert figures.auc > 0.75 and 0.85 < figures.pcoc < 1.15
    assert figures.samples < outcomes[2].impressions, "the last seconds do not count"
    assert outcomes[0].predictions is None


def test_the_evening_is_of_the_same_world(plan: Plan) -> None:
    """Fails where more traffic would mean other items: the frozen trunk would be worse than it is."""
    busier = msgspec.structs.replace(plan.config, rate=5_000.0, regret=False)
    users, items = np.arange(100), np.arange(100)
    first, second = (
        Double11(config).world.true_click_probability(users, items, np.zeros(100), np.full(100, 5.0))
        for config in (plan.config, busier)
    )
    assert (first == second).all()


@pytest.fixture(scope="module")
def trained(plan: Plan) -> dict[str, Training]:
    return train_on_evening(plan, [OF_IDS, WITH_FEATURES])


def test_trunks_are_trained_on_the_evening_only(plan: Plan, trained: dict[str, Training]) -> None:
    for training in trained.values():
        assert training.last_event_time < plan.config.start_ms + 12_000
        assert training.rows == pytest.approx(60_000, rel=0.1)


def test_a_frozen_arm_reads_nothing_that_a_worker_brings(plan: Plan, trained: dict[str, Training]) -> None:
    """Failure: a trunk of features in a serving that gets no rows ranks at chance, and counts as "frozen"."""
    read = {arm: bool(load_trunk(plan.folder / trunk).feature_names) for arm, trunk in SCORED.items()}
    assert read == {"frozen": False, "unfed": True, "live": True}
    assert trained[OF_IDS].rows == trained[WITH_FEATURES].rows, "the same impressions"


def test_the_gap_is_the_oracle_s_lead_over_the_frozen_model(outcomes: list[Outcome]) -> None:
    change = msgspec.structs.replace
    arms = [
        change(outcomes[0], arm="frozen", click_regret=100.0, revenue_regret=50.0),
        change(outcomes[0], arm="live", click_regret=40.0, revenue_regret=60.0),
        change(outcomes[0], arm="oracle", click_regret=0.0, revenue_regret=0.0),
    ]
    compare(arms)
    assert [arm.gap_closed for arm in arms] == pytest.approx([0.0, 0.6, 1.0])
    assert [arm.revenue_gap_closed for arm in arms] == pytest.approx([0.0, -0.2, 1.0])
    alone = [change(outcomes[1], gap_closed=None)]
    compare(alone)
    assert alone[0].gap_closed is None


def test_arms_that_had_other_requests_are_not_compared(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = iter((3, 4))
    init = Arm.__init__

    def other(self: Arm, name: str, given: Plan) -> None:
        config = msgspec.structs.replace(given.config, seed=next(seeds))
        init(self, name, replace(given, config=config))

    monkeypatch.setattr(Arm, "__init__", other)
    with pytest.raises(ClosedLoopError, match="same requests"):
        asyncio.run(run_arms(["random", "oracle"], plan))


def test_a_ledger_counts_clicks_money_and_what_had_time() -> None:
    def frame(*rows: tuple[Any, ...]) -> pl.DataFrame:
        return pl.DataFrame(
            [dict(zip(("event_time", "impression_id", "action", "value"), row, strict=True)) for row in rows],
            schema={
                "event_time": pl.Int64,
                "impression_id": pl.String,
                "action": pl.String,
                "value": pl.Float64,
            },
        ).with_columns(
            event=pl.when(pl.col("action").is_null()).then(pl.lit("impression")).otherwise(pl.lit("action"))
        )

    ledger = Ledger()
    ledger.add(
        frame((0, "7-0", None, None), (5, "7-1", None, None), (9, "7-1", "click", 0.0)),
        pl.DataFrame({"p_click": [0.2, 0.7]}),
    )
    ledger.add(
        frame((20_000, "7-2", None, None), (20_001, "7-1", "purchase", 9.5), (20_002, "7-1", "refund", 2.0)),
        pl.DataFrame({"p_click": [0.9]}),
    )
    assert (ledger.shown, ledger.clicks, ledger.revenue) == (3, 1, 7.5)
    figures = ledger.judge(ledger.truth())
    assert (figures.samples, figures.positives, figures.auc) == (2, 1, 1.0)
    assert figures.pcoc == pytest.approx(0.9)
    with pytest.raises(ClosedLoopError, match="2 predictions for 3"):
        ledger.judge(np.zeros(2))


def test_the_night_is_pressed_together_by_the_speed(plan: Plan) -> None:
    clock = Clock(plan, ahead_s=100.0)
    times = clock.of(np.array([12.0, 12.5, 30.0]))
    assert (times - times[0]).tolist() == [0, 250, 9_000]
    assert 100.0 < clock.left_s(14.0) < 101.01
    assert clock.behind_s == 0.0
    clock.left_s(-300.0)
    assert clock.behind_s > 50.0


@pytest.mark.parametrize("speed", [0.5, 1.0, 8.0])
def test_a_scorer_is_asked_at_least_once_a_second_of_the_night(speed: float) -> None:
    assert night(4.0, 100.0, 1, speed, 100, 100).cell <= min(1.0, 0.5 * speed)


@pytest.mark.parametrize(("text", "named"), [("frozen,best", "'best'"), ("", "none"), (" , ", "none")])
def test_an_unknown_arm_is_named_with_what_is_allowed(text: str, named: str) -> None:
    with pytest.raises(ArmsError, match=f"{named}; allowed are frozen, unfed, live, oracle, random, logged"):
        parse_arms(text)


def test_the_table_has_a_row_an_arm(outcomes: list[Outcome], capsys: pytest.CaptureFixture[str]) -> None:
    show(outcomes)
    printed = capsys.readouterr().out
    for one in outcomes:
        assert one.arm in printed and f"{one.clicks:,}" in printed


def test_a_report_that_has_no_place_is_refused_before_the_night(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where minutes of a night are run first, and their figures are lost to a traceback."""
    monkeypatch.setenv("SURGELINE_HOME", str(tmp_path))
    done = CliRunner().invoke(command, ["--arms", "oracle", "--json", str(tmp_path / "no" / "out.json")])
    assert done.exit_code == 2 and "there is no folder" in done.output
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated arms need neither broker nor processes; the JSON says the same as the table."""
    monkeypatch.setenv("SURGELINE_HOME", str(tmp_path))
    arguments = ["--minutes", "0.5", "--rate", "100", "--items", "100", "--users", "100", "--seed", "2"]
    file = tmp_path / "out.json"
    done = CliRunner().invoke(command, [*arguments, "--arms", "oracle,random", "--json", str(file)])
    assert done.exit_code == 0, done.output
    report = msgspec.json.decode(file.read_bytes())
    assert (report["minutes"], report["seed"], report["trunks"]) == (0.5, 2, {})
    assert report["objective"] == "clicks"
    assert [arm["arm"] for arm in report["arms"]] == ["random", "oracle"]
    assert all(f"{arm['clicks']:,}" in done.output for arm in report["arms"])
