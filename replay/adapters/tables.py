"""What adapters share: finding files, reading text tables as strings, batches in time order."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from contracts.scenario import home
from replay.errors import LogError, LogNotFoundError

#: Beside the repository, where shared data may lie.
_BESIDE = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def folders(name: str) -> list[Path]:
    """Where the data of adapter ``name`` is looked for, best first.

    ``SURGELINE_<NAME>`` is the folder itself; ``SURGELINE_DATA`` holds one folder an adapter, by default
    ``../shared/data`` beside the repository; last comes ``data/<name>`` under ``SURGELINE_HOME``.
    """
    found = []
    own = os.environ.get(f"SURGELINE_{name.upper()}")
    if own:
        found.append(Path(own))
    data = os.environ.get("SURGELINE_DATA")
    found.append(Path(data) / name if data else _BESIDE / name)
    found.append(home() / "data" / name)
    return found


def find_file(name: str, patterns: Sequence[str]) -> Path | None:
    """The first file of adapter ``name`` that matches one of the glob ``patterns``."""
    for folder in folders(name):
        for path in matches(folder, patterns):
            return path
    return None


def matches(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Files in ``folder`` that match, in the order of ``patterns`` and then of names; each log once.

    A file compressed with gzip matches as the file does, and is left out where that is there as well: who
    unpacks a download has both.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        for path in (*sorted(folder.glob(pattern)), *sorted(folder.glob(f"{pattern}.gz"))):
            if path.is_file() and path.with_name(path.name.removesuffix(".gz")) not in found:
                found[path] = None
    return list(found)


def require_file(name: str, patterns: Sequence[str], path: Path | None) -> Path:
    """``path``, or the match inside the folder ``path``, or what is found; raises ``LogNotFoundError``."""
    if path is not None:
        if path.is_file():
            return path
        for match in matches(path, patterns):
            return match
        raise LogNotFoundError(f"{name}: no {' or '.join(patterns)} (or .gz) at {path}")
    found = find_file(name, patterns)
    if found is None:
        places = ", ".join(str(folder) for folder in folders(name))
        raise LogNotFoundError(
            f"{name}: no {' or '.join(patterns)} (or .gz) in {places}; put the data set there, or name its "
            f"folder in SURGELINE_{name.upper()}, or open {name}:PATH"
        )
    return found


def require_files(name: str, patterns: Sequence[str], path: Path | None) -> list[Path]:
    """All matches of the folder where the first is found, by name; ``path`` alone where it is a file."""
    first = require_file(name, patterns, path)
    if path is not None and path.is_file():
        return [first]
    # By name alone: a folder may hold some months compressed.
    return sorted(matches(first.parent, [pattern.rpartition("/")[2] for pattern in patterns]))


def scan_text(
    files: Path | Sequence[Path],
    columns: Sequence[str] | None = None,
    *,
    separator: str = ",",
    quote: str | None = '"',
    required: Sequence[str] = (),
) -> pl.LazyFrame:
    """A delimited text file as strings, with ``_row`` (1 is the first data row); ``columns`` = no header.

    Everything is read as text, so that a cell that is not a number costs its own row and not the file.
    """
    paths = [files] if isinstance(files, Path) else list(files)
    where = ", ".join(map(str, paths))
    try:
        for path in paths:
            _refuse_archive(path)
        table = pl.scan_csv(
            paths,
            has_header=columns is None,
            schema=None if columns is None else dict.fromkeys(columns, pl.String()),
            infer_schema=False,
            separator=separator,
            quote_char=quote,
            extra_columns="ignore",
            missing_columns="insert",
            row_index_name="_row",
            row_index_offset=1,
        )
        have = table.collect_schema().names()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(where, error) from error
    missing = [name for name in required if name not in have]
    if missing:
        raise LogError(f"{where}: no column {', '.join(missing)}; it has {', '.join(have[1:])}")
    return table


def unreadable(where: object, error: Exception) -> LogError:
    """What polars or the system said about ``where``, in one line, with help against the usual causes."""
    text = str(error).strip() or type(error).__name__
    # polars goes on with the plan of its query and the arguments of its own functions.
    first = text.split("\n\n")[0].replace("\n", " ")
    help_ = ""
    if "utf-8" in text.lower() or "utf8" in text.lower():
        help_ = "; it must be UTF-8: convert it, for example with iconv -f GB18030 -t UTF-8"
    elif "escaped" in text or "CSV malformed" in text:
        help_ = '; where quotes are ordinary characters, a mapping says quote = ""'
    return LogError(f"{where}: cannot be read: {first[:300]}{help_}")


def refuse_empty(path: Path) -> None:
    """Raise ``LogError`` for a file without a byte, which polars meets with words of its own."""
    if path.stat().st_size == 0:
        raise LogError(f"{path}: the file is empty")


def _refuse_archive(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            raise LogError(
                f"{path}: a ZIP archive; unpack it, and name the file inside (gzip is read as it is)"
            )


def whole(name: str) -> pl.Expr:
    """A text column as Int64, null where it is not a whole number."""
    return pl.col(name).str.strip_chars().cast(pl.Int64, strict=False)


def number(name: str) -> pl.Expr:
    """A text column as Float64, null where it is not a number."""
    return pl.col(name).str.strip_chars().cast(pl.Float64, strict=False)


def flag(name: str) -> pl.Expr:
    """A text column of 0 and 1 as Boolean; anything but a positive number is false."""
    return (number(name) > 0).fill_null(False)


def time_ordered(table: pl.LazyFrame, time: pl.Expr) -> pl.LazyFrame:
    """``table`` in the order of ``time``: as it is where it is sorted already, else sorted in memory.

    The check is one streaming pass over one column; ties keep the file's order.
    """
    values = table.select(time.alias("t")).drop_nulls()
    unsorted = values.select((pl.col("t").diff() < 0).any()).collect(engine="streaming").item()
    if not unsorted:
        return table
    return table.sort(time, maintain_order=True, nulls_last=False)


def batches(table: pl.LazyFrame, rows: int) -> Iterator[pl.DataFrame]:
    """Stream a table in frames of about ``rows`` rows, in its order."""
    yield from table.collect_batches(chunk_size=rows, maintain_order=True, engine="streaming")
