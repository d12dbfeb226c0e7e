"""Fails when a stale copy is fresher or older than its cadence says, or is compared on other rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from contracts.scenario import Scenario, Times
from models.deep.trunk import Trunk
from state.joins.columns import Closed
from surgeline.evaluation.cadence import CadenceError, StaleCopies, parse_cadences
from surgeline.evaluation.evaluate import Request, evaluate
from surgeline.evaluation.rehearse import Rehearsal

if TYPE_CHECKING:
    from tests.unit.surgeline.conftest import Night

SCENARIO = Scenario(times=Times(label_window_s=3.0, lateness_s=0.5, join_limit_s=60.0))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the trunk of whoever runs the tests."""
    monkeypatch.setenv("SURGELINE_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("text", ["soon", "0s", "10", "1m,1m", "-1s", "1.2.3s"])
def test_a_cadence_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(CadenceError, match="--cadence"):
        parse_cadences(text)


def test_a_cadence_below_the_tick_is_refused(tmp_path: Path) -> None:
    engine = Rehearsal(SCENARIO, Trunk.empty(), tmp_path).engine
    with pytest.raises(CadenceError, match=r"times\.tick_s"):
        StaleCopies(engine, [0.5])
    engine.store.close()


def test_every_tick_is_the_learner_itself(night: Night, tmp_path: Path) -> None:
    """With a copy a second nothing is stale; and a day without a publication is the frozen head."""
    path = tmp_path / "p.parquet"
    evaluate(Request(log=str(night.log), cadence="frozen,1s,1d", predictions=path), SCENARIO)
    rows = pl.read_parquet(path)
    assert (rows["cadence_1s"] == rows["p_last_layer"]).all()
    midnight_utc = rows["event_time"] // 86_400_000
    assert midnight_utc.n_unique() == 1, "no publication of a day falls into the log"
    assert (rows["cadence_1d"] == rows["p_frozen"]).all()


def test_a_copy_holds_what_was_learned_at_its_boundary(night: Night, tmp_path: Path) -> None:
    """Against every tick's weights kept: the prediction of tick t is with those of the last multiple."""
    every_s = 10
    rehearsal = Rehearsal(SCENARIO, Trunk.empty(), tmp_path)
    engine = rehearsal.engine
    copies = StaleCopies(engine, [float(every_s)])
    learned: list[tuple[int, np.ndarray]] = [(0, engine.panel.champion.mean.copy())]
    inputs: dict[int, np.ndarray] = {}
    found: dict[int, np.ndarray] = {}

    def learning(tick: int, closed: Closed) -> None:
        if learned[-1][0] != tick:
            # What stood until now is what the last learning left.
            learned[-1] = (learned[-1][0], engine.panel.champion.mean.copy())
            learned.append((tick, engine.panel.champion.mean.copy()))
        copies.learning(tick)
        taken = copies.take(closed)
        for shown_at in np.unique(closed.ticks).tolist():
            found[shown_at] = taken[closed.ticks == shown_at, 0]

    def predicting(tick: int, z: np.ndarray) -> None:
        inputs[tick] = z
        copies.predict(tick, z)

    engine.observer, engine.predict_observer = learning, predicting
    rehearsal.feed(night.table)
    rehearsal.finish()
    learned[-1] = (learned[-1][0], engine.panel.champion.mean.copy())
    engine.store.close()
    assert len(found) > 60
    for tick, predicted in found.items():
        boundary = tick // every_s * every_s
        mean = [weights for at, weights in learned if at <= boundary][-1]
        expected = 1.0 / (1.0 + np.exp(-(inputs[tick].astype(np.float64) @ mean)))
        np.testing.assert_allclose(predicted, expected, rtol=1e-5)


def test_a_step_is_paired_with_the_arm_before_it(night: Night, tmp_path: Path) -> None:
    """Fails when what a faster cadence adds drowns in what all arms share: bootstrap over users by hand."""
    path = tmp_path / "p.parquet"
    found = evaluate(Request(log=str(night.log), cadence="frozen,1m,1s", predictions=path), SCENARIO)
    assert [arm.step and arm.step.to for arm in found.cadence] == [None, "frozen", "1m"]
    rows = pl.read_parquet(path)
    p = {name: rows[name].cast(pl.Float64).to_numpy() for name in ("cadence_1m", "cadence_1s")}
    loss = {name: -np.where(rows["label"] > 0, np.log(q), np.log1p(-q)) for name, q in p.items()}
    gain = rows.select("user_id", pl.Series("d", loss["cadence_1s"] - loss["cadence_1m"]))
    users = gain.group_by("user_id").agg(pl.col("d").sum(), pl.len())
    d, n = users["d"].to_numpy(), users["len"].to_numpy()
    drawn = np.random.default_rng(1).integers(0, len(d), (2000, len(d)))
    spread = np.quantile(d[drawn].sum(axis=1) / n[drawn].sum(axis=1), [0.025, 0.975])
    step = found.cadence[2].step
    assert step is not None and step.log_loss_interval is not None and step.log_loss is not None
    assert step.log_loss == pytest.approx(gain["d"].mean(), abs=1e-12)
    width = step.log_loss_interval.high - step.log_loss_interval.low
    assert width == pytest.approx(spread[1] - spread[0], rel=0.25)
