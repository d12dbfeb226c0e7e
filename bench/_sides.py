"""The sides of the throughput figure: each runs in a process of its own and is checked event by event."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time

import msgspec

from bench._faust_rows import TABLES
from bench._registry import BenchError, Result, say
from bench._run import PARTITIONS, Run, create, last_weights, worker, write_scenario
from bench._watch import Counts, Rate, Sample, between, get, prometheus, steady, watch
from clients.launch import Child
from contracts.events import ACTIONS, BEHAVIOUR, IMPRESSION
from replay.player import PlayReport

#: What agents count, as the player does.
TAKEN = ("impressions", "actions", "behaviours")
#: Share of the agent's events that are its warm-up.
WARM_UP = 1.0 / 3.0
#: Within this the engine's second figure is taken: after its start, before its end.
STEADY = (0.2, 0.9)
#: Every kind of event, as the worker's figures name it.
COUNTED = (IMPRESSION, *ACTIONS, BEHAVIOUR)
#: A page of metrics costs the worker some CPU, which is counted as its own.
ENGINE_POLL_S, AGENT_POLL_S = 1.0, 0.25
#: So near to the first message the measurement begins: what starts a worker is not part of it.
START_POLL_S = 0.25


def engine(run: Run, played: PlayReport, number: int) -> Result:
    """The real worker on all events; raises ``BenchError`` where a count is not what was produced."""
    name = f"{run.prefix}-engine{number}"
    path = write_scenario(run, name)
    environment = {"SURGELINE_SCENARIO": str(path), "SURGELINE_HOME": str(run.folder / name)}
    argv = ["-A", "stream.app", "worker", "-l", "info"]
    say(f"engine, round {number + 1}")
    samples: list[Sample] = []
    with worker(run, name, argv, environment) as (child, url):

        def counts() -> Counts | None:
            page = get(f"{url}/metrics")
            return None if page is None else engine_counts(prometheus(page))

        before = None
        for sample in watch(child, counts, START_POLL_S):
            if sample.counts["received"]:
                samples += [before or sample, sample]
                break
            before = sample
        for sample in watch(child, counts, ENGINE_POLL_S):
            samples.append(sample)
            if sample.counts["samples"] >= played.impressions and tick_is_over(sample.counts):
                break
        last = asyncio.run(last_weights(run.bootstrap, f"{name}-weights"))
    check(samples[-1].counts, played, last.samples)
    whole = between(samples[0], samples[-1], _processed)
    low, high = (share * played.events for share in STEADY)
    try:
        part = steady(samples, _processed, low, high)
    except BenchError:
        # Counts move once a tick; a fast run has too few ticks for a part of it.
        part = whole
    final = samples[-1].counts
    return {
        **_figures(whole),
        "steady_events_per_s": part.per_s,
        "steady_events_per_cpu_s": part.per_cpu_s,
        "steady_events": part.events,
        "samples": final["samples"],
        "versions": final["version"],
        "feature_rows": final["feature_rows"],
        "river_skipped_share": final["river_skipped"] / max(final["samples"], 1.0),
        "late": final["late"],
        "auc": {key: metrics.auc for key, metrics in last.metrics.items()},
    }


def engine_counts(page: Counts) -> dict[str, float]:
    """What a worker's metrics page says, by our words; a figure that is not there is zero."""

    def total(name: str, match: str = "") -> float:
        return sum(v for k, v in page.items() if re.fullmatch(rf"{name}(\{{.*{match}.*\}})?", k))

    counts = {kind: total("surgeline_events_total", f'kind="{kind}"') for kind in COUNTED}
    counts["received"] = total("faust_messages_received_total")
    counts["samples"] = total("surgeline_samples_total")
    counts["duplicates"] = total("surgeline_duplicates_total")
    counts["orphans"] = total("surgeline_orphans_total") + total("surgeline_orphans_waiting")
    counts["dead_letters"] = total("surgeline_dead_letters_total")
    counts["late"] = total("surgeline_late_events_total")
    counts["version"] = total("surgeline_weights_version")
    counts["checkpoints"] = total("surgeline_checkpoint_seconds_count")
    counts["feature_rows"] = total("surgeline_feature_rows_published_total")
    counts["river_skipped"] = total("surgeline_skipped_total", 'learner="river_')
    return counts


def tick_is_over(counts: Counts) -> bool:
    """Whether the weights of the newest checkpoint of a worker that began without a state are out.

    Its versions are numbered as its checkpoints are. What was published is counted with the next checkpoint.
    """
    return counts["version"] >= counts["checkpoints"]


