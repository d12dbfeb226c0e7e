"""Fails when `surgeline train` trains on something else than the log says, or replaces a trunk to keep."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from models.deep.load import load_trunk
from surgeline.cli import main
from surgeline.train import holds_trunk

START = 1_731_254_400_000


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Two hundred impressions of four items, the first of which is clicked every time."""
    rows = []
    for n in range(200):
        at = START + n * 1000
        event = {"event_time": at, "impression_id": f"i{n}", "user_id": f"u{n % 9}", "item_id": f"x{n % 4}"}
        rows.append({**event, "event": "impression", "position": n % 5, "price": 9.5, "action": None})
        if n % 4 == 0:
            rows.append({**event, "event": "action", "event_time": at + 500, "action": "click"})
    path = tmp_path / "sale.jsonl"
    pl.DataFrame(rows, infer_schema_length=None).write_ndjson(path)
    return path


def train(log: Path, out: Path, *more: str) -> str:
    result = CliRunner().invoke(main, ["train", str(log), "--out", str(out), "--epochs", "1", *more])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_log_becomes_a_trunk_that_loads(log: Path, tmp_path: Path) -> None:
    output = train(log, tmp_path / "trunk", "--hidden", "8")
    assert "200 impressions with 50 clicks from sale.\n" in output
    assert load_trunk(tmp_path / "trunk").hidden_size == 8


def test_keep_leaves_a_trunk_that_loads(log: Path, tmp_path: Path) -> None:
    """A second start of the stack must not change the hash that workers and serving agree on."""
    out = tmp_path / "trunk"
    train(log, out, "--keep")
    first = {file.name: file.read_bytes() for file in out.iterdir()}
    assert "kept" in train(log, out, "--keep", "--seed", "5")
    assert {file.name: file.read_bytes() for file in out.iterdir()} == first


def test_keep_replaces_one_that_is_broken(log: Path, tmp_path: Path) -> None:
    """A training that was killed between its two files is done again."""
    out = tmp_path / "trunk"
    train(log, out)
    next(out.glob("*.safetensors")).write_bytes(b"half")
    assert not holds_trunk(out)
    train(log, out, "--keep")
    assert holds_trunk(out)


def test_without_out_it_goes_where_workers_look(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SURGELINE_HOME", str(tmp_path / "home"))
    result = CliRunner().invoke(main, ["train", str(log), "--epochs", "1"])
    assert result.exit_code == 0, result.output
    assert holds_trunk(tmp_path / "home" / "trunk")


def test_an_unknown_log_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["train", "nonsense", "--out", str(tmp_path)])
    assert result.exit_code in (1, 2)
    assert result.output.startswith("Error: nonsense") and result.output.count("\n") == 1


def test_a_log_without_clicks_is_one_line(tmp_path: Path, log: Path) -> None:
    quiet = tmp_path / "quiet.jsonl"
    pl.read_ndjson(log).filter(pl.col("event") == "impression").write_ndjson(quiet)
    result = CliRunner().invoke(main, ["train", str(quiet), "--out", str(tmp_path / "trunk")])
    assert result.exit_code == 2
    assert "nothing to learn" in result.output and "Traceback" not in result.output


def refusal(log: Path, *more: str) -> str:
    result = CliRunner().invoke(main, ["train", str(log), "--out", str(log.parent / "t"), *more])
    assert result.exit_code == 2, result.output
    return result.output


def test_what_cannot_be_trained_on_is_named(log: Path, tmp_path: Path) -> None:
    """Fails when the error names a temporary file, or the rows that were refused go unmentioned."""
    assert "sale has no impressions before 2000-01-01" in refusal(log, "--until", "2000-01-01")
    quiet = tmp_path / "quiet.jsonl"
    pl.read_ndjson(log).filter(pl.col("event") == "impression").write_ndjson(quiet)
    said = refusal(quiet)
    assert "quiet: none of the 200 impressions was clicked" in said and "surgeline-train-" not in said
    bad = tmp_path / "bad.jsonl"
    pl.read_ndjson(quiet).with_columns(pl.lit(-1).alias("position")).write_ndjson(bad)
    assert "200 rows refused" in refusal(bad)


def test_until_is_a_time_as_in_evaluate(log: Path, tmp_path: Path) -> None:
    """Fails when `train` and `evaluate` take different times for the same split."""
    half = "2024-11-10T16:01:40Z"
    assert START == 1_731_254_400_000, "2024-11-10T16:00:00Z"
    assert "Trained on 100 impressions with 25 clicks" in train(log, tmp_path / "a", "--until", half)
    train(log, tmp_path / "b", "--until", str(START + 100_000))
    assert load_trunk(tmp_path / "a").hash == load_trunk(tmp_path / "b").hash
    # Nothing of what follows is read, the click on the newest impression included.
    clicked_later = str(START + 96_100)
    assert "Trained on 97 impressions with 24 clicks" in train(log, tmp_path / "c", "--until", clicked_later)
    assert "neither milliseconds nor an ISO time" in refusal(log, "--until", "noon")
