"""Fails when a written log reads back differently, its bytes depend on chunks, or a bad file is accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

import replay.files as files
from replay.columns import in_event_order
from replay.errors import LogError
from replay.files import write_log
from replay.log import to_records
from replay.open_log import open_log


def rows(make: Any) -> list[dict[str, Any]]:
    return [
        make.impression(
            1, 0, category_id='c"1', price=9.5, position=3, context={"city": "Zürich\n", "os": None}
        ),
        make.impression(2, 5, shop_id="s", request_id="r", context={"city": None, "os": "x"}),
        make.action(1, 5),
        make.behaviour(
            3, 9, "search", item_id=None, query='"tent"', value=2.0, context={"city": "x", "os": ""}
        ),
        make.action(1, 9, "purchase", value=12.25),
    ]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_written_log_reads_back_as_the_same_records(make: Any, tmp_path: Path, suffix: str) -> None:
    log = make.log(*rows(make))
    log.table = in_event_order(log.table)
    path = tmp_path / f"log{suffix}"
    assert write_log(log.chunks(), path) == 5
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


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_log_of_before_behaviours_is_read(make: Any, tmp_path: Path, suffix: str) -> None:
    """The columns that came with them are not there."""
    log = make.steady(20)
    path = tmp_path / f"log{suffix}"
    old = log.table.drop("stock", "type", "query")
    old.write_parquet(path) if suffix == ".parquet" else write_log(iter([old]), path)
    back = pl.concat(list(open_log(path).chunks()))
    assert back.columns == log.table.columns
    assert to_records(back).values == to_records(log.table).values
    assert open_log(path).info() == log.info()


def test_a_log_of_behaviours_alone_is_one(make: Any, tmp_path: Path) -> None:
    log = make.log(make.behaviour(1, 0), make.behaviour(2, 5, "search", item_id=None, query="x"))
    for suffix in (".jsonl", ".parquet"):
        path = tmp_path / f"log{suffix}"
        write_log(log.chunks(), path)
        info = open_log(path).info()
        assert (info.events, info.behaviours, info.by_type) == (2, 2, {"look": 1, "search": 1})


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


def test_a_broken_line_costs_itself(tmp_path: Path) -> None:
    """Fails when one line, such as the last of a killed writer, takes the whole log with it."""
    head = '{"event":"impression","impression_id":"a","user_id":7,'
    lines = [
        head + '"event_time":1700000000000.0,"item_id":"x","context":{"os":"ios"}}',
        "",
        head + '"event_time":"1700000000001","item_id":5,"price":"2.5","context":{"n":1,"os":null}}',
        head + '"event_time":1700000000002,"item_id":"x","price":"dear"}',
        head + '"event_time":1700000000002,"item_id":"x","context":"ios"}',
        "[1]",
        head + '"event_ti',
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(lines))
    log = open_log(path)
    table = pl.concat(list(log.chunks()))
    assert table.select("event_time", "user_id", "item_id", "price").rows() == [
        (1_700_000_000_000, "7", "x", None),
        (1_700_000_000_001, "7", "5", 2.5),
    ]
    assert table["context"].to_list() == [{"os": "ios", "n": None}, {"os": None, "n": "1"}]
    assert isinstance(log, files.FileLog) and log.tally.examples == [
        (4, "price dear is not a number"),
        (5, "context is no JSON object"),
        (6, "the line is no JSON object"),
        (7, "the line is no JSON object"),
    ]


def test_a_context_field_may_first_come_late(make: Any, tmp_path: Path) -> None:
    """Fails when the fields of the context are those of the first batch only."""
    path = tmp_path / "log.jsonl"
    first = [make.impression(k, k) for k in range(50)]
    late = make.impression(50, 50, context={"os": "x"})
    write_log(iter([make.frame(*first), make.frame(late)]), path)
    chunks = list(open_log(path).chunks(10))
    assert {chunk.schema["context"] for chunk in chunks} == {pl.Struct({"os": pl.String})}
    assert pl.concat(chunks)["context"].struct.field("os").drop_nulls().to_list() == ["x"]


def test_a_half_written_csv_line_costs_itself(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    row = "impression,1700000000000,a,u,x"
    path.write_text(f"event,event_time,impression_id,user_id,item_id\n{row}\n{row[:25]}")
    log = open_log(path)
    assert log.info().impressions == 1
    assert isinstance(log, files.FileLog) and log.tally.examples == [(2, "impression_id is missing")]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_an_empty_file_is_said_to_be_empty(tmp_path: Path, suffix: str) -> None:
    """Fails when polars' own words for it reach the user."""
    path = tmp_path / f"log{suffix}"
    path.touch()
    with pytest.raises(LogError, match=r"the file is empty$"):
        open_log(path).info()


def test_a_text_that_is_no_jsonl_says_so(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("event,event_time\nimpression,1\n")
    with pytest.raises(LogError, match=r"its first 1,000 lines hold no JSON object$"):
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
