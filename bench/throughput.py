"""Events a second through the whole worker, beside an idiomatic Faust agent and a bare fetch.

One broker and one set of topics, filled once with a simulated sale and closed by watermarks; then, one
after the other and each in a process of its own:

* ``engine``: ``faust -A stream.app worker`` with the default learners and a small trained trunk: decode,
  validate, join, features, RocksDB, learn, publish weights and feature rows. Measured from the poll before
  the first message was received until every sample is closed, learned, checkpointed and published.
* ``faust_idiomatic``: ``bench.faust_idiomatic_app`` on the same stream's first events, after warm-up.
* ``faust_count``: a Faust agent that decodes and counts, for orientation.
* ``raw_fetch``: aiokafka's ``getmany`` to the end of the same topics, undecoded: what the client allows.

CPU seconds are user + system of the process under test with all its threads; the broker's are not in them.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import polars as pl
from aiokafka import AIOKafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError

from bench import _machine
from bench._registry import BenchError, Options, Result
from bench._watch import Counts, Rate, Sample, between, get, prometheus, steady, watch
from models.train import train_from_log
from models.weights import Weights, decode_weights
from replay.log import RecordedLog, open_log, write_log
from replay.player import PlayReport, play
from replay.simulate import Double11, Double11Config
from state.formulas import TABLES
from stream.events import ACTIONS
from stream.scenario import Scenario, Topics
from surgeline.broker import HOST, free_port
from surgeline.launch import Child

#: The engine must be at least this many times faster than the idiomatic agent.
LIMIT_TO_FAUST = 10.0
PARTITIONS = 4
HIDDEN = 32
#: Impressions a second of event time before the jump at midnight, which lies in the middle.
EVENT_RATE = 10_000.0
#: Share of the agent's events that are its warm-up.
WARM_UP = 1.0 / 3.0
#: Within this the engine's second figure is taken: after its start, before its end.
STEADY = (0.2, 0.9)
ENGINE_POLL_S, AGENT_POLL_S = 0.2, 0.25


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured. ``events`` and the agents' shares of them; ``repeats`` of each side."""

    events: int
    idiomatic: int
    count: int
    repeats: int


FULL = Size(events=1_000_000, idiomatic=30_000, count=100_000, repeats=3)
QUICK = Size(events=200_000, idiomatic=10_000, count=30_000, repeats=1)


@dataclass(frozen=True, slots=True)
class Run:
    """One run's topics, files and broker."""

    scenario: Scenario
    bootstrap: str
    folder: Path
    log: RecordedLog

    @property
    def prefix(self) -> str:
        return self.scenario.name

    def topics(self, part: str) -> Topics:
        """Topics of this run for ``part``; all begin with its prefix."""
        names = ("impressions", "actions", "dead_letter", "weights", "features")
        made = {name: f"{self.prefix}{part}-{name.replace('_', '-')}" for name in names}
        return msgspec.convert({**made, "partitions": PARTITIONS}, Topics)

    def fill(self, part: str, limit: int | None = None) -> tuple[Topics, PlayReport]:
        """Topics with the first ``limit`` events, or with all of them and the watermarks behind."""
        topics = self.topics(part)
        scenario = msgspec.structs.replace(self.scenario, topics=topics)
        # The player takes SIGTERM for itself and leaves the default behind.
        handler = signal.getsignal(signal.SIGTERM)
        try:
            played = play(self.log, scenario, self.bootstrap, limit=limit, watermark=limit is None)
        finally:
            signal.signal(signal.SIGTERM, handler)
        if played.interrupted:
            raise BenchError("interrupted while the topics were filled")
        return topics, played


