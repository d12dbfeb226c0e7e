"""An evaluation: train where asked, run the worker's engine over a recorded log, compute the figures.

No broker: the engine is the worker's own, in event time with its tick, so the weights at the end are those
that a worker would have. Every prediction is made before its label is learned.
"""

from __future__ import annotations

import hashlib
import platform
import tempfile
import time
from contextlib import ExitStack, closing
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from contracts.errors import SurgelineError
from contracts.scenario import Kafka, Scenario, home
from models.deep.load import load_trunk
from models.deep.locate import resolve_trunk
from models.deep.trunk import Trunk
from replay.log import RecordedLog
from replay.open_log import open_log
from replay.report.schema import Counts, Evaluation, Fitted, Run
from state.joins.join import Closed
from stream.engine import Engine
from surgeline.evaluation.analyse import CHAMPION, Analysis, analyse, open_truth
from surgeline.evaluation.cadence import StaleCopies, check_ticks, parse_cadences
from surgeline.evaluation.notes import notes
from surgeline.evaluation.predictions import Predictions
from surgeline.evaluation.rehearse import Rehearsal, RehearsalReport
from surgeline.progress import Bar, silent
from surgeline.times import stamp
from surgeline.train import refused, train_on

#: Events that the engine takes at once; what it learns does not depend on it.
CHUNK_ROWS = 16_384


class EvaluateError(SurgelineError, ValueError):
    """The evaluation cannot be made as asked; the message says what to change."""


class Request(msgspec.Struct, kw_only=True, frozen=True):
    """What to evaluate. ``until_train`` in ms UTC; paths that are None are not written.

    ``warm``: the engine runs over what precedes ``until_train``, too, so that features and joins know it;
    learners begin at ``until_train`` either way.
    ``written``: files that the caller writes from what is found; like ``predictions``, none may be an input.
    """

    log: str
    mapping: Path | None = None
    trunk: Path | None = None
    until_train: int | None = None
    warm: bool = True
    hidden: int = 0
    epochs: int = 0
    kind: str = "network"
    limit: int | None = None
    truth: Path | None = None
    cadence: str = ""
    predictions: Path | None = None
    written: tuple[Path, ...] = ()
    seed: int = 0


def evaluate(request: Request, scenario: Scenario, command: str = "", bar: Bar | None = None) -> Evaluation:
    """Train where asked, run the engine over the log, and compute the figures from the rows."""
    bar = bar or silent()
    log = open_log(request.log, request.mapping)
    cadences = parse_cadences(request.cadence)
    if request.trunk is not None and request.until_train is not None:
        raise EvaluateError("give --trunk or --until-train (which trains one), not both")
    if not request.warm and request.until_train is None:
        raise EvaluateError("--cold leaves out what precedes --until-train; without that there is nothing")
    if request.truth is not None and not request.truth.is_file():
        raise EvaluateError(f"{request.truth}: no such file")
    # What would fail after the pass should fail before it.
    check_ticks(
        [seconds for _, seconds in cadences if seconds is not None], round(scenario.times.tick_s * 1000)
    )
    if request.truth is not None:
        open_truth(request.truth)
    _spare_inputs(request, log)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="surgeline-evaluate-")))
        began = time.monotonic()
        trunk, trained_on = _trunk(request, scenario, log, folder, bar)
        trained = time.monotonic()
        path = request.predictions or folder / "predictions.parquet"
        run = _Pass(request, scenario, trunk, cadences, folder, path)
        rehearsal = run.over(log, bar)
        if not rehearsal.impressions:
            raise EvaluateError(_nothing(log, request, rehearsal))
        bar.step("figures")
        found = analyse(
            path,
            run.learners,
            cadences,
            request.truth,
            rehearsal.metrics,
            request.seed,
        )
        if not found.rows:
            raise EvaluateError(_nothing(log, request, rehearsal))
        about = Run(
            log=log.name,
            command=command,
            version=version("surgeline"),
            python=platform.python_version(),
            scenario=scenario.name,
            scenario_sha256=_digest(scenario),
            trunk_hash=trunk.hash,
            trunk_trained_on=trained_on,
            weights_digest=rehearsal.weights_digest,
            from_ms=request.until_train,
            warm=request.warm,
            first_ms=found.first_ms,
            last_ms=found.last_ms,
            seconds=time.monotonic() - trained,
            training_seconds=trained - began,
            trunk_fitted=_fitted(trunk, log, found),
        )
    return _evaluation(about, run, rehearsal, found, log, request)


