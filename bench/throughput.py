"""Events a second through the whole worker, beside an idiomatic Faust agent and a bare fetch.

One broker and one set of topics, filled once with a simulated sale and closed by watermarks; then, one
after the other and each in a process of its own:

An event is a record that says something: an impression, an action or a behaviour, each counted as one on
every side (watermarks are none). The simulated night is mostly impressions; its behaviours are looks.

* ``engine``: ``faust -A stream.app worker`` with the default learners and features and a small trained
  trunk: decode, validate, join, features, RocksDB, learn, publish weights and feature rows. Measured from
  the poll before the first message was received until every sample is closed, learned, checkpointed and
  published.
* ``faust_idiomatic``: ``bench.faust_idiomatic_app`` on the same stream's first events, after warm-up;
  it computes the same features.
* ``faust_count``: a Faust agent that decodes and counts, for orientation.
* ``raw_fetch``: aiokafka's ``getmany`` to the end of the same topics, undecoded: what the client allows.

CPU seconds are user + system of the process under test with all its threads; the broker's are not in them.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench import _machine, _sides
from bench._registry import Options, Result
from bench._run import HIDDEN, PARTITIONS, Run, prepare, produced, remove
from replay.player import PlayReport

#: The engine must be at least this many times faster than the idiomatic agent.
LIMIT_TO_FAUST = 10.0
#: Of what the client allows, per CPU second: a record must be taken apart, joined and learned beside being
#: fetched.
LIMIT_TO_RAW_CPU = 0.21


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured. ``events`` and the agents' shares of them; ``repeats`` of each side."""

    events: int
    idiomatic: int
    count: int
    repeats: int


FULL = Size(events=1_000_000, idiomatic=10_000, count=100_000, repeats=3)
QUICK = Size(events=200_000, idiomatic=5_000, count=30_000, repeats=1)


