"""Open a recorded log by name or by path: above every adapter, so that adapters know only `replay.log`.

`open_log` knows the adapters by name, reads canonical Parquet or JSONL or CSV files, and any other table
through a TOML column mapping.
"""

from __future__ import annotations

import os
from pathlib import Path

from replay.adapters.mapping import open_mapped
from replay.adapters.registry import ADAPTERS, open_adapter
from replay.errors import LogNotFoundError
from replay.files import CANONICAL_SUFFIXES, FileLog
from replay.log import RecordedLog


def open_log(
    name_or_path: str | os.PathLike[str], mapping: str | os.PathLike[str] | None = None
) -> RecordedLog:
    """Open a log by adapter name (``obd``), ``name:path``, canonical file, or table with a ``mapping``.

    Raises ``LogNotFoundError`` that lists the known names where nothing fits, ``MappingError`` for a
    wrong mapping, ``LogError`` for a file that cannot be read.
    """
    text = os.fspath(name_or_path)
    if mapping is not None:
        return open_mapped(Path(text), Path(mapping))
    name, _, rest = text.partition(":")
    if name in ADAPTERS:
        return open_adapter(name, Path(rest) if rest else None)
    path = Path(text)
    if path.is_file():
        if path.suffix not in CANONICAL_SUFFIXES:
            raise LogNotFoundError(
                f"{text}: a canonical log ends in {', '.join(CANONICAL_SUFFIXES)}; "
                "for any other file give --mapping M.toml"
            )
        return FileLog(path)
    known = ", ".join(ADAPTERS)
    raise LogNotFoundError(f"{text}: neither a file nor a known log; known are: {known}")
