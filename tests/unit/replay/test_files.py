"""Fails when a written log reads back differently, its bytes depend on chunks, or a bad file is accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

import replay.files as files
from replay.errors import LogError
from replay.log import open_log, to_records, write_log


def rows(make: Any) -> list[dict[str, Any]]:
    return [
        make.impression(
            1, 0, category_id='c"1', price=9.5, position=3, context={"city": "Zürich\n", "os": None}
        ),
        make.impression(2, 5, shop_id="s", request_id="r", context={"city": None, "os": "x"}),
        make.action(1, 5),
        make.action(1, 9, "purchase", value=12.25),
    ]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_written_log_reads_back_as_the_same_records(make: Any, tmp_path: Path, suffix: str) -> None:
    log = make.log(*rows(make))
    path = tmp_path / f"log{suffix}"
    assert write_log(log.chunks(), path) == 4
    back = pl.concat(list(open_log(path).chunks()))
    assert to_records(back).values == to_records(log.table).values
    assert open_log(path).info() == log.info()


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_bytes_do_not_depend_on_chunks(
    make: Any, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two exports of one log must have one digest."""
    monkeypatch.setattr(files, "_ROW_GROUP", 64)
    log = make.steady(500)
    contents = set()
    for chunk in (7, 64, 1000):
        path = tmp_path / f"log-{chunk}{suffix}"
        write_log(log.chunks(chunk), path)
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_a_csv_with_the_canonical_columns_is_a_log(make: Any, tmp_path: Path) -> None:
    log = make.steady(20)
    path = tmp_path / "log.csv"
    log.table.write_csv(path)
    assert to_records(pl.concat(list(open_log(path).chunks()))).values == to_records(log.table).values


def test_an_unsorted_file_is_sorted(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    make.frame(make.action(1, 50), make.impression(2, 50), make.impression(1, 0)).write_parquet(path)
    assert make.events(pl.concat(list(open_log(path).chunks()))) == [
        (0, "i1", "shown"),
        (50, "i2", "shown"),
        (50, "i1", "click"),
    ]


def test_chunks_have_at_most_the_rows_asked_for_and_can_be_read_twice(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    write_log(make.steady(300).chunks(), path)
    log = open_log(path)
    for _ in range(2):
        heights = [chunk.height for chunk in log.chunks(50)]
        assert max(heights) <= 50 and sum(heights) == 330


def test_bad_rows_are_counted_with_their_numbers(make: Any, tmp_path: Path) -> None:
    """A row that is dropped without a word would change every figure of an evaluation."""
    path = tmp_path / "log.parquet"
    make.frame(
        make.impression(1, 0), make.impression(2, 1, user_id=""), make.impression(3, 2, price=-1.0)
    ).write_parquet(path)
    log = open_log(path)
    info = log.info()
    assert (info.impressions, info.refused) == (1, 2)
    assert log.tally.examples == [(2, "user_id is missing"), (3, "price -1.0 is outside 0..1e12")]


def test_a_table_that_is_no_log_names_the_missing_columns(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    pl.DataFrame({"a": [1], "user_id": ["u"]}).write_parquet(path)
    with pytest.raises(LogError, match=r"no column event, event_time, impression_id, item_id.*--mapping"):
        list(open_log(path).chunks())


def test_a_broken_file_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(LogError, match="cannot be read"):
        open_log(path).info()


def test_a_failed_write_leaves_no_file(make: Any, tmp_path: Path) -> None:
    """A half-written log would replay as a whole one."""
    narrow = make.frame(make.impression(1, 0, context={"city": "b"}))
    wide = make.frame(make.impression(2, 1, context={"city": "b", "os": "x"}))
    with pytest.raises(LogError, match="context fields os"):
        write_log(iter([narrow, wide]), tmp_path / "log.parquet")
    with pytest.raises(LogError, match=r"\.parquet or \.jsonl"):
        write_log(iter([narrow]), tmp_path / "log.xlsx")
    assert list(tmp_path.iterdir()) == []
