"""Bytes that a worker and serving take for each thing they hold, beside a plain dictionary of structs.

The join remembers the impressions of ``times.join_limit_s``, so its bytes an impression decide how large a
sale fits a machine; the peer keeps the decoded impressions in a dictionary by id. Every side runs
in a process of its own (``bench._memory_sides``), so that none finds another's freed memory. The last side is
a burst: resident memory before it, at its peak, and once it is over and forgotten.
"""

from __future__ import annotations

import json
import sys

from bench import _machine
from bench._registry import BenchError, Options, Result, say
from clients.launch import finish

#: A remembered impression must be at least this many times smaller than the peer's, and no larger than this.
LIMIT_TO_PLAIN = 20.0
LIMIT_BYTES = 20.0
#: After a burst this part of what it took may stay, or so many bytes: RocksDB has buffers of its own.
LIMIT_STAYS = 0.25
LIMIT_STAYS_BYTES = 200_000_000

FULL, QUICK = 1_000_000, 200_000
#: Side, what one row of it is, in words.
ROWS = {
    "remembered": "remembered impression",
    "plain": "peer: struct in a dictionary",
    "open": "open impression",
    "buffered": "event before its watermark",
    "orphans": "orphan action",
    "features": "feature row, a table",
    "served": "feature row in serving",
    "unsent": "unsent feature row",
}


def measure(options: Options) -> Result:
    """Every side once; memory does not scatter as time does. A broker is not needed."""
    rows = QUICK if options.quick else FULL
    sides = {side: _side(side, rows) for side in ("base", *ROWS, "burst")}
    return {
        **sides,
        "rows": rows,
        "quick": options.quick,
        "machine": _machine.facts(),
        "ratio_to_plain": sides["plain"]["bytes_per_row"] / sides["remembered"]["bytes_per_row"],
        "limit_to_plain": LIMIT_TO_PLAIN,
        "limit_bytes": LIMIT_BYTES,
    }


def _side(side: str, rows: int) -> Result:
    say(side)
    command = [sys.executable, "-m", "bench._memory_sides", side, str(rows)]
    done = finish(command)
    if done.returncode:
        raise BenchError(f"{side} ended with status {done.returncode}: {done.stderr.strip()[-500:]}")
    result: Result = json.loads(done.stdout)
    return result


def stays(result: Result) -> tuple[float, float]:
    """Bytes that stay after the burst, and how many may."""
    burst = result["burst"]
    took = burst["peak"] - burst["before"]
    return burst["after"] - burst["before"], max(LIMIT_STAYS * took, LIMIT_STAYS_BYTES)


def broken(result: Result) -> list[str]:
    """The limits that do not hold."""
    found = []
    each, ratio = result["remembered"]["bytes_per_row"], result["ratio_to_plain"]
    if each > LIMIT_BYTES:
        found.append(f"{each:.1f} bytes a remembered impression; at most {LIMIT_BYTES:g} are asked")
    if ratio < LIMIT_TO_PLAIN:
        found.append(f"{ratio:.1f} times smaller than a dictionary; at least {LIMIT_TO_PLAIN:g} is asked")
    left, allowed = stays(result)
    if left > allowed:
        found.append(f"{left / 1e6:.0f} MB stay after a burst; at most {allowed / 1e6:.0f} are asked")
    return found


def table(result: Result) -> str:
    """Figures, peer and limits in words."""
    rows, machine, burst = result["rows"], result["machine"], result["burst"]
    holds = "BROKEN" if broken(result) else "hold"
    lines = [f"Memory, {rows:,} rows a side", "", f"{'':<34}{'bytes':>8}{'bytes on disk':>16}"]
    for side, words in ROWS.items():
        one = result[side]
        disk = f"{one['disk_bytes_per_row']:.0f}" if "disk_bytes_per_row" in one else ""
        lines.append(f"{words:<34}{one['bytes_per_row']:>8.1f}{disk:>16}")
    left, allowed = stays(result)
    lines += [
        "",
        f"peer / remembered        {result['ratio_to_plain']:>8.1f}; limits {LIMIT_TO_PLAIN:g} and "
        f"{LIMIT_BYTES:g} bytes",
        f"worker without data      {result['base']['bytes'] / 1e6:>8.0f} MB: modules, an empty engine",
        f"burst of {rows:,} in 20 s: before {burst['before'] / 1e6:.0f} MB, at its peak "
        f"{burst['peak'] / 1e6:.0f} MB, forgotten {burst['after'] / 1e6:.0f} MB;",
        f"   {left / 1e6:.0f} MB stay, at most {allowed / 1e6:.0f} are asked. The limits {holds}.",
        f"Orphans: {result['orphans']['limit']:,} at most.",
        "",
        "Resident memory of a process that holds so many rows, less that of one that holds none; remembered",
        "impressions by tracemalloc, which does not see RocksDB's buffers. Bytes on disk: keys and values",
        "before compression; the write-ahead log holds what is newest a second time.",
        f"Machine: {machine['cores']} cores, {machine['cpu']}, {machine['memory_gb']} GB, "
        f"{machine['system']}, Python {machine['python']}.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    from bench.__main__ import main

    main(["memory", *sys.argv[1:]])
