"""What a feature row costs on its way to disk, in memory, and once it matters no more.

The peer of the way to disk is a bare ``rocksdict.WriteBatch`` that puts the same bytes under the same keys,
in the order in which the rows changed, and once more sorted. Many keys, each seen once, must stay inside the
memory that ``features.cached_rows`` sets; after a night of passing users disk and topic must shrink. Every
side runs in a process of its own (``bench._state_sides``). No broker is needed.
"""

from __future__ import annotations

import json
import sys

from bench import _machine
from bench._registry import BenchError, Options, Result, say
from clients.launch import finish

#: A row's CPU to disk, beside a bare batch of sorted keys.
LIMIT_TO_BARE = 2.0
#: In memory beside the row's own numbers while arrays are full: key, index, what is known of it.
LIMIT_BYTES_BESIDE = 100.0
#: Keys on disk only.
LIMIT_FILTER_BYTES = 8.0
#: Of the process, beside rows and filter at their limits: RocksDB's buffers and caches, a tick's arrays.
LIMIT_REST_BYTES = 400_000_000
#: What may stay of the night's peak, and on disk so many bytes in any case.
LIMIT_STAYS, LIMIT_STAYS_BYTES = 0.1, 30_000_000

#: Rows of each side.
FULL = {"write": 400_000, "keys": 10_000_000, "night": 2_000_000}
QUICK = {"write": 200_000, "keys": 1_000_000, "night": 500_000}


def measure(options: Options) -> Result:
    """Every side once."""
    rows = QUICK if options.quick else FULL
    sides = {side: _side(side, rows[side]) for side in rows}
    write, keys = sides["write"], sides["keys"]
    numbers = 8.0 * write["numbers"]
    # Rows double their room, and for a moment the old and the new arrays are both there.
    budget = keys["rows_in_memory"] * 2 * (numbers + LIMIT_BYTES_BESIDE) + keys["rows"] * LIMIT_FILTER_BYTES
    return {
        **sides,
        "quick": options.quick,
        "machine": _machine.facts(),
        "ratio_to_bare": write["us_per_row"] / write["bare_us_per_row"],
        "ratio_to_bare_sorted": write["us_per_row"] / write["bare_sorted_us_per_row"],
        "bytes_beside_numbers": keys["bytes_per_row"] - numbers,
        "budget_bytes": budget + LIMIT_REST_BYTES,
    }


def _side(side: str, rows: int) -> Result:
    say(side)
    command = [sys.executable, "-m", "bench._state_sides", side, str(rows)]
    done = finish(command)
    if done.returncode:
        raise BenchError(f"{side} ended with status {done.returncode}: {done.stderr.strip()[-500:]}")
    result: Result = json.loads(done.stdout)
    return result


def broken(result: Result) -> list[str]:
    """The limits that do not hold."""
    found = []
    keys, night = result["keys"], result["night"]
    if result["ratio_to_bare_sorted"] > LIMIT_TO_BARE:
        found.append(
            f"a row costs {result['ratio_to_bare_sorted']:.2f} of a bare one; at most {LIMIT_TO_BARE:g}"
        )
    if result["bytes_beside_numbers"] > LIMIT_BYTES_BESIDE:
        beside = result["bytes_beside_numbers"]
        found.append(f"{beside:.0f} bytes beside a row's numbers; at most {LIMIT_BYTES_BESIDE:g}")
    if keys["filter_bytes_per_key"] > LIMIT_FILTER_BYTES:
        found.append(
            f"{keys['filter_bytes_per_key']:.1f} bytes a key on disk; at most {LIMIT_FILTER_BYTES:g}"
        )
    if keys["peak_bytes"] > result["budget_bytes"]:
        peak, budget = keys["peak_bytes"] / 1e6, result["budget_bytes"] / 1e6
        found.append(f"{peak:.0f} MB for {keys['rows']:,} keys; the budget is {budget:.0f}")
    if night["disk_bytes"] > max(LIMIT_STAYS * night["peak_disk_bytes"], LIMIT_STAYS_BYTES):
        found.append(f"{night['disk_bytes'] / 1e6:.0f} MB stay on disk after the night")
    if night["topic_rows"] > LIMIT_STAYS * night["peak_topic_rows"]:
        found.append(f"{night['topic_rows']:,} rows stay in the topic after the night")
    return found


def table(result: Result) -> str:
    """Figures, peers and limits in words."""
    write, keys, night, machine = (result[name] for name in ("write", "keys", "night", "machine"))
    holds = "BROKEN" if broken(result) else "hold"
    return "\n".join(
        [
            f"State: rows of {write['numbers']} numbers, {write['bytes']} bytes with their key",
            "",
            f"to disk, CPU a row        {write['us_per_row']:>8.2f} us, half of it in RocksDB",
            f"peer: bare WriteBatch     {write['bare_us_per_row']:>8.2f} us as the rows changed, "
            f"{write['bare_sorted_us_per_row']:.2f} us sorted",
            f"ours / sorted             {result['ratio_to_bare_sorted']:>8.2f}, limit {LIMIT_TO_BARE:g}",
            f"in memory, a row          {keys['bytes_per_row']:>8.1f} bytes, "
            f"{result['bytes_beside_numbers']:.1f} of them beside its numbers, limit {LIMIT_BYTES_BESIDE:g};",
            f"   at most {keys['most_bytes_per_row']:.0f} with the room for rows to come",
            f"on disk only, a key       {keys['filter_bytes_per_key']:>8.1f} bytes of memory, "
            f"limit {LIMIT_FILTER_BYTES:g}; {keys['disk_bytes_per_row']:.0f} bytes on disk",
            f"{keys['rows']:,} keys, {keys['rows_in_memory']:,} rows in memory at the end: at most "
            f"{keys['peak_bytes'] / 1e6:.0f} MB, budget {result['budget_bytes'] / 1e6:.0f} MB;",
            f"   {keys['us_per_row']:.1f} us a key all in all, {keys['loaded_us_per_row']:.1f} us for one "
            f"that is read back, a restart takes {keys['restart_s']:.1f} s",
            f"a night of {night['rows']:,} passing users: disk {night['peak_disk_bytes'] / 1e6:.0f} MB at "
            f"its peak, {night['disk_bytes'] / 1e6:.0f} MB after;",
            f"   topic {night['peak_topic_rows']:,} rows, {night['topic_rows']:,} after. The limits {holds}.",
            "",
            "The budget: rows in memory at twice their size, the filter, and "
            f"{LIMIT_REST_BYTES / 1e6:.0f} MB for RocksDB and a tick.",
            f"Machine: {machine['cores']} cores, {machine['cpu']}, {machine['memory_gb']} GB, "
            f"{machine['system']}, Python {machine['python']}.",
        ]
    )


if __name__ == "__main__":
    from bench.__main__ import main

    main(["state", *sys.argv[1:]])