def measure(options: Options) -> Result:
    """Fill the topics, measure each side, check that each did its job."""
    size = QUICK if options.quick else FULL
    repeats = options.repeats or size.repeats
    facts = _machine.facts()
    with tempfile.TemporaryDirectory(prefix="surgeline-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with _machine.broker(options.broker, folder / "broker") as on:
            run, played = _prepare(folder, on.bootstrap, size.events)
            try:
                # Rounds, not blocks: what else the machine does meets every side alike.
                rounds = [_round(run, played, size, number) for number in range(repeats)]
            finally:
                if not on.private:
                    _remove(on.bootstrap, run.prefix)
    result = combine(rounds)
    result |= {
        "produced": _produced(played),
        "quick": options.quick,
        "broker": on.name,
        "machine": facts,
        "trunk": {"hidden": HIDDEN},
        "limit_to_faust": LIMIT_TO_FAUST,
    }
    return result


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
    """How far ahead of the idiomatic agent the engine must be, by the clock and per CPU second.

    Both, because on a busy machine one side may have had fewer cores than the other.
    """
    ratios = {"by the clock": result["ratio_to_faust"], "per CPU second": result["ratio_to_faust_cpu"]}
    return [
        f"{ratio:.1f} times an idiomatic Faust agent {how}; at least {LIMIT_TO_FAUST:g} is asked"
        for how, ratio in ratios.items()
        if ratio < LIMIT_TO_FAUST
    ]


def table(result: Result) -> str:
    """Figures, peers and limits in words."""
    engine, faust = result["engine"], result["faust_idiomatic"]
    produced, machine = result["produced"], result["machine"]
    holds = "BROKEN" if broken(result) else "holds"
    lines = [
        f"Throughput on {result['broker']}, {produced['events']:,} events "
        f"({produced['impressions']:,} impressions, {produced['actions']:,} actions; "
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
        f"{result['ratio_to_faust_cpu']:.1f} per CPU second; limit {LIMIT_TO_FAUST:g}: {holds}",
        f"   slowest round / fastest {result['ratio_to_faust_worst']:>7.1f} by the clock",
        f"engine / bare fetch        {result['ratio_to_raw']:>7.3f} by the clock, "
        f"{result['ratio_to_raw_cpu']:.3f} per CPU second; the ceiling is 1",
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


# -- the topics


def _prepare(folder: Path, bootstrap: str, events: int) -> tuple[Run, PlayReport]:
    """Simulate, train on the stream's first part, and fill fresh topics once."""
    log = folder / "sale.parquet"
    _say(f"simulating {events:,} events")
    _simulate(log, events)
    _say("training a trunk")
    times = pl.scan_parquet(log).select(pl.col("event_time").quantile(0.2)).collect().item()
    trunk = folder / "trunk"
    train_from_log(log, trunk, hidden=HIDDEN, epochs=2, until=int(times))
    prefix = f"bench-{uuid.uuid4().hex[:8]}"
    run = Run(Scenario(name=prefix, trunk=str(trunk)), bootstrap, folder, open_log(log))
    _say("filling the topics")
    return run, run.fill("")[1]


def _simulate(path: Path, events: int) -> None:
    """A sale whose rate rises only mildly at midnight: throughput is asked for, not the surge."""
    minutes = events / EVENT_RATE / 60.0
    config = Double11Config(
        minutes=minutes, rate=EVENT_RATE, hours=0.5, jump_ratio=1.5, users=50_000, base_ctr=0.03, seed=11
    )
    write_log(_first((log for log, _ in Double11(config).frames()), events), path)


def _first(frames: Iterator[pl.DataFrame], events: int) -> Iterator[pl.DataFrame]:
    left = events
    for frame in frames:
        yield frame.head(left)
        left -= frame.height
        if left <= 0:
            return


def _write_scenario(run: Run, name: str) -> Path:
    """The scenario of one engine run: its own group and output topics, the shared input; else defaults."""
    source = run.topics("")
    topics = msgspec.structs.asdict(run.topics(name.removeprefix(run.prefix)))
    topics |= {"impressions": source.impressions, "actions": source.actions}
    lines = [f"name = {json.dumps(name)}", f"trunk = {json.dumps(run.scenario.trunk)}", "[topics]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in topics.items()]
    path = run.folder / f"{name}.toml"
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return path


def _produced(played: PlayReport) -> Result:
    return {
        "events": played.events,
        "impressions": played.impressions,
        "actions": played.actions,
        "by_action": played.by_action,
        "watermarks": played.watermarks,
        "bytes_per_event": played.sent_bytes / max(played.events, 1),
    }


def _create(bootstrap: str, partitions: dict[str, int]) -> None:
    """Topics that nobody else makes, or makes too late: a changelog must have its partitions at once."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap.split(","))
    compact = {"cleanup.policy": "compact"}
    try:
        admin.create_topics(
            [
                NewTopic(name, count, 1, topic_configs=compact if name.endswith("-changelog") else {})
                for name, count in partitions.items()
            ]
        )
    finally:
        admin.close()


def _remove(bootstrap: str, prefix: str) -> None:
    """Topics and groups of this run on a broker that is not ours."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap.split(","))
    try:
        admin.delete_topics([name for name in admin.list_topics() if name.startswith(prefix)])
        groups = [group["group_id"] for group in admin.list_groups()]
        admin.delete_groups([group for group in groups if group.startswith(prefix)])
    except (KafkaError, KeyError) as error:
        _say(f"topics that begin with {prefix} could not all be removed: {error!r}")
    finally:
        admin.close()


# -- the sides


def _round(run: Run, played: PlayReport, size: Size, number: int) -> dict[str, Result]:
    """Every side once."""
    return {
        "engine": _engine(run, played, number),
        "faust_idiomatic": _agent(run, "bench.faust_idiomatic_app", size.idiomatic, number),
        "faust_count": _agent(run, "bench._faust_count_app", size.count, number),
        "raw_fetch": _raw(run, played),
    }


def _engine(run: Run, played: PlayReport, number: int) -> Result:
    """The real worker on all events; raises ``BenchError`` where a count is not what was produced."""
    name = f"{run.prefix}-engine{number}"
    path = _write_scenario(run, name)
    environment = {"SURGELINE_SCENARIO": str(path), "SURGELINE_HOME": str(run.folder / name)}
    argv = ["-A", "stream.app", "worker", "-l", "info"]
    _say(f"engine, round {number + 1}")
    samples: list[Sample] = []
    with _worker(run, name, argv, environment) as (child, url):

        def counts() -> Counts | None:
            page = get(f"{url}/metrics")
            return None if page is None else engine_counts(prometheus(page))

        before = None
        for sample in watch(child, counts, ENGINE_POLL_S):
            if not sample.counts["received"]:
                before = sample
                continue
            if not samples:
                samples.append(before or sample)
            samples.append(sample)
            if sample.counts["samples"] >= played.impressions and tick_is_over(sample.counts):
                break
        last = asyncio.run(_last_weights(run.bootstrap, f"{name}-weights"))
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
        "versions": final["published"],
        "feature_rows": final["feature_rows"],
        "river_skipped_share": final["river_skipped"] / max(final["samples"], 1.0),
        "late": final["late"],
        "auc": {key: metrics.auc for key, metrics in last.metrics.items()},
    }


def engine_counts(page: Counts) -> dict[str, float]:
    """What a worker's metrics page says, by our words; a figure that is not there is zero."""

    def total(name: str, match: str = "") -> float:
        return sum(v for k, v in page.items() if re.fullmatch(rf"{name}(\{{.*{match}.*\}})?", k))

    counts = {kind: total("surgeline_events_total", f'kind="{kind}"') for kind in ("impression", *ACTIONS)}
    counts["received"] = total("faust_messages_received_total")
    counts["samples"] = total("surgeline_samples_total")
    counts["duplicates"] = total("surgeline_duplicates_total")
    counts["orphans"] = total("surgeline_orphans_total") + total("surgeline_orphans_waiting")
    counts["dead_letters"] = total("surgeline_dead_letters_total")
    counts["late"] = total("surgeline_late_events_total")
    counts["published"] = total("surgeline_weights_published_total")
    counts["publish_failures"] = total("surgeline_publish_failures_total")
    counts["checkpoints"] = total("surgeline_checkpoint_seconds_count")
    counts["feature_rows"] = total("surgeline_feature_rows_published_total")
    counts["river_skipped"] = total("surgeline_skipped_total", 'learner="river_')
    return counts


def tick_is_over(counts: Counts) -> bool:
    """Whether the weights of the newest checkpoint are out, and not only counted."""
    return counts["published"] + counts["publish_failures"] >= counts["checkpoints"]


def _processed(counts: Counts) -> float:
    return sum(counts[kind] for kind in ("impression", *ACTIONS))


def check(counts: Counts, played: PlayReport, published_samples: int) -> None:
    """Raise ``BenchError`` unless the engine counted exactly what was produced and learned all of it."""
    wanted: dict[str, float] = {"impression": played.impressions, "samples": played.impressions}
    wanted |= {kind: played.by_action.get(kind, 0) for kind in ACTIONS}
    wanted |= dict.fromkeys(("duplicates", "orphans", "dead_letters"), 0)
    wrong = [f"{k}: {counts[k]:,.0f}, not {n:,.0f}" for k, n in wanted.items() if counts[k] != n]
    if published_samples != played.impressions:
        wrong.append(f"samples in the published weights: {published_samples:,}, not {played.impressions:,}")
    if not counts["feature_rows"]:
        wrong.append("no feature row was published")
    if wrong:
        raise BenchError("the engine did not process what was produced: " + "; ".join(wrong))


def _agent(run: Run, module: str, events: int, number: int) -> Result:
    """A Faust app of single events on topics with the first ``events`` alone, after its warm-up.

    Alone, because Faust reads two topics without regard to event time: behind the first events it would
    find all actions of the sale, long before their impressions.
    """
    part = f"-{module.rpartition('.')[2].strip('_').replace('_', '-')}{number}"
    name = run.prefix + part
    topics, played = run.fill(part, events)
    _say(f"{module}, round {number + 1}: {events:,} events")
    environment = {
        "BENCH_APP": name,
        "BENCH_DATADIR": str(run.folder / name),
        "BENCH_IMPRESSIONS": topics.impressions,
        "BENCH_ACTIONS": topics.actions,
        "BENCH_PARTITIONS": str(PARTITIONS),
    }
    _create(run.bootstrap, {f"{name}-{rows}-changelog": PARTITIONS for rows in ("shown", *TABLES)})
    samples: list[Sample] = []
    with _worker(run, name, ["-A", module, "worker", "-l", "warn"], environment) as (child, url):

        def counts() -> Counts | None:
            page = get(f"{url}/counts")
            return None if page is None else msgspec.json.decode(page, type=dict[str, float])

        for sample in watch(child, counts, AGENT_POLL_S):
            samples.append(sample)
            if _taken(sample.counts) >= events:
                break
    rate = steady(samples, _taken, events * WARM_UP, events)
    final = samples[-1].counts
    wanted = {"impressions": played.impressions, "actions": played.actions, "refused": 0, "duplicates": 0}
    wrong = [f"{k}: {final.get(k, 0):,.0f}, not {n:,}" for k, n in wanted.items() if final.get(k, 0) != n]
    if wrong:
        raise BenchError(f"{module} did not process what was produced: " + "; ".join(wrong))
    if "log_loss" in final and not (final.get("samples") and final.get("published")):
        raise BenchError(f"{module} learned or published nothing: {dict(final)}")
    return {**_figures(rate), "samples": final.get("samples", 0), "log_loss": final.get("log_loss", 0.0)}


def _taken(counts: Counts) -> float:
    return counts.get("impressions", 0.0) + counts.get("actions", 0.0)


def _raw(run: Run, played: PlayReport) -> Result:
    """The bare fetch; raises ``BenchError`` where it did not bring every record."""
    topics = run.topics("")
    expected = played.events + played.watermarks
    _say("bare fetch")
    log = run.folder / f"raw-{time.monotonic_ns()}.log"
    argv = [sys.executable, "-m", "bench._raw_fetch", run.bootstrap, str(expected)]
    child = Child([*argv, topics.impressions, topics.actions], log)
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


@contextmanager
def _worker(run: Run, name: str, argv: list[str], environment: dict[str, str]) -> Iterator[tuple[Child, str]]:
    """A Faust worker and the address of its pages; ended with everything it started."""
    port = free_port()
    command = [sys.executable, "-m", "faust", *argv, "--web-host", HOST, "--web-port", str(port)]
    settings = {**os.environ, **environment, "KAFKA_BOOTSTRAP": run.bootstrap}
    child = Child(command, run.folder / f"{name}.log", settings)
    try:
        yield child, f"http://{HOST}:{port}"
    finally:
        child.stop()


async def _last_weights(bootstrap: str, topic: str) -> Weights:
    """The newest message of a weights topic of one partition."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    await consumer.start()
    try:
        where = TopicPartition(topic, 0)
        end = (await consumer.end_offsets([where]))[where]
        consumer.assign([where])
        consumer.seek(where, max(end - 1, 0))
        record = await asyncio.wait_for(consumer.getone(), 30.0)
    finally:
        await consumer.stop()
    assert isinstance(record.value, bytes)
    return decode_weights(record.value)


def _say(what: str) -> None:
    print(f".. {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    from bench.__main__ import main

    main(["throughput", *sys.argv[1:]])
