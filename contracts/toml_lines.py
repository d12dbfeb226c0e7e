"""Where in a TOML file a setting stands, for messages that name the line."""

from __future__ import annotations

import re

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"^\s*([A-Za-z0-9_\-\"'. ]+?)\s*=")


def line_of(text: str, path: str) -> int | None:
    """The line (from 1 on) of a setting such as ``features.counts[1].keys``, else of the table it is in.

    ``[1]`` is the second of several tables of one name; what stands behind the key is of no account. None
    where the file has neither (the value is a default).

    >>> line_of("[times]\\ntick_s = 0\\n", "times.tick_s")
    2
    """
    wanted = [part for part in re.split(r"\.|(?=\[)", path) if part]
    best: tuple[int, int] | None = None
    table: list[str] = []
    counts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(line)
        if header:
            name = ".".join(part.strip().strip("\"'") for part in header[2].split("."))
            table = name.split(".")
            if header[1] == "[[":
                counts[name] = counts.get(name, -1) + 1
                table.append(f"[{counts[name]}]")
            found = table
        elif key := _KEY.match(line):
            found = [*table, *(part.strip().strip("\"'") for part in key[1].split("."))]
        else:
            continue
        # An only table may be told with its number, or without.
        for candidate in (found, [part for part in found if part != "[0]"]):
            agrees = candidate == wanted[: len(candidate)] and len(candidate) > 0
            if agrees and (best is None or len(candidate) > best[0]):
                best = len(candidate), number
    return best[1] if best else None
