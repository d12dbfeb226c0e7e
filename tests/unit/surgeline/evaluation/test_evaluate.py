"""Fails when `surgeline evaluate` reports figures that its own predictions file does not bear out, counts
what the trunk was trained on, or leaves a wrong request without one clear line.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result
from sklearn.metrics import log_loss, roc_auc_score

from contracts.scenario import Scenario
from models.deep.load import load_trunk
from models.deep.trunk import Trunk
from replay.report.schema import Evaluation
from state.joins.columns import Closed
from surgeline.cli import main
from surgeline.evaluation.predictions import Predictions
from surgeline.evaluation.rehearse import FAR_MS, Rehearsal, rehearse
from surgeline.times import parse_time

if TYPE_CHECKING:
    from tests.unit.surgeline.conftest import Night


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No trunk, no scenario of whoever runs the tests."""
    monkeypatch.setenv("SURGELINE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SURGELINE_SCENARIO", raising=False)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def evaluated(folder: Path, *arguments: object) -> tuple[Evaluation, pl.DataFrame, str]:
    result = run(*arguments, "--json", folder / "e.json", "--predictions", folder / "p.parquet")
    assert result.exit_code == 0, result.output
    found = msgspec.json.decode((folder / "e.json").read_bytes(), type=Evaluation)
    return found, pl.read_parquet(folder / "p.parquet"), result.output


def test_figures_are_those_of_the_predictions_file(night: Night, tmp_path: Path) -> None:
    found, rows, output = evaluated(tmp_path, night.log)
    assert len(found.learners) == 4
    for row in found.learners:
        scores = rows[f"p_{row.name}"]
        assert scores.dtype == pl.Float32
        auc = roc_auc_score(rows["label"], scores)
        assert row.estimate.figures.auc == pytest.approx(auc, abs=1e-12)
        assert row.binned_auc == pytest.approx(auc, abs=2e-3)
        assert row.estimate.figures.log_loss == pytest.approx(
            log_loss(rows["label"], scores.cast(pl.Float64)), abs=1e-6
        )
        assert f"{auc:.4f}" in output
    for k, bucket in enumerate(found.timeline.start_ms):
        here = rows.filter(
            pl.col("event_time").is_between(bucket, bucket + found.timeline.bucket_s * 1000 - 1)
        )
        assert found.timeline.impressions[k] == here.height
        assert found.timeline.clicks[k] == here["label"].sum()
    assert found.quality is not None
    assert len(found.quality.start_ms) < len(found.timeline.start_ms)
    assert sum(found.quality.clicks) >= 25 * len(found.quality.clicks)
    for k, bucket in enumerate(found.quality.start_ms):
        here = rows.filter(
            pl.col("event_time").is_between(bucket, bucket + found.quality.bucket_s * 1000 - 1)
        )
        assert found.quality.auc["last_layer"][k] == pytest.approx(
            roc_auc_score(here["label"], here["p_last_layer"])
        )


def test_expert_weights_are_those_of_earlier_losses(night: Night, tmp_path: Path) -> None:
    """From the predictions file in one product, without the truth; the share is small beside the odds."""
    found, rows, _ = evaluated(tmp_path, night.log, "--truth", night.truth)
    names = [row.name for row in found.learners if row.name != "truth"]
    assert [entry.at for entry in found.expert_weights] == found.timeline.start_ms
    for entry in found.expert_weights:
        assert list(entry.weights) == names
        assert sum(entry.weights.values()) == pytest.approx(1.0)
    assert set(found.expert_weights[0].weights.values()) == {1 / len(names)}
    first = rows.filter(pl.col("event_time") < found.timeline.start_ms[1])
    likelihood = []
    for name in names:
        p = first[f"p_{name}"].cast(pl.Float64).to_numpy().clip(1e-7, 1 - 1e-7)
        likelihood.append(np.where(first["label"].to_numpy() > 0, p, 1 - p).prod())
    for name, value in zip(names, likelihood, strict=True):
        shared = 0.99 * value / sum(likelihood) + 0.01 / len(names)
        assert found.expert_weights[1].weights[name] == pytest.approx(shared, rel=1e-6)