def _digest(scenario: Scenario) -> str:
    """Of all that changes what is learned: how a broker is reached does not."""
    learned = msgspec.structs.replace(scenario, kafka=Kafka())
    return hashlib.sha256(msgspec.json.encode(learned, order="sorted")).hexdigest()


def _spare_inputs(request: Request, log: RecordedLog) -> None:
    """Refuse an output that is an input, under whatever name, or another output."""
    outputs = [path for path in (request.predictions, *request.written) if path is not None]
    inputs = [
        path for path in (request.truth, request.mapping, *getattr(log, "files", ())) if path is not None
    ]
    for k, path in enumerate(outputs):
        for other in inputs:
            if path.exists() and other.exists() and path.samefile(other):
                raise EvaluateError(f"{path}: is read by this evaluation and would be overwritten")
        if any(path.resolve() == other.resolve() for other in outputs[:k]):
            raise EvaluateError(f"{path}: is named for two outputs")


class _Pass:
    """One pass of the engine over a log, with its predictions written to ``path``."""

    def __init__(
        self,
        request: Request,
        scenario: Scenario,
        trunk: Trunk,
        cadences: list[tuple[str, float | None]],
        folder: Path,
        path: Path,
    ) -> None:
        self._request = request
        self._folder = folder
        self._path = path
        self._rehearsal = Rehearsal(scenario, trunk, folder / "state", self._observe)
        self.engine: Engine = self._rehearsal.engine
        self.learners = list(self.engine.panel.learner_names)
        if request.until_train is not None:
            # The trunk was fitted to what came before, and says how much that is worth.
            self.engine.learn_from = request.until_train
        # Nobody waits for a tick here: every sample counts.
        self.engine.panel.worth.samples_per_tick = None
        arms = [(name, seconds) for name, seconds in cadences if seconds is not None]
        self._names = [name for name, _ in arms]
        self._copies: StaleCopies | None = None
        if arms:
            self._copies = StaleCopies(self.engine, [seconds for _, seconds in arms])
            self.engine.predict_observer = self._copies.predict
        self._rows: Predictions | None = None
        #: The time of the last event where ``--limit`` ended the log, ms.
        self.cut_ms: int | None = None

    def over(self, log: RecordedLog, bar: Bar) -> RehearsalReport:
        """Run the whole log."""
        request, engine = self._request, self.engine
        from_ms = request.until_train or 0
        left = request.limit
        total = _size(log, bar)
        # With a training part before it, where a limit ends is not known yet.
        bar.step("rehearsing", total if left is None or total is None or from_ms else min(total, left))
        with closing(engine.store), Predictions(self._path, self.learners, self._names, from_ms) as rows:
            self._rows = rows
            for frame in log.chunks(CHUNK_ROWS):
                before, after = _split(frame, from_ms)
                if before.height:
                    if request.warm:
                        rows.offer(before)
                        self._rehearsal.feed(before)
                    else:
                        # The trunk knows these items, although the engine never saw them.
                        rows.see(before)
                if left is not None:
                    after = after.head(left)
                    left -= after.height
                if after.height:
                    rows.offer(after)
                    self._rehearsal.feed(after)
                rows.settle(engine.labels_until - engine.tick_ms)
                bar.move(frame.height)
                if left == 0:
                    self.cut_ms = int(after["event_time"][-1])
                    break
            self._rehearsal.finish()
        return self._rehearsal.report()

    def _observe(self, tick: int, closed: Closed) -> None:
        assert self._rows is not None
        if self._copies is None:
            arms = np.empty((len(closed.labels), 0), dtype=np.float32)
        else:
            self._copies.learning(tick)
            arms = self._copies.take(closed)
        self._rows.add(tick, closed, arms)


