"""Fails when a file written row group by row group is not the frames that went in, or its bytes depend on
how they were cut."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.simulate import Night
from replay.simulate.parquet import RowGroupWriter, WriterError, sha256


def write(path: Path, frame: pl.DataFrame, cuts: list[int], rows: int) -> str:
    edges = [0, *sorted(min(cut, frame.height) for cut in cuts), frame.height]
    with RowGroupWriter(path, rows=rows) as file:
        for left, right in pairwise(edges):
            file.write(frame.slice(left, right - left))
    return sha256(path)


@settings(max_examples=12, deadline=None)
@given(cuts=st.lists(st.integers(0, 3_000), max_size=6), rows=st.sampled_from([97, 1_000, 5_000]))
def test_bytes_and_rows_do_not_depend_on_the_cuts(
    tmp_path_factory: pytest.TempPathFactory, night: Night, cuts: list[int], rows: int
) -> None:
    folder = tmp_path_factory.mktemp("parquet")
    frame = night.log.slice(40_000, 3_000)
    whole = write(folder / "whole.parquet", frame, [], rows)
    assert write(folder / "cut.parquet", frame, cuts, rows) == whole
    assert pl.read_parquet(folder / "cut.parquet").equals(frame, null_equal=True)


def test_row_groups_are_pruned_by_statistics_and_scanned_lazily(tmp_path: Path, night: Night) -> None:
    path = tmp_path / "log.parquet"
    write(path, night.log, [], 10_000)
    scan = pl.scan_parquet(path)
    middle = night.log["event_time"][night.log.height // 2]
    found = scan.filter(pl.col("event_time") == middle).collect()
    assert found.equals(night.log.filter(pl.col("event_time") == middle), null_equal=True)
    assert scan.select(pl.len()).collect().item() == night.log.height
    assert scan.slice(25_000, 10).collect().equals(night.log.slice(25_000, 10), null_equal=True)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    with pytest.raises(ZeroDivisionError), RowGroupWriter(path) as file:
        file.write(pl.DataFrame({"a": [1]}))
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full on this system")
@pytest.mark.parametrize("rows", [10, 1_000_000], ids=["while it is written", "when it is closed"])
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, rows: int, night: Night) -> None:
    (tmp_path / "x.part").symlink_to("/dev/full")
    full = pytest.raises(WriterError, match="x: cannot be written: No space left")
    with full, RowGroupWriter(tmp_path / "x", rows=rows) as file:
        file.write(night.log.head(2_000))
    assert list(tmp_path.iterdir()) == []


def test_refused_writes_say_why(tmp_path: Path) -> None:
    with pytest.raises(WriterError, match="columns differ"), RowGroupWriter(tmp_path / "x") as file:
        file.write(pl.DataFrame({"a": [1]}))
        file.write(pl.DataFrame({"b": [1]}))
    with pytest.raises(WriterError, match="nothing was written"), RowGroupWriter(tmp_path / "y"):
        pass
    with pytest.raises(WriterError, match="cannot be written"):
        RowGroupWriter(tmp_path / "no" / "folder.parquet")


def test_an_empty_frame_is_a_file_with_columns(tmp_path: Path) -> None:
    write(tmp_path / "x", pl.DataFrame(schema={"a": pl.Int64}), [], 10)
    assert pl.read_parquet(tmp_path / "x").schema == {"a": pl.Int64}
