"""`surgeline replay`, `export`, `logs` and `inspect`: recorded logs at the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import numpy as np
import polars as pl

from contracts.scenario import load_scenario
from replay.files import write_log
from replay.log import LogInfo, RecordedLog
from replay.open_log import open_log
from replay.pacing import TIME_MODES, ArrivalCurve, is_curve, retime

#: A log whose files are no larger is counted before it is replayed, for the time that is left.
COUNT_FIRST_BYTES = 200_000_000
#: Types of behaviours that `inspect` names: they are free text.
TYPES_SHOWN = 10
#: Exit status after Ctrl-C, as shells have it (128 + SIGINT).
INTERRUPTED = 130
#: How long a replay that is over looks at the workers where it was not told to wait for them.
LOOK_S = 3.0

_mapping = click.option(
    "--mapping",
    type=click.Path(dir_okay=False, path_type=Path),
    help="TOML column mapping, for any other CSV, JSONL or Parquet table.",
)
_limit = click.option("--limit", type=click.IntRange(min=1), help="Only the first N events.")


@click.command()
@click.argument("log")
@click.option("--speed", default="max", show_default=True, help="max, 1x or any factor such as 10x.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Events a second, with speed max.")
@click.option(
    "--time",
    type=click.Choice(TIME_MODES),
    default="keep",
    show_default=True,
    help="Keep the log's event times, or shift them so that the stream looks live.",
)
@_limit
@click.option(
    "--scenario",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Scenario file.  [default: SURGELINE_SCENARIO]",
)
@click.option("--bootstrap", help="host:port.  [default: KAFKA_BOOTSTRAP or 127.0.0.1:9092]")
@_mapping
@click.option(
    "--new-ids/--same-ids",
    default=None,
    help="Impression ids of this replay's own.  [default: new with --time now]",
)
@click.option("--wait", is_flag=True, help="End when the workers have learned all of it.")
@click.option("--watermark/--no-watermark", default=True, help="End every partition with a watermark.")
@click.option("--fault", "faults", multiple=True, metavar="NAME=...", help="Add a fault; may be repeated.")
@click.option("--fault-seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--broker-pid", type=click.IntRange(min=1), help="The process that broker_pause means.")
@click.option("--worker-pid", type=click.IntRange(min=1), help="The process that worker_kill means.")
def replay(
    log: str,
    speed: str,
    rate: float | None,
    time: str,
    limit: int | None,
    scenario: Path | None,
    bootstrap: str | None,
    mapping: Path | None,
    new_ids: bool | None,
    wait: bool,
    watermark: bool,
    faults: tuple[str, ...],
    fault_seed: int,
    broker_pid: int | None,
    worker_pid: int | None,
) -> None:
    """Send LOG (a known name, or a file) to Kafka at its own pace or faster.

    A log that is older than what the workers have done is learned, too; that is said before it starts.

    \b
    Faults, each seeded and counted (durations: 500ms, 30s, 5m, 1h):
      duplicates=SHARE[:WITHIN]            events that are delivered twice
      late=SHARE[:MOST[:LEAST]]            events that are delivered late
      clock_skew=SHARE:SKEW[:all|actions]  users whose clocks are wrong
      label_outage=START:LENGTH[:lost]     actions that come after it, or never
      hot_key=START:LENGTH:COPIES[:ITEM]   one user floods a partition
      schema_change=KIND[:FIELD[:START]]   extra, rename or retype a field
      malformed=SHARE                      bytes that are no events
      broker_pause=START:LENGTH[:PID]      SIGSTOP, and SIGCONT after LENGTH
      worker_kill=START[:PID]              SIGKILL; its supervisor restarts it
    """
    from replay.display import Display
    from replay.fault_options import OF_PROCESSES, parse_fault
    from replay.faulty import FaultyLog, describe
    from replay.outcome import Watch, in_words
    from replay.player import play
    from replay.process_faults import ProcessFaults

    opened = open_log(log, mapping)
    parsed = [parse_fault(fault) for fault in faults]
    of_log = [fault for fault in parsed if fault.name not in OF_PROCESSES]
    of_processes = [fault for fault in parsed if fault.name in OF_PROCESSES]
    processes = ProcessFaults(of_processes, fault_seed, broker_pid=broker_pid, worker_pid=worker_pid)
    faulty = FaultyLog(opened, of_log, fault_seed, limit) if of_log else None
    total = opened.info() if _is_small(opened) else None
    settings = load_scenario(scenario)
    with Display(opened.name, total, limit) as display:
        report = play(
            faulty or opened,
            settings,
            bootstrap,
            speed,
            rate=rate,
            time="now" if time == "now" else "keep",
            limit=None if faulty else limit,
            watermark=watermark,
            on_progress=display.update,
            processes=processes,
            new_ids=time == "now" if new_ids is None else new_ids,
            watch=Watch(display.say, None if wait else LOOK_S),
        )
    by_action = ", ".join(f"{name} {count:,}" for name, count in sorted(report.by_action.items()))
    click.echo(
        f"{'stopped: ' if report.interrupted else ''}sent {report.impressions:,} impressions, "
        f"{report.actions:,} actions ({by_action or 'none'}), {report.behaviours:,} behaviours, "
        f"{report.watermarks} watermarks; "
        f"{report.sent_bytes:,} bytes in {report.seconds:.2f} s, {report.rate:,.0f} events/s"
    )
    if speed != "max" or rate is not None:
        click.echo(
            f"lateness of the player: p99 {report.lateness_p99_s * 1000:.0f} ms, "
            f"max {report.lateness_max_s * 1000:.0f} ms"
        )
    for line in describe(faulty.counts) if faulty else ():
        click.echo(f"{line}{' (with what was prepared and not sent)' if report.interrupted else ''}")
    for line in processes.lines():
        click.echo(line)
    _say_refused(opened)
    outcome = report.outcome
    for line in in_words(outcome, settings.name, settings.times) if outcome else ():
        click.echo(line)
    if report.interrupted or (outcome and outcome.stopped):
        sys.exit(INTERRUPTED)
    if wait and not (outcome and outcome.versions):
        sys.exit(1)


@click.command()
@click.argument("log")
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="A .parquet or .jsonl file.",
)
@click.option(
    "--retime",
    "other",
    metavar="OTHER",
    help="Give the events the arrival curve of OTHER: a log, or a CSV file of period,count.",
)
@_limit
@_mapping
def export(log: str, out: Path, other: str | None, limit: int | None, mapping: Path | None) -> None:
    """Write LOG in the canonical columns.

    With --retime the k-th event comes when the same share of OTHER's events has come; the order of events
    stays, and so does all else in them. A curve of before 2000 is moved by whole weeks to where LOG begins.
    --limit counts after that: the first N of the re-timed log.
    """
    opened = open_log(log, mapping)
    source = opened if other is None else _retimed(opened, other)
    events = write_log(_head(source.chunks(), limit), out)
    click.echo(f"{out}: {events:,} events, {out.stat().st_size:,} bytes")
    _say_refused(opened)


@click.command()
def logs() -> None:
    """List the logs that are known by name, and whether their data is here."""
    from replay.adapters.registry import ADAPTERS, adapter

    for name in ADAPTERS:
        module = adapter(name)
        found = module.find()
        click.echo(f"{name:<13} {module.TITLE}")
        click.echo(f"{'':<13} {found if found is not None else module.MISSING}")


@click.command("inspect")
@click.argument("log")
@_mapping
def inspect_log(log: str, mapping: Path | None) -> None:
    """Describe LOG: counts, time span, and how its rate runs."""
    opened = open_log(log, mapping)
    info = opened.info()
    click.echo(f"log          {opened.name}")
    click.echo(f"impressions  {info.impressions:,}")
    by_action = ", ".join(f"{name} {count:,}" for name, count in info.by_action.items())
    click.echo(f"actions      {info.actions:,}{f' ({by_action})' if by_action else ''}")
    common = sorted(info.by_type.items(), key=lambda one: (-one[1], one[0]))
    by_type = ", ".join(f"{name} {count:,}" for name, count in common[:TYPES_SHOWN])
    more = f", {len(common) - TYPES_SHOWN} more" if len(common) > TYPES_SHOWN else ""
    click.echo(f"behaviours   {info.behaviours:,}{f' ({by_type}{more})' if by_type else ''}")
    if info.first_ms is not None and info.last_ms is not None:
        click.echo(f"first        {when(info.first_ms)}")
        click.echo(f"last         {when(info.last_ms)}")
        click.echo(_rates(opened, info, info.first_ms, info.last_ms))
    _say_refused(opened)


def when(ms: int) -> str:
    """A time in ms UTC for people.

    >>> when(1_574_553_617_004)
    '2019-11-24 00:00:17.004 UTC'
    """
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S}.{ms % 1000:03d} UTC"


def _rates(log: RecordedLog, info: LogInfo, first_ms: int, last_ms: int) -> str:
    """Median and peak a second and a minute, and the span in 40 steps as a line of bars."""
    span_s = max((last_ms - first_ms) / 1000.0, 1e-3)
    seconds: dict[int, int] = {}
    for chunk in log.chunks():
        values, counts = np.unique(chunk["event_time"].to_numpy() // 1000, return_counts=True)
        for second, count in zip(values.tolist(), counts.tolist(), strict=True):
            seconds[second] = seconds.get(second, 0) + count
    at = np.fromiter(seconds, np.int64, len(seconds))
    n = np.fromiter(seconds.values(), np.int64, len(seconds))
    minutes = np.bincount(at // 60 - int(at.min()) // 60, weights=n)
    steps = np.bincount((at - at.min()) * 40 // (int(at.max() - at.min()) + 1), weights=n, minlength=40)
    bars = "".join(" ▁▂▃▄▅▆▇█"[int(np.ceil(8 * step / steps.max()))] for step in steps)
    return (
        f"span         {span_s:,.1f} s, {info.events / span_s:,.1f} events/s on average\n"
        f"peak         {n.max():,} events in one second, {int(minutes.max()):,} in one minute "
        f"(median minute {int(np.median(minutes)):,})\n"
        f"rate         |{bars}|"
    )


def _retimed(log: RecordedLog, other: str) -> RecordedLog:
    if is_curve(other):
        retimed = retime(log, ArrivalCurve.from_csv(Path(other)))
    else:
        curve = open_log(other)
        retimed = retime(log, curve)
        _say_refused(curve)
    if retimed.moved_ms:
        weeks = retimed.moved_ms // (7 * 86_400_000)
        click.echo(f"{other}: no event can be of its time; moved by {weeks:,} weeks to the log's", err=True)
    return retimed


def _is_small(log: RecordedLog) -> bool:
    files = getattr(log, "files", ())
    return bool(files) and sum(file.stat().st_size for file in files) <= COUNT_FIRST_BYTES


def _head(frames: Iterator[pl.DataFrame], limit: int | None) -> Iterator[pl.DataFrame]:
    left = limit
    for frame in frames:
        yield frame if left is None else frame.head(left)
        if left is not None:
            left -= frame.height
            if left <= 0:
                return


def _say_refused(log: RecordedLog) -> None:
    tally = getattr(log, "tally", None)
    if tally is not None and tally.text():
        click.echo(f"{log.name}: {tally.text()}", err=True)