def measure(options: Options) -> Result:
    """Fill the topics, measure each side, check that each did its job."""
    size = QUICK if options.quick else FULL
    repeats = options.repeats or size.repeats
    facts = _machine.facts()
    with tempfile.TemporaryDirectory(prefix="surgeline-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with _machine.broker(options.broker, folder / "broker") as on:
            run, played = prepare(folder, on.bootstrap, size.events)
            try:
                # Rounds, not blocks: what else the machine does meets every side alike.
                rounds = [_round(run, played, size, number) for number in range(repeats)]
            finally:
                if not on.private:
                    remove(on.bootstrap, run.prefix)
    result = combine(rounds)
    result |= {
        "produced": produced(played),
        "quick": options.quick,
        "broker": on.name,
        "machine": facts,
        "trunk": {"hidden": HIDDEN},
        "limit_to_faust": LIMIT_TO_FAUST,
        "limit_to_raw_cpu": LIMIT_TO_RAW_CPU,
    }
    return result


def _round(run: Run, played: PlayReport, size: Size, number: int) -> dict[str, Result]:
    """Every side once."""
    return {
        "engine": _sides.engine(run, played, number),
        "faust_idiomatic": _sides.agent(run, "bench.faust_idiomatic_app", size.idiomatic, number),
        "faust_count": _sides.agent(run, "bench._faust_count_app", size.count, number),
        "raw_fetch": _sides.raw_fetch(run, played),
    }


def combine(rounds: list[dict[str, Result]]) -> Result:
    """Medians over rounds, the ratios of the medians, and every round as it was.

    ``ratio_to_faust_worst`` pairs the engine's slowest round with the agent's fastest, by the clock.
    """
    result: Result = {side: _median([one[side] for one in rounds]) for side in rounds[0]}
    for key, suffix in (("events_per_s", ""), ("events_per_cpu_s", "_cpu")):
        engine = result["engine"][key]
        result[f"ratio_to_faust{suffix}"] = engine / result["faust_idiomatic"][key]
        result[f"ratio_to_raw{suffix}"] = engine / result["raw_fetch"][key]
    slowest = min(one["engine"]["events_per_s"] for one in rounds)
    fastest = max(one["faust_idiomatic"]["events_per_s"] for one in rounds)
    result["ratio_to_faust_worst"] = slowest / fastest
    result["rounds"] = rounds
    return result


def _median(rounds: list[Result]) -> Result:
    """Number by number; what is not a number is the last round's."""
    return {
        key: statistics.median(one[key] for one in rounds) if isinstance(value, int | float) else value
        for key, value in rounds[-1].items()
    }


def broken(result: Result) -> list[str]:
    """How far ahead of the idiomatic agent the engine must be, and how near to the bare fetch.

    Of the agent by the clock and per CPU second: on a busy machine one side may have had fewer cores than
    the other.
    """
    ratios = {"by the clock": result["ratio_to_faust"], "per CPU second": result["ratio_to_faust_cpu"]}
    found = [
        f"{ratio:.1f} times an idiomatic Faust agent {how}; at least {LIMIT_TO_FAUST:g} is asked"
        for how, ratio in ratios.items()
        if ratio < LIMIT_TO_FAUST
    ]
    if result["ratio_to_raw_cpu"] < LIMIT_TO_RAW_CPU:
        share = result["ratio_to_raw_cpu"]
        found.append(f"{share:.3f} of a bare fetch per CPU second; at least {LIMIT_TO_RAW_CPU:g} is asked")
    return found


def table(result: Result) -> str:
    """Figures, peers and limits in words."""
    engine, faust = result["engine"], result["faust_idiomatic"]
    produced, machine = result["produced"], result["machine"]
    holds = {True: "holds", False: "BROKEN"}
    ahead = min(result["ratio_to_faust"], result["ratio_to_faust_cpu"]) >= LIMIT_TO_FAUST
    near = result["ratio_to_raw_cpu"] >= LIMIT_TO_RAW_CPU
    lines = [
        f"Throughput on {result['broker']}, {produced['events']:,} events "
        f"({produced['impressions']:,} impressions, {produced['actions']:,} actions, "
        f"{produced['behaviours']:,} behaviours; "
        f"{produced['bytes_per_event']:.0f} bytes a record), {PARTITIONS} partitions, "
        f"median of {len(result['rounds'])}",
        "",
        f"{'':<34}{'events/s':>12}{'events/CPU-s':>14}{'events':>12}{'s':>8}{'others':>8}",
    ]
    rows = {
        "engine": "engine, whole path",
        "faust_idiomatic": "peer: idiomatic Faust agent",
        "faust_count": "   (Faust agent, decode + count)",
        "raw_fetch": "ceiling: bare aiokafka fetch",
    }
    for side, words in rows.items():
        one = result[side]
        lines.append(
            f"{words:<34}{one['events_per_s']:>12,.0f}{one['events_per_cpu_s']:>14,.0f}"
            f"{one['events']:>12,.0f}{one['wall_s']:>8.1f}"
            f"{one['cores_busy_elsewhere']:>8.2f}"
        )
    skipped = engine["river_skipped_share"]
    lines += [
        "",
        f"engine / idiomatic Faust   {result['ratio_to_faust']:>7.1f} by the clock, "
        f"{result['ratio_to_faust_cpu']:.1f} per CPU second; limit {LIMIT_TO_FAUST:g}: {holds[ahead]}",
        f"   slowest round / fastest {result['ratio_to_faust_worst']:>7.1f} by the clock",
        f"engine / bare fetch        {result['ratio_to_raw']:>7.3f} by the clock, "
        f"{result['ratio_to_raw_cpu']:.3f} per CPU second; limit {LIMIT_TO_RAW_CPU:g}: {holds[near]}",
        f"engine in its steady part  {engine['steady_events_per_s']:>7,.0f} events/s, "
        f"{engine['steady_events_per_cpu_s']:,.0f} per CPU second, over {engine['steady_events']:,.0f}",
        "",
        "Engine: from the poll before the first message to the last sample closed, checkpointed and",
        "published; process start is left out. The agent: after a warm-up of a third of its events, which",
        "favours it. The broker's CPU is in nobody's events/CPU-s. `others`: cores that the broker and all",
        "other processes kept busy meanwhile; where that comes near the number of cores, trust the ratios",
        "per CPU second more than those by the clock.",
        f"Engine checked: {engine['events']:,.0f} events produced and counted, {engine['samples']:,.0f} "
        f"samples closed, {engine['versions']:.0f} weight versions, {engine['feature_rows']:,.0f} feature",
        f"rows; trunk of {result['trunk']['hidden']} hidden units; River left out {skipped:.0%} of the "
        "samples (its budget), the other learners none.",
        f"Faust checked: {faust['samples']:,.0f} samples learned, every one of them by River, "
        f"log loss {faust['log_loss']:.4f}.",
        f"Machine: {machine['cores']} cores, {machine['cpu']}, {machine['memory_gb']} GB, "
        f"{machine['system']}, Python {machine['python']}, load before {machine['load']}.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    from bench.__main__ import main

    main(["throughput", *sys.argv[1:]])
