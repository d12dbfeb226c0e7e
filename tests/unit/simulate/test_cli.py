"""Fails when the command writes other bytes for equal options, or hides what was wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner, Result

from replay.simulate.cli import simulate
from replay.simulate.parquet import sha256

QUICK = ["--minutes", "0.2", "--rate", "800", "--users", "300", "--items", "200", "--cell-s", "1"]


def call(*options: str) -> Result:
    return CliRunner().invoke(simulate, ["double11", *QUICK, *options])


def test_equal_options_give_equal_files(tmp_path: Path) -> None:
    first = call("--out", str(tmp_path / "a"), "--truth", str(tmp_path / "at"), "--json")
    second = call("--out", str(tmp_path / "b"), "--truth", str(tmp_path / "bt"), "--json")
    assert first.exit_code == second.exit_code == 0, first.output
    printed = json.loads(first.output)["sha256"]
    assert list(printed.values()) == list(json.loads(second.output)["sha256"].values())
    assert printed[str(tmp_path / "a")] == sha256(tmp_path / "a") == sha256(tmp_path / "b")
    other = call("--out", str(tmp_path / "c"), "--seed", "8")
    assert other.exit_code == 0
    assert sha256(tmp_path / "c") != sha256(tmp_path / "a")


def test_the_summary_stands_beside_the_published_figures(tmp_path: Path) -> None:
    result = call("--out", str(tmp_path / "a"), "--regret")
    assert result.exit_code == 0, result.output
    for text in ("59 (World Cup 98)", "55.0 % (DEFER)", "clicks lost to the oracle", "events/s", "sha256 "):
        assert text in result.output


def test_a_limit_cuts_log_and_truth_alike(tmp_path: Path) -> None:
    assert call("--out", str(tmp_path / "all"), "--truth", str(tmp_path / "allt")).exit_code == 0
    result = call("--out", str(tmp_path / "a"), "--truth", str(tmp_path / "t"), "--limit-events", "1500")
    assert result.exit_code == 0, result.output
    log, truth = pl.read_parquet(tmp_path / "a"), pl.read_parquet(tmp_path / "t")
    assert log.equals(pl.read_parquet(tmp_path / "all").head(1_500), null_equal=True)
    ids = log.filter(pl.col("event") == "impression")["impression_id"]
    assert ids.to_list() == truth["impression_id"].to_list()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bot-share", "2"], "bot_share must be between 0 and 0.5"),
        (["--start", "soon"], "start must be an ISO time"),
        (["--policy", "best"], "'best' is not one of 'logged', 'random', 'oracle'"),
        (["--truth", "SAME"], "--truth must not be the file of --out"),
        (["--hours", "0.5"], "jump_ratio must be between 1.04 and 5.2"),
        (["--rate", "1", "--minutes", "0.05"], "raise --rate or --minutes"),
    ],
)
def test_wrong_options_are_named_and_leave_no_file(tmp_path: Path, options: list[str], message: str) -> None:
    out = str(tmp_path / "x")
    result = call("--out", out, *(out if option == "SAME" else option for option in options))
    assert result.exit_code != 0
    assert message in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    result = call("--out", str(tmp_path / "no" / "x"))
    assert result.exit_code == 1 and "cannot be written" in result.output