def _processed(counts: Counts) -> float:
    return sum(counts[kind] for kind in COUNTED)


def check(counts: Counts, played: PlayReport, published_samples: int) -> None:
    """Raise ``BenchError`` unless the engine counted exactly what was produced and learned all of it."""
    wanted: dict[str, float] = {IMPRESSION: played.impressions, "samples": played.impressions}
    wanted[BEHAVIOUR] = played.behaviours
    wanted |= {kind: played.by_action.get(kind, 0) for kind in ACTIONS}
    wanted |= dict.fromkeys(("duplicates", "orphans", "dead_letters"), 0)
    wrong = [f"{k}: {counts[k]:,.0f}, not {n:,.0f}" for k, n in wanted.items() if counts[k] != n]
    if published_samples != played.impressions:
        wrong.append(f"samples in the published weights: {published_samples:,}, not {played.impressions:,}")
    if not counts["feature_rows"]:
        wrong.append("no feature row was published")
    if wrong:
        raise BenchError("the engine did not process what was produced: " + "; ".join(wrong))


def agent(run: Run, module: str, events: int, number: int) -> Result:
    """A Faust app of single events on topics with the first ``events`` alone, after its warm-up.

    Alone, because Faust reads two topics without regard to event time: behind the first events it would
    find all actions of the sale, long before their impressions.
    """
    part = f"-{module.rpartition('.')[2].strip('_').replace('_', '-')}{number}"
    name = run.prefix + part
    topics, played = run.fill(part, events)
    say(f"{module}, round {number + 1}: {events:,} events")
    environment = {
        "BENCH_APP": name,
        "BENCH_DATADIR": str(run.folder / name),
        "BENCH_IMPRESSIONS": topics.impressions,
        "BENCH_ACTIONS": topics.actions,
        "BENCH_BEHAVIOURS": topics.behaviours,
        "BENCH_PARTITIONS": str(PARTITIONS),
    }
    create(run.bootstrap, {f"{name}-{rows}-changelog": PARTITIONS for rows in ("shown", *TABLES)})
    samples: list[Sample] = []
    with worker(run, name, ["-A", module, "worker", "-l", "warn"], environment) as (child, url):

        def counts() -> Counts | None:
            page = get(f"{url}/counts")
            return None if page is None else msgspec.json.decode(page, type=dict[str, float])

        for sample in watch(child, counts, AGENT_POLL_S):
            samples.append(sample)
            if _taken(sample.counts) >= events:
                break
    rate = steady(samples, _taken, events * WARM_UP, events)
    final = samples[-1].counts
    wanted = {name: getattr(played, name) for name in TAKEN} | {"refused": 0, "duplicates": 0}
    wrong = [f"{k}: {final.get(k, 0):,.0f}, not {n:,}" for k, n in wanted.items() if final.get(k, 0) != n]
    if wrong:
        raise BenchError(f"{module} did not process what was produced: " + "; ".join(wrong))
    if "log_loss" in final and not (final.get("samples") and final.get("published")):
        raise BenchError(f"{module} learned or published nothing: {dict(final)}")
    return {**_figures(rate), "samples": final.get("samples", 0), "log_loss": final.get("log_loss", 0.0)}


def _taken(counts: Counts) -> float:
    return sum(counts.get(name, 0.0) for name in TAKEN)


def raw_fetch(run: Run, played: PlayReport) -> Result:
    """The bare fetch; raises ``BenchError`` where it did not bring every record."""
    topics = run.topics("")
    expected = played.events + played.watermarks
    say("bare fetch")
    log = run.folder / f"raw-{time.monotonic_ns()}.log"
    argv = [sys.executable, "-m", "bench._raw_fetch", run.bootstrap, str(expected)]
    child = Child([*argv, *topics.sources], log)
    try:
        status = child.wait(300.0)
    finally:
        child.stop()
    if status:
        raise BenchError(f"the bare fetch ended with status {status}: {child.last_line()}")
    said = json.loads(child.last_line())
    if said["events"] != expected:
        raise BenchError(f"the bare fetch read {said['events']:,} records, not {expected:,}")
    return _figures(Rate(said["events"], said["wall_s"], said["cpu_s"], said["elsewhere_s"]))


def _figures(rate: Rate) -> Result:
    return {
        "events_per_s": rate.per_s,
        "events_per_cpu_s": rate.per_cpu_s,
        "events": rate.events,
        "wall_s": rate.wall_s,
        "cpu_s": rate.cpu_s,
        "cores_busy_elsewhere": rate.elsewhere_cores,
    }
