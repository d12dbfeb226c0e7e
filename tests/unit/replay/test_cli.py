"""Fails when a command does not do what its help says, or shows a trace where a sentence is due."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from replay.adapters.registry import ADAPTERS
from replay.cli import export, inspect_log, logs, replay
from replay.display import Display, status
from replay.errors import BrokerError, LogError, PaceError
from replay.files import write_log
from replay.open_log import open_log
from replay.player import Progress


@pytest.fixture
def path(make: Any, tmp_path: Path) -> Path:
    file = tmp_path / "steady.jsonl"
    write_log(make.steady(100).chunks(), file)
    return file


@pytest.mark.parametrize(("limit", "events"), [([], 110), (["--limit", "7"], 7), (["--limit", "1000"], 110)])
def test_export_writes_the_first_events(path: Path, tmp_path: Path, limit: list[str], events: int) -> None:
    out = tmp_path / "out" / "log.parquet"
    done = CliRunner().invoke(export, [str(path), "--out", str(out), *limit])
    assert done.exit_code == 0, done.output
    assert f"{events} events" in done.output
    assert open_log(out).info().events == events


def test_inspect_counts_and_draws_the_rate(path: Path) -> None:
    done = CliRunner().invoke(inspect_log, [str(path)])
    assert done.exit_code == 0, done.output
    for line in (
        "impressions  100",
        "actions      10 (click 10)",
        "first        2023-11-14 22:13:20.000 UTC",
        "last         2023-11-14 22:13:29.900 UTC",
        "peak         11 events in one second",
    ):
        assert line in done.output
    assert "|" in done.output.splitlines()[-1]


def test_inspect_tells_of_refused_rows(make: Any, tmp_path: Path) -> None:
    file = tmp_path / "log.parquet"
    make.frame(make.impression(1, 0), make.impression(2, 5, item_id="")).write_parquet(file)
    done = CliRunner().invoke(inspect_log, [str(file)])
    assert "1 rows refused (row 2: item_id is missing)" in done.stderr


def test_an_empty_log_is_no_error(make: Any, tmp_path: Path) -> None:
    file = tmp_path / "log.parquet"
    make.frame(make.impression(1, 0)).head(0).write_parquet(file)
    done = CliRunner().invoke(inspect_log, [str(file)])
    assert done.exit_code == 0 and "impressions  0" in done.output


def test_logs_lists_every_adapter_and_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taobao").mkdir()
    (tmp_path / "taobao" / "UserBehavior.csv").write_text("")
    monkeypatch.setenv("SURGELINE_DATA", str(tmp_path))
    monkeypatch.setenv("SURGELINE_HOME", str(tmp_path / "home"))
    done = CliRunner().invoke(logs)
    assert done.exit_code == 0, done.output
    assert all(f"{name} " in done.output for name in ADAPTERS)
    assert str(tmp_path / "taobao" / "UserBehavior.csv") in done.output
    assert "fetched on first use" in done.output and "put train.gz" in done.output


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nowhere.parquet"], LogError),
        (["LOG", "--speed", "fast"], PaceError),
        (["LOG", "--speed", "2x", "--rate", "5"], PaceError),
        (["LOG", "--bootstrap", "127.0.0.1:1"], BrokerError),
    ],
)
def test_replay_fails_with_a_typed_error(path: Path, arguments: list[str], error: type[Exception]) -> None:
    done = CliRunner().invoke(replay, [str(path) if word == "LOG" else word for word in arguments])
    assert isinstance(done.exception, error)


def test_a_progress_line_says_what_is_known() -> None:
    progress = Progress(events=500, seconds=2.0, event_ms=1_574_553_617_004, lateness_s=0.25, lag=12)
    assert status(progress, 1500) == (
        "500 of 1,500 events, 250/s, at 2019-11-24 00:00:17, 4 s left, late by at most 250 ms, "
        "engine behind by 12 records"
    )
    assert status(Progress(0, 0.0, 0, 0.0), None) == "0 events, 0/s, at 1970-01-01 00:00:00"


def test_without_a_terminal_progress_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of updates must not become thousands of lines in a log file."""
    monkeypatch.setattr("replay.display.LINE_EVERY_S", 0.0)
    with Display("obd", None, 100) as display:
        display.update(Progress(50, 1.0, 0, 0.0))
    assert capsys.readouterr().err == "obd: 50 of 100 events, 50/s, at 1970-01-01 00:00:00, 1 s left\n"
    monkeypatch.setattr("replay.display.LINE_EVERY_S", 3600.0)
    with Display("obd", None, 100) as display:
        for _ in range(1000):
            display.update(Progress(50, 1.0, 0, 0.0))
    assert capsys.readouterr().err == ""
