"""Fails when Open Bandit Data is not read whole, is fetched unchecked, or a missing network is a riddle.

The package comes from PyPI once and is kept where the other data of Surgeline is.
"""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import polars as pl
import pytest

import replay.adapters.obd_fetch as fetching
from replay.adapters import obd
from replay.errors import DownloadError, LogNotFoundError
from replay.open_log import open_log


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    return pl.concat(list(open_log("obd").chunks()))


def test_all_six_logs_are_merged_in_time_order(table: pl.DataFrame) -> None:
    shown = table.filter(event="impression")
    assert (shown.height, table.height - shown.height) == (60_000, 287)
    assert table["event_time"].is_sorted()
    assert shown["impression_id"].n_unique() == 60_000
    # Of a few lists two rows were sampled.
    assert 0 < 60_000 - shown["request_id"].n_unique() < 100
    sizes = shown["context"].struct.unnest().group_by("policy", "campaign").len()
    assert sizes["len"].to_list() == [10_000] * 6
    clicks = table.filter(action="click").join(shown, on="impression_id", suffix="_shown")
    assert clicks.height == 287
    assert (clicks["event_time"] == clicks["event_time_shown"]).all()


def test_items_are_distinct_in_each_campaign_and_shared_by_policies(table: pl.DataFrame) -> None:
    shown = table.filter(event="impression")
    assert shown["item_id"].n_unique() == 80 + 34 + 46
    assert shown.group_by("item_id").agg(pl.col("category_id").n_unique())["category_id"].max() == 1
    assert shown["position"].unique().sort().to_list() == [1, 2, 3]
    assert shown["context"].struct.field("propensity").cast(pl.Float64).is_between(0, 1).all()


def test_a_user_is_a_segment_with_a_stable_name(table: pl.DataFrame) -> None:
    """A digest that changes between versions would change every partition and every digest of state."""
    first = table.row(0, named=True)
    assert (first["impression_id"], first["user_id"]) == ("obd-bts-all-0", "dfc089080f66d7da")


def test_another_file_of_the_same_name_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / fetching.WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("obp/dataset/obd/bts/all/all.csv", "x")
    with pytest.raises(DownloadError, match=r"sha256 is .* expected 87dec9ca"):
        fetching.extract(wheel, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        ("/usr/bin/python: No module named pip", "has no pip"),
        (
            "WARNING: x\nERROR: No matching distribution found",
            "No matching distribution found. Without a network",
        ),
    ],
)
def test_without_pip_or_network_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, expected: str
) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", stderr)

    monkeypatch.setattr(fetching.subprocess, "run", run)
    with pytest.raises(DownloadError, match=expected) as caught:
        fetching.fetch(tmp_path / "home" / "obd")
    assert "SURGELINE_OBD" in str(caught.value)
    assert not (tmp_path / "home" / "obd").exists()


def test_an_incomplete_folder_is_not_taken(tmp_path: Path) -> None:
    with pytest.raises(LogNotFoundError, match="all six"):
        obd.open_path(tmp_path)
