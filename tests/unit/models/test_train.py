"""Failure: labels leak or are lost, or a log that cannot be trained on ends in a traceback.

Required: a click counts within its window and before ``until``; every refusal says what is missing.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from models.deep.load import load_trunk
from models.train import TrainError, main, read_samples, train_from_log

T = 1_700_000_000_000


def impression(k: int, at: int, **more: Any) -> dict[str, Any]:
    return {
        "event": "impression",
        "event_time": at,
        "impression_id": f"i{k}",
        "user_id": f"u{k % 7}",
        "item_id": f"x{k % 5}",
        "position": k % 3,
        "price": 10.0,
        "context": {"device": "phone"},
        "action": None,
        **more,
    }


def action(k: int, at: int, name: str = "click") -> dict[str, Any]:
    return impression(k, at, event="action", action=name)


def write(folder: Path, rows: list[dict[str, Any]], name: str = "log.parquet") -> Path:
    frame = pl.DataFrame(rows, infer_schema_length=None)
    path = folder / name
    frame.write_ndjson(path) if path.suffix == ".jsonl" else frame.write_parquet(path)
    return path


ROWS = [
    impression(0, T),
    impression(1, T + 1000),
    impression(2, T + 2000),
    action(0, T + 2500),
    action(1, T + 61_000),
    action(2, T + 3000, "purchase"),
    action(9, T + 3000),
]


@pytest.mark.parametrize("name", ["log.parquet", "log.jsonl"])
def test_a_click_on_the_impression_makes_it_positive(tmp_path: Path, name: str) -> None:
    samples = read_samples(write(tmp_path, ROWS, name))
    assert samples.clicked.tolist() == [True, True, False]
    assert list(samples.columns["item_id"]) == ["x0", "x1", "x2"]
    assert samples.columns["context"][0] == {"device": "phone"}


def test_the_label_window_cuts_late_clicks(tmp_path: Path) -> None:
    log = write(tmp_path, ROWS)
    assert read_samples(log, label_window_s=5.0).clicked.tolist() == [True, False, False]
    assert read_samples(log, label_window_s=60.0).clicked.tolist() == [True, True, False]


def test_nothing_from_until_on_is_read_clicks_included(tmp_path: Path) -> None:
    samples = read_samples(write(tmp_path, ROWS), until=T + 2600)
    assert samples.clicked.tolist() == [True, False, False]


def test_repeated_impressions_and_clicks_count_once(tmp_path: Path) -> None:
    samples = read_samples(write(tmp_path, [*ROWS, ROWS[0], ROWS[3]]))
    assert samples.clicked.tolist() == [True, True, False]


def test_optional_columns_may_be_absent(tmp_path: Path) -> None:
    optional = {"position", "price", "context"}
    rows = [{k: v for k, v in row.items() if k not in optional} for row in ROWS]
    columns = read_samples(write(tmp_path, rows)).columns
    assert list(columns["shop_id"]) == ["", "", ""]
    assert np.asarray(columns["price"]).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([row for row in ROWS if row["event"] == "action"], "no impressions"),
        (ROWS[:3], "none of the 3 impressions was clicked"),
        ([{"event": "impression", "event_time": T}], "no column impression_id, user_id, item_id, action"),
        ([row | {"event_time": "yesterday"} for row in ROWS], "wrong type"),
    ],
)
def test_a_log_that_cannot_be_trained_on_is_explained(
    tmp_path: Path, rows: list[dict[str, Any]], reason: str
) -> None:
    with pytest.raises(TrainError, match=reason):
        read_samples(write(tmp_path, rows))


def test_missing_and_foreign_files_are_explained(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="no such file"):
        read_samples(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(TrainError, match="not a Parquet"):
        read_samples(tmp_path / "text.parquet")


def test_train_writes_a_trunk_that_loads_and_reports_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [impression(k, T + 1000 * k, price=float(k % 11)) for k in range(400)]
    rows += [action(k, T + 1000 * k + 500) for k in range(0, 400, 4)]
    log = write(tmp_path, rows)
    assert main(["--log", str(log), "--out", str(tmp_path / "trunk"), "--hidden", "4", "--epochs", "1"]) == 0
    trunk = load_trunk(tmp_path / "trunk")
    assert trunk.hidden_size == 4
    said = capsys.readouterr().out
    assert "400 impressions with 100 clicks" in said
    assert trunk.hash[:12] in said
    report = train_from_log(log, tmp_path / "again", hidden=4, epochs=1)
    assert report.trunk_hash == trunk.hash
    assert report.training.log == "log.parquet"


def test_a_library_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LightGBM's wheel needs the system's libgomp, which slim images lack."""
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    monkeypatch.delitem(sys.modules, "models.deep.fits.trees", raising=False)
    with pytest.raises(TrainError, match=r"trains a trunk of kind trees cannot be loaded: .*lightgbm"):
        train_from_log(write(tmp_path, ROWS), tmp_path / "trunk", kind="trees")
    with pytest.raises(TrainError, match="'forest'; there are network, trees"):
        train_from_log(write(tmp_path, ROWS), tmp_path / "trunk", kind="forest")