def _trunk(
    request: Request, scenario: Scenario, log: RecordedLog, folder: Path, bar: Bar
) -> tuple[Trunk, str]:
    """The trunk to evaluate, and in words what it was trained on."""
    until = request.until_train
    if request.trunk is not None:
        return load_trunk(request.trunk), str(request.trunk)
    if until is None:
        trunk = resolve_trunk(scenario.trunk, home())
        return trunk, "no trunk" if trunk.hash == "none" else scenario.trunk or "the home folder's trunk"
    bar.step("training a trunk")
    report = train_on(
        log,
        folder / "trunk",
        scenario=scenario,
        kind=request.kind,
        hidden=request.hidden,
        epochs=request.epochs,
        seed=request.seed,
        until=until,
    )
    training = report.training
    words = f"{training.rows:,} impressions of {log.name} before {stamp(until)}"
    return load_trunk(folder / "trunk"), words


def _fitted(trunk: Trunk, log: RecordedLog, found: Analysis) -> Fitted | None:
    """How much of what was evaluated the trunk was fitted to, as far as its manifest tells."""
    training = trunk.training
    if training is None:
        return None
    first, last = training.first_event_time, training.last_event_time
    rows = found.shown_within(first, last)
    return Fitted(
        log=training.log,
        first_ms=first,
        last_ms=last,
        rows=rows,
        share=rows / found.rows,
        same_log=training.log == log.name,
    )


def _split(frame: pl.DataFrame, at: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows before and from ``at`` (ms) of a frame in event-time order."""
    cut = int(frame["event_time"].search_sorted(at, side="left")) if frame.height else 0
    return frame.head(cut), frame.slice(cut)


def _size(log: RecordedLog, bar: Bar) -> int | None:
    """Events of a log that is small enough to count first, where somebody watches."""
    files = getattr(log, "files", ())
    small = bool(files) and sum(file.stat().st_size for file in files) <= 200_000_000
    return log.info().events if small and bar.visible else None


def _nothing(log: RecordedLog, request: Request, report: RehearsalReport) -> str:
    """Why there is nothing to evaluate, as far as that is known."""
    where = f" from {stamp(request.until_train)} on" if request.until_train is not None else ""
    why = [f"{report.refused:,} events were refused ({report.refused_because})"] if report.refused else []
    why += [text] if (text := refused(log)) else []
    return f"{log.name} has no impressions to evaluate{where}" + (f": {'; '.join(why)}" if why else "")


def _evaluation(
    about: Run,
    run: _Pass,
    rehearsal: RehearsalReport,
    found: Analysis,
    log: RecordedLog,
    request: Request,
) -> Evaluation:
    engine = run.engine
    join, totals = engine.joins.counts, engine.totals
    tally = getattr(log, "tally", None)
    label_ms = round(engine.scenario.times.label_window_s * 1000)
    counts = Counts(
        events=rehearsal.events,
        impressions=rehearsal.impressions,
        actions=rehearsal.actions,
        behaviours=rehearsal.behaviours,
        samples=rehearsal.samples,
        positives=rehearsal.positives,
        rows=found.rows,
        row_positives=found.positives,
        refused_rows=tally.refused if tally is not None else 0,
        refused_events=rehearsal.refused,
        duplicates=join.duplicate_impressions + join.duplicate_actions,
        orphans_waiting=join.orphans_waiting,
        orphans_expired=join.orphans_expired,
        actions_after_label=join.actions_after_label,
        late=totals.late,
        ticks=rehearsal.ticks,
        users=found.users,
        items=found.items,
    )
    return Evaluation(
        run=about,
        counts=counts,
        champion=CHAMPION,
        learners=found.learners,
        lists=found.lists,
        segments=found.segments,
        timeline=found.timeline,
        reliability=found.reliability,
        hot_items=found.hot_items,
        cadence=found.cadence,
        bootstrap=found.bootstrap,
        notes=list(
            notes(
                engine,
                counts,
                fitted=about.trunk_fitted,
                intervals=found.bootstrap is not None,
                from_ms=request.until_train,
                warm=request.warm,
                bad_rows=tally.examples if tally is not None else (),
                refused_because=rehearsal.refused_because,
                cut=found.shown_after(run.cut_ms - label_ms) if run.cut_ms is not None else 0,
            )
        ),
        expert_weights=found.expert_weights,
        features=engine.panel.worth.worth(),
        quality=found.quality,
    )