def test_rows_are_the_impressions_of_the_log(night: Night, tmp_path: Path) -> None:
    """Nothing is lost between the log, the engine and the file, and the engine is the rehearsal's."""
    found, rows, _ = evaluated(tmp_path, night.log)
    shown = night.table.filter(pl.col("event") == "impression")
    assert rows.height == shown.height == found.counts.rows == found.counts.samples
    joined = rows.join(shown, on="impression_id", how="inner", suffix="_log")
    assert joined.height == rows.height
    for name in ("event_time", "user_id", "item_id", "category_id", "position", "request_id"):
        assert (joined[name].cast(pl.String) == joined[f"{name}_log"].cast(pl.String)).all(), name
    assert (rows["mask"] & 1 == rows["label"]).all()
    assert (rows["tick_learned"] * 1000 - rows["event_time"] > Scenario().times.label_window_s * 1000).all()
    seen = rows.sort("event_time", maintain_order=True).select(
        "item_seen", pl.int_range(pl.len()).over("item_id").alias("expected")
    )
    assert seen["item_seen"].sum() == seen["expected"].sum()
    report = rehearse([night.table], Scenario(), Trunk.empty())
    assert found.run.weights_digest == report.weights_digest
    assert found.counts.positives == report.positives


def test_rows_that_are_written_in_many_pieces_are_the_same(
    night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Impressions wait for their label across flushes, are found after them, and are then let go."""
    _, whole, _ = evaluated(tmp_path, night.log, "--cadence", "10s")
    monkeypatch.setattr("surgeline.evaluation.evaluate.CHUNK_ROWS", 150)
    monkeypatch.setattr("surgeline.evaluation.predictions.FLUSH_ROWS", 100)
    waiting: list[int] = []
    settle = Predictions.settle

    def watched(rows: Predictions, labels_until: int) -> None:
        settle(rows, labels_until)
        waiting.append(sum(frame.height for frame in rows._waiting))

    monkeypatch.setattr(Predictions, "settle", watched)
    _, pieces, _ = evaluated(tmp_path, night.log, "--cadence", "10s")
    assert pieces.equals(whole)
    assert max(waiting[len(waiting) // 2 :]) < whole.height / 3


def test_only_what_follows_the_training_is_judged(night: Night, tmp_path: Path) -> None:
    times = night.table["event_time"]
    at = int(times[0]) + 45_000
    options = ["--until-train", at, "--epochs", 1, "--hidden", 4]
    cold, rows, output = evaluated(tmp_path, night.log, *options, "--cold")
    assert rows["event_time"].min() >= at
    assert cold.counts.impressions == rows.height
    assert cold.run.trunk_hash != "none" and cold.run.trunk_hash[:12] in output
    assert cold.run.trunk_fitted is not None and cold.run.trunk_fitted.rows == 0
    assert "fitted to" not in "\n".join(cold.notes) and "(--cold)" in "\n".join(cold.notes)
    # Its items are not new because the engine did not see them.
    assert rows["item_seen"].max() > rows.group_by("item_id").len()["len"].max()
    warm, warm_rows, _ = evaluated(tmp_path, night.log, *options)
    assert (warm.run.warm, cold.run.warm) == (True, False)
    assert warm_rows["impression_id"].equals(rows["impression_id"])
    assert warm.counts.impressions > warm.counts.rows == rows.height
    assert warm.run.trunk_hash == cold.run.trunk_hash
    assert (warm_rows["p_last_layer"] != rows["p_last_layer"]).any()


def test_features_know_the_training_part_and_learners_begin_after_it(night: Night, tmp_path: Path) -> None:
    """Failure: features that a trunk was trained on are unknown again where it is judged, or learners have
    learned from rows that it was fitted to.

    Mechanism: the first rows after the cut, whose labels are open, so that nobody has learned yet. Required:
    each learner predicts them as it would without any learning, from the features of the whole log.
    """
    at = int(night.table["event_time"][0]) + 45_000
    trunk = tmp_path / "trunk"
    train = ["train", night.log, "--until", at, "--out", trunk, "--epochs", 1, "--hidden", 4]
    assert CliRunner().invoke(main, [str(word) for word in train]).exit_code == 0
    found, rows, _ = evaluated(tmp_path, night.log, "--until-train", at, "--epochs", 1, "--hidden", 4)
    assert all(row.binned_auc is not None for row in found.learners)
    first = rows.filter(pl.col("event_time") < at + Scenario().times.label_window_s * 1000)
    assert first.height > 50

    expected: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:

        def observe(_: int, closed: Closed) -> None:
            for k, name in enumerate(closed.shown.ids):
                expected[name] = closed.predictions[k].tolist()

        rehearsal = Rehearsal(Scenario(), load_trunk(trunk), folder, observe)
        # Nobody ever learns.
        rehearsal.engine.learn_from = FAR_MS
        names = rehearsal.engine.panel.learner_names
        with contextlib.closing(rehearsal.engine.store):
            rehearsal.feed(night.table)
            rehearsal.finish()
    for k, name in enumerate(names):
        unlearned = [expected[one][k] for one in first["impression_id"].to_list()]
        assert first[f"p_{name}"].to_list() == unlearned, name
    assert rows["p_last_layer"].to_list() != [expected[one][1] for one in rows["impression_id"].to_list()]


def test_a_trunk_that_has_seen_the_rows_is_told(night: Night, tmp_path: Path) -> None:
    """Fails when figures of rows that the trunk was fitted to pose as figures of new ones."""
    times, trunk = night.table["event_time"], tmp_path / "trunk"
    at = int(times[0]) + 45_000
    train = ["train", night.log, "--until", at, "--out", trunk, "--epochs", 1, "--hidden", 4]
    assert CliRunner().invoke(main, [str(word) for word in train]).exit_code == 0
    page = tmp_path / "page.html"
    found, rows, output = evaluated(tmp_path, night.log, "--trunk", trunk, "--report", page)
    seen = rows.filter(pl.col("event_time") < at).height
    fitted = found.run.trunk_fitted
    assert fitted is not None and fitted.same_log and 0 < fitted.rows == seen < rows.height
    part = f"{seen:,} of {rows.height:,} evaluated impressions ({seen / rows.height:.1%})"
    said = f"The trunk was fitted to {part}"
    assert sum(line.startswith(said) for line in output.splitlines()) == 1
    assert said in page.read_text(encoding="utf-8")
    other = tmp_path / "other.parquet"
    night.table.write_parquet(other)
    found, _, output = evaluated(tmp_path, other, "--trunk", trunk)
    assert found.run.trunk_fitted is not None and not found.run.trunk_fitted.same_log
    assert f"{part} lie in the time" in output and "If that log has the same rows" in output


def test_truth_is_a_learner_that_nobody_beats(night: Night, tmp_path: Path) -> None:
    found, _, _ = evaluated(tmp_path, night.log, "--truth", night.truth)
    figures = {row.name: row.estimate.figures for row in found.learners}
    assert max(f.auc or 0.0 for f in figures.values()) == figures["truth"].auc
    assert {"hot", "bot"} & {segment.name for segment in found.segments}
    for segment in found.segments:
        assert sum(row.samples for row in segment.rows) == found.counts.rows


def test_a_truth_of_another_log_is_refused(night: Night, tmp_path: Path) -> None:
    pl.read_parquet(night.truth).head(10).write_parquet(tmp_path / "other.parquet")
    result = run(night.log, "--truth", tmp_path / "other.parquet")
    assert result.exit_code == 2 and "is it of this log?" in result.output


def test_limit_takes_the_first_events(night: Night, tmp_path: Path) -> None:
    found, rows, _ = evaluated(tmp_path, night.log, "--limit", 300)
    assert found.counts.events == 300
    shown = night.table.head(300).filter(pl.col("event") == "impression")
    assert rows.height == shown.height
    # Clicks on the last impressions are beyond the limit: said, as the labels cannot know.
    open_ended = (shown["event_time"] > night.table["event_time"][299] - 5000).sum()
    assert any(note.startswith(f"{open_ended:,} impressions came so late") for note in found.notes)
    whole, _, _ = evaluated(tmp_path, night.log)
    assert not any("--limit" in note for note in whole.notes)


def test_a_log_without_clicks_has_a_dash_for_an_auc(night: Night, tmp_path: Path) -> None:
    night.table.filter(pl.col("event") == "impression").head(200).write_parquet(tmp_path / "quiet.parquet")
    report = tmp_path / "quiet.html"
    found, _, output = evaluated(tmp_path, tmp_path / "quiet.parquet", "--report", report)
    assert found.learners[0].estimate.figures.auc is None
    assert "–" in output and "No impression was clicked" in output
    assert "–" in report.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "neither a file nor a known log"),
        (["{log}", "--until-train", "tomorrow"], "neither milliseconds nor an ISO time"),
        (["{log}", "--until-train", "2001-01-01"], "has no impressions before"),
        (["{log}", "--cold"], "--until-train"),
        (["{log}", "--until-train", "2030-01-01", "--trunk", "x"], "not both"),
        (["{log}", "--cadence", "often"], "--cadence"),
        (["{log}", "--json", "/nonexistent/x.json"], "folder does not exist"),
        (["{log}", "--truth", "/nonexistent.parquet"], "no such file"),
    ],
)
def test_a_wrong_request_is_one_line(night: Night, arguments: list[str], said: str) -> None:
    result = run(*(a.format(log=night.log) for a in arguments))
    assert result.exit_code == 2, result.output
    assert said in result.output and "Traceback" not in result.output


@pytest.mark.parametrize("option", ["--predictions", "--json", "--report"])
def test_an_output_never_replaces_what_is_read(night: Night, tmp_path: Path, option: str) -> None:
    """Fails when a result is written over the log or the truth that it is made from."""
    log, truth = tmp_path / "n.parquet", tmp_path / "t.parquet"
    log.write_bytes(night.log.read_bytes())
    truth.write_bytes(night.truth.read_bytes())
    (tmp_path / "other").symlink_to(log)
    for path in (log, tmp_path / "other", truth):
        result = run(log, "--truth", truth, "--limit", 50, option, path)
        assert result.exit_code == 2 and "would be overwritten" in result.output
    twice = run(log, "--limit", 50, "--json", tmp_path / "x", option, tmp_path / "." / "x")
    assert twice.exit_code == (0 if option == "--json" else 2), twice.output
    assert log.read_bytes() == night.log.read_bytes() and truth.read_bytes() == night.truth.read_bytes()


def test_what_would_fail_at_the_end_fails_before_the_training(
    night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when a file that is no truth, or a cadence between two ticks, is found out late."""
    monkeypatch.setattr(
        "surgeline.evaluation.evaluate.train_on", lambda *_, **__: pytest.fail("trained first")
    )
    start = int(night.table["event_time"].median())  # type: ignore[arg-type]
    for wrong in (["--truth", night.log], ["--cadence", "1500ms"], ["--cadence", "1.5s"]):
        result = run(night.log, "--until-train", start, *wrong)
        assert result.exit_code == 2, result.output


def test_notes_say_what_the_labels_left_out(tmp_path: Path) -> None:
    """Fails when rows, clicks or orphans vanish without a word, or a constant poses as a model."""
    (tmp_path / "m.toml").write_text(
        '[fields]\nevent_time = "t"\nuser_id = "u"\nitem_id = "i"\n'
        '[labels.click]\ncolumn = "c"\ndelay = "d"\n'
    )
    table = [
        f"{1_700_000_000_000 + k * 1000},u{k},i{k % 3},{k % 2},{30 if k == 21 else 1}" for k in range(40)
    ]
    (tmp_path / "log.csv").write_text("\n".join(["t,u,i,c,d", *table, "noon,u1,i1,1,1", ""]))
    found, _, output = evaluated(tmp_path, tmp_path / "log.csv", "--mapping", tmp_path / "m.toml")
    said = "\n".join(found.notes)
    assert "Without a trunk, frozen predicts 2%" in said
    assert "1 of 20 clicks came after the label window of 5 s" in said
    assert found.counts.row_positives == 19
    assert "1 rows of the log are no events" in said and "row 41" in said and "noon" in said
    assert all(note in output for note in found.notes)


@pytest.mark.parametrize(
    ("years", "said"), [(30, "50 events were refused"), (200, "50 rows refused (row 1: event_time")]
)
def test_a_log_of_the_future_says_why_there_is_nothing(
    night: Night, tmp_path: Path, years: int, said: str
) -> None:
    """Ahead of the clock the engine refuses events; beyond the contract they are no events at all."""
    table = night.table.head(50).with_columns(pl.col("event_time") + years * 365 * 86_400_000)
    table.write_parquet(tmp_path / "future.parquet")
    result = run(tmp_path / "future.parquet")
    assert result.exit_code == 2 and said in result.output


def test_times_are_utc() -> None:
    assert parse_time("2018-11-08T00:00:00+08:00") == parse_time("2018-11-07T16:00:00Z") == 1_541_606_400_000