def test_a_folder_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainError, match="cannot be written"):
        train_from_log(write(tmp_path, ROWS), tmp_path / "file", hidden=2, epochs=1)


def test_the_command_fails_with_a_reason_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--log", str(tmp_path / "absent.parquet"), "--out", str(tmp_path)]) == 2
    assert "no such file" in capsys.readouterr().err


def test_a_context_field_that_an_impression_leaves_out_is_empty(tmp_path: Path) -> None:
    """In a struct of all fields it stands as null, which no id can be."""
    rows = [impression(k, T + k, context={"device": "phone", "city": "x" if k else None}) for k in range(4)]
    samples = read_samples(write(tmp_path, [*rows, action(1, T + 9)]))
    assert samples.columns["context"][0] == {"device": "phone", "city": ""}


def described(tmp_path: Path, rows: list[dict[str, Any]]) -> str:
    return train_from_log(write(tmp_path, rows), tmp_path / "trunk", hidden=4, epochs=3).describe()


def test_an_auc_that_chance_would_give_is_said_to_be_one(tmp_path: Path) -> None:
    """Failure: "AUC 0.5000" or "AUC 0.71" of three held-out clicks stands there as if it were a finding.

    Required: how many clicks were held out, the interval, that it cannot be told from chance, what would.
    """
    rng = np.random.default_rng(3)
    rows = [impression(k, T + 1000 * k) for k in range(600)]
    rows += [action(int(k), T + 1000 * int(k) + 500) for k in rng.choice(600, 20, replace=False)]
    said = described(tmp_path, rows)
    clicks = int(said.split("held out the newest 90, ".capitalize())[1].split(" ")[0])
    assert 0 < clicks < 20
    assert "(95 %: " in said
    assert f"{clicks} held-out clicks cannot tell this trunk from one that knows nothing" in said
    assert f"about 262, a log with {262 / clicks:,.1f} times the clicks" in said
    assert "surgeline simulate" in said


def test_one_score_for_all_is_said(tmp_path: Path) -> None:
    """Clicks that depend on nothing: training ends with the constant that it began with."""
    rows = [impression(k, T + 1000 * k, user_id="u", item_id="x", context=None) for k in range(600)]
    rows = [row | {"position": 0} for row in rows]
    rows += [action(k, T + 1000 * k + 500) for k in range(0, 600, 7)]
    assert "Every impression gets the same score" in described(tmp_path, rows)


def test_an_auc_that_says_something_stands_alone(tmp_path: Path) -> None:
    rows = [impression(k, T + 1000 * k, item_id=f"x{k % 4}", user_id="u") for k in range(3000)]
    rows += [action(k, T + 1000 * k + 500) for k in range(3000) if k % 4 == 0 and k % 12]
    said = described(tmp_path, rows)
    assert "cannot tell" not in said and "same score" not in said
    assert "(95 %: " in said
