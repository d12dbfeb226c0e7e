"""Fails when `export --retime` loses or reorders events, or does not follow the other's arrivals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from replay.cli import export
from replay.errors import LogError, LogNotFoundError
from replay.files import write_log
from replay.open_log import open_log

#: The other log: 90 of 100 impressions in its first second, ten in its 60th.
START_MS = 1_600_000_000_000


@pytest.fixture
def path(make: Any, tmp_path: Path) -> Path:
    file = tmp_path / "steady.jsonl"
    write_log(make.steady(300).chunks(), file)
    return file


@pytest.fixture
def rush(make: Any, tmp_path: Path) -> Path:
    shift = START_MS - make.t0
    rows = [make.impression(k, shift + (k * 10 if k < 90 else 59_000 + k)) for k in range(100)]
    file = tmp_path / "rush.parquet"
    write_log(make.log(*rows).chunks(), file)
    return file


def run(log: Path, other: Path, out: Path, *more: str) -> pl.DataFrame:
    done = CliRunner().invoke(export, [str(log), "--retime", str(other), "--out", str(out), *more])
    assert done.exit_code == 0, done.output
    return pl.read_parquet(out)


def test_events_stay_and_come_when_the_others_come(path: Path, rush: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.parquet"
    assert CliRunner().invoke(export, [str(path), "--out", str(plain)]).exit_code == 0
    before, after = pl.read_parquet(plain), run(path, rush, tmp_path / "out.parquet")
    assert after.height == 330
    assert after.drop("event_time").equals(before.drop("event_time"))
    times = after["event_time"].to_numpy() - START_MS
    assert (np.diff(times) >= 0).all()
    assert (times < 1000).sum() == 297  # 90 % of 330
    assert ((times >= 59_000) & (times < 60_000)).sum() == 33
    curve = pl.read_parquet(rush)["event_time"].to_numpy() - START_MS
    for q in (0.1, 0.5, 0.8, 0.95):
        assert abs(np.quantile(times, q) - np.quantile(curve, q)) < 1000


def test_a_limit_is_of_the_retimed_log(path: Path, rush: Path, tmp_path: Path) -> None:
    whole = run(path, rush, tmp_path / "whole.parquet")
    assert run(path, rush, tmp_path / "part.parquet", "--limit", "40").equals(whole.head(40))


def test_counts_a_period_are_a_curve(path: Path, tmp_path: Path) -> None:
    curve = tmp_path / "requests.csv"
    # 22:01 is left out: nothing came then.
    curve.write_text("period,count\n1998-06-30 22:00:00,1\n1998-06-30 22:02:00,3\n1998-06-30 22:03:00,6\n")
    times = run(path, curve, tmp_path / "out.parquet")["event_time"].to_numpy()
    # 1998-06-30T22:00:00Z, a Tuesday: at the first Tuesday, 22:00, from the log's 2023-11-14T22:13:20Z on.
    start = 1_700_604_000_000
    assert np.bincount((times - start) // 60_000).tolist() == [33, 0, 99, 198]


def test_a_log_at_the_pace_of_1998_is_still_a_log(path: Path, tmp_path: Path) -> None:
    """Fails when export writes times that every reader of the log then refuses."""
    curve = tmp_path / "requests.csv"
    curve.write_text("period,count\n1998-06-30 22:00:00,1\n1998-06-30 22:01:00,3\n")
    out = tmp_path / "out.parquet"
    done = CliRunner().invoke(export, [str(path), "--retime", str(curve), "--out", str(out)])
    assert "moved by 1,325 weeks" in done.output
    info = open_log(out).info()
    assert (info.events, info.refused) == (open_log(path).info().events, 0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("period,count\n1998-06-30 22:00:00,1\n", "two periods"),
        ("period,count\nnoon,1\nlater,2\n", "period,count"),
        ("period,count\n1998-06-30 22:00:00,0\n1998-06-30 22:01:00,0\n", "positive sum"),
        (
            "period,count\n1998-06-30 22:00:00,1\n1998-06-30 22:01:00,1\n1998-06-30 22:02:30,1\n",
            "multiples",
        ),
    ],
)
def test_a_table_that_is_no_curve_is_refused(path: Path, tmp_path: Path, text: str, says: str) -> None:
    curve = tmp_path / "requests.csv"
    curve.write_text(text)
    done = CliRunner().invoke(
        export, [str(path), "--retime", str(curve), "--out", str(tmp_path / "o.parquet")]
    )
    assert isinstance(done.exception, LogError) and says in str(done.exception)
    assert not (tmp_path / "o.parquet").exists()


def test_an_unknown_other_is_refused(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.parquet"
    done = CliRunner().invoke(export, [str(path), "--retime", "nowhere", "--out", str(out)])
    assert isinstance(done.exception, LogNotFoundError) and "nowhere" in str(done.exception)


def test_a_canonical_csv_is_a_log_and_no_curve(make: Any, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    rows = [make.impression(k, 7_200_000 + k) for k in range(10)]
    make.frame(*rows).drop("context", strict=False).write_csv(other)
    times = run(path, other, tmp_path / "out.parquet")["event_time"]
    assert times.min() >= make.t0 + 7_200_000 and times.max() < make.t0 + 7_201_000  # type: ignore[operator]
