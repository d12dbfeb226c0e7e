"""The engine: what a worker does with events, without Kafka and without asyncio.

``ingest`` buffers decoded events; ``advance`` runs every event-time tick up to the watermark (join, count,
snapshot, predict, and, when labels close, learn); ``checkpoint`` writes all of it in one atomic batch. The
worker and the rehearsal drive the same object. One thread uses it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt

from contracts.events import ACTIONS
from contracts.scenario import Scenario
from contracts.weights import Watermarks, Weights
from features.declared import plan_from
from features.plan import CLOCK_MS
from models.deep.trunk import Trunk
from models.online.panel import Panel
from state.feature_rows import FeatureRows
from state.joins.columns import Actions, Closed, Due
from state.joins.joins import Joins
from state.keys import check_format
from state.memory import FreedMemory
from state.store import Batch, Store
from stream.checkpoint import Progress, Totals, begin, read_progress, write_progress
from stream.clock import Clock, SystemClock, utc
from stream.columns import VALUE, JoinedTick, shown_columns, tick_events, trunk_columns, united
from stream.commit_note import CommitNote
from stream.decode import Record, Refused
from stream.event_columns import REQUEST, layouts
from stream.intake import ACTIONS_KIND, BEHAVIOURS, IMPRESSIONS, Intake
from stream.item_names import ItemNames
from stream.lane import NEVER
from stream.logged import Logged
from stream.new_trunk import take_up_learners
from stream.notices import Notices
from stream.resume import Place
from stream.tick_log import TickLog
from stream.timeline import Source, Taken, Timeline, by_tick

Float32Array = npt.NDArray[np.float32]

#: Ticks that are taken from the buffers and sorted together; bounds how long one step can take.
CHUNK_TICKS = 8
#: Bits of actions in the join's masks.
_BITS = (1 << np.arange(len(ACTIONS))).astype(np.uint8)
#: Where a window of ``CLOCK_MS`` has so many events at most, its ticks are taken together, however many.
FEW_EVENTS = 4096


class Engine:
    """A worker's engine over one state folder.

    ``source`` names the worker slot in the weights topic. Restores the last checkpoint on creation.
    """

    def __init__(
        self,
        scenario: Scenario,
        store: Store,
        trunk: Trunk,
        source: str = "0",
        clock: Clock | None = None,
    ) -> None:
        check_format(store)
        times, learners = scenario.times, scenario.learners
        self.scenario = scenario
        self.store = store
        self.trunk = trunk
        self.source = source
        self.clock: Clock = clock or SystemClock()
        self.tick_ms = round(times.tick_s * 1000)
        self.plan = plan_from(scenario.features, ACTIONS)
        trunk.check_features(self.plan.names, self.plan.hash)
        self.features = FeatureRows(
            store, self.plan, scenario.state.cached_rows, round(scenario.state.forget_s * 1000)
        )
        self.joins = Joins(
            store,
            self.tick_ms,
            round(times.label_window_s * 1000),
            round(times.join_limit_s * 1000),
            len(self.plan.remembered),
        )
        self.panel = Panel(
            trunk,
            self.plan.names,
            prior_precision=learners.prior_precision,
            feature_prior_precision=learners.feature_prior_precision,
            trunk_evidence=learners.trunk_evidence,
            forgetting_per_tick=0.5 ** (times.tick_s / learners.half_life_s),
            river=learners.river,
            river_samples_per_tick=learners.river_samples_per_tick,
            neutral=trunk.normalise(self.plan.neutral[None, :])[0],
        )
        self._logged = Logged(self.plan.features)
        self.item_names = ItemNames()
        self._layouts = layouts(self.plan, trunk.fields, trunk.reads_every_context)
        self._request_column = self._layouts[IMPRESSIONS].keys.index(REQUEST)
        self.timeline = Timeline(
            round(times.lateness_s * 1000),
            times.idle_s,
            self._layouts,
            round(times.join_limit_s * 1000),
            self.tick_ms,
        )
        self.totals = Totals()
        self.notices = Notices()
        self.intake = Intake(
            source, times, self.timeline, self.notices, self.clock, self._layouts, self.item_names.see
        )
        self.version = 0
        self.done_until = NEVER
        self.labels_until = NEVER
        #: Event time up to which feature rows have reached the features topic.
        self.published_until = NEVER
        self._last_learned_tick = NEVER
        self._freed = FreedMemory()
        self.stats = TickLog(len(self.panel.learner_names))
        #: Event time (ms): samples of impressions before it are observed, and nobody learns from them.
        self.learn_from = NEVER
        #: Called with (tick, closed samples) before they are learned; rehearsals collect predictions here.
        self.observer: Callable[[int, Closed], None] | None = None
        #: Called with (tick, inputs (n, p)) before a tick's impressions are predicted.
        self.predict_observer: Callable[[int, npt.NDArray[np.float32]], None] | None = None
        self._restore()

    # -- sources

    def assign(self, source: Source, place: Place) -> int | None:
        """Begin to read a source. Returns the offset to read from; None where the group has none yet."""
        read_from, version = self.intake.assign(source, place, self.totals)
        # Serving refuses versions that it has seen already.
        self.version = max(self.version, version)
        return read_from

    def revoke(self, source: Source) -> None:
        """Stop reading a source; call ``checkpoint`` first to keep what was done.

        Where it is assigned again, reading goes on from here: what the ticks have taken is not taken twice.
        """
        self.intake.revoke(source)

    def commit_notes(self) -> dict[Source, CommitNote]:
        """What to commit for each source, as of the last checkpoint."""
        return self.intake.commit_notes(self.version, self.done_until)

    def ingest(self, source: Source, records: Sequence[Record], now_ms: int) -> list[Refused]:
        """Decode a partition batch (in offset order) and buffer its events. Returns what was refused.

        Records that a checkpoint already holds are skipped, so reading again is harmless.
        """
        return self.intake.take(source, records, now_ms, self.totals)

    # -- ticks

    def advance(self, budget_s: float = 1e9) -> int:
        """Run every tick that the watermark allows, for about ``budget_s``. Returns ticks run."""
        clock, timeline = self.clock, self.timeline
        now = clock.monotonic()
        deadline = now + budget_s
        timeline.release(now, round(clock.time() * 1000))
        ticks = 0
        while timeline.turned(now):
            ticks += self._finish_pass(deadline)
            if clock.monotonic() >= deadline:
                return ticks
            self._turn_back(now)
        self._run_late()
        watermark = timeline.watermark(now, self._open_until())
        boundary = watermark // self.tick_ms * self.tick_ms
        if watermark <= NEVER:
            return ticks
        while self.done_until < boundary and clock.monotonic() < deadline:
            # Bounded chunks: a long backlog is not sorted at once, and the budget is kept.
            ticks += self._run_until(self._chunk_end(boundary))
        return ticks

    def _open_until(self) -> int:
        """Event time (ms) of the tick with which everything that is buffered or open will have closed."""
        due, closes = self.timeline.due(), self.joins.last_close()
        last = NEVER if due is None else (due[1] // self.tick_ms + 1) * self.tick_ms
        return max(last, NEVER if closes is None else -(-closes // self.tick_ms) * self.tick_ms)

    def _chunk_end(self, boundary: int) -> int:
        due = self.timeline.due()
        if due is None or due[0] >= boundary:
            return boundary
        begin = max(due[0] // self.tick_ms * self.tick_ms, self.done_until)
        window = min(boundary, max((begin // CLOCK_MS + 1) * CLOCK_MS, begin + self.tick_ms))
        if self.timeline.buffered <= FEW_EVENTS or self.timeline.due_before(window) <= FEW_EVENTS:
            # A quiet stretch: its ticks are counted together, and one pass costs little more than one tick,
            # however much is buffered of what comes after it.
            return window
        return min(boundary, begin + self.tick_ms * CHUNK_TICKS)

    def _run_until(self, boundary: int) -> int:
        """Run all ticks before ``boundary`` (a multiple of the tick)."""
        ticks = self._run(boundary)
        self._close_until(boundary)
        self.done_until = boundary
        return ticks

    def _run_late(self) -> None:
        """Run what is behind the ticks that are done, as a part of the first tick that is not.

        That tick's other events may be far off: what is late does not wait for them.
        """
        due = self.timeline.due()
        if self.done_until > NEVER and due is not None and due[0] < self.done_until:
            self._run(self.done_until)

    def _run(self, boundary: int) -> int:
        """Take what is due before ``boundary`` and run its ticks; returns how many."""
        late_before = self.timeline.late
        impressions = self.timeline.take(IMPRESSIONS, boundary, self.done_until)
        actions = self.timeline.take(ACTIONS_KIND, boundary, self.done_until)
        behaviours = self.timeline.take(BEHAVIOURS, boundary, self.done_until)
        self.totals.late += self.timeline.late - late_before
        # Counted here and not in ``ingest``: what only waits in a buffer is read again after a restart.
        self.totals.impressions_read += len(impressions.events)
        self.totals.actions_read += len(actions.events)
        self.totals.behaviours_read += len(behaviours.events)
        ticks = 0
        every = by_tick(impressions, actions, behaviours)
        for _, group in groupby(every, key=lambda one: one[0] * self.tick_ms // CLOCK_MS):
            ticks += self._run_ticks(list(group))
        self.totals.ticks += ticks
        return ticks

    def _run_ticks(self, ticks: list[tuple[int, list[Taken]]]) -> int:
        """Run ticks of one window of ``CLOCK_MS``; returns how many.

        Rows depend on events alone, so all ticks are counted in one pass; what is learned moves predictions,
        so these follow tick by tick.
        """
        joined: list[JoinedTick] = []
        closing: list[list[tuple[int, dict[int, Due]]]] = []
        for tick, taken in ticks:
            closing.append(self._closing_until(tick * self.tick_ms))
            joined.append(self._joined(tick, *taken))
        snapshots = self._observe(joined)
        for due, one, snapshot in zip(closing, joined, snapshots, strict=True):
            for at, samples in due:
                self._learn(at, self.joins.closed(samples))
            if len(one.events):
                self._predict(one, snapshot)
            one.note(self.stats, (one.tick + 1) * self.tick_ms)
        return len(ticks)

    # -- an older log

    def _finish_pass(self, deadline: float) -> int:
        """Run what is left of the present pass of time, as far as the deadline allows. Returns ticks run."""
        ticks = 0
        while (due := self.timeline.due()) is not None and self.clock.monotonic() < deadline:
            end = (due[1] // self.tick_ms + 1) * self.tick_ms
            ticks += self._run_until(max(self._chunk_end(end), self.done_until))
        return ticks

    def _turn_back(self, now: float) -> None:
        """Time starts over, since an older log has begun. Every open label closes: nothing more will come."""
        closes = self.joins.last_close()
        if closes is not None:
            self._close_until(-(-closes // self.tick_ms) * self.tick_ms)
        self.joins.forget_all()
        before = self.done_until
        self.timeline.next_pass(before, now)
        self.done_until = self.labels_until = self.published_until = self._last_learned_tick = NEVER
        self.totals.older_logs += 1
        due = self.timeline.due()
        begins = utc(due[0]) if due else "an unknown time"
        self.notices.say(
            "older_log",
            f"An older log: its events begin at {begins}, and events up to {utc(before)} are done. It is "
            "learned from its beginning on, time starts over there, and its events count as late; replay "
            "with --time now to learn a log as if it happened now",
            subject=str(self.totals.older_logs),
        )

    def _close_until(self, boundary: int) -> None:
        """Close and learn everything due at or before ``boundary``, each tick's samples at their time."""
        for at, due in self._closing_until(boundary):
            self._learn(at, self.joins.closed(due))

    def _closing_until(self, boundary: int) -> list[tuple[int, dict[int, Due]]]:
        """Close everything due at or before ``boundary``: the tick, and what it is to learn."""
        found = []
        while (due := self.joins.next_close()) is not None and due <= boundary:
            at = -(-due // self.tick_ms) * self.tick_ms
            if at > boundary:
                break
            samples = self.joins.close(at)
            if samples:
                found.append((at // self.tick_ms, samples))
        self.joins.close(boundary)
        self.labels_until = max(
            self.labels_until, boundary - round(self.scenario.times.label_window_s * 1000)
        )
        return found

    def _learn(self, tick: int, closed: Closed) -> None:
        if self.observer is not None:
            self.observer(tick, closed)
        if self.learn_from > NEVER:
            closed = closed.shown_from(self.learn_from)
            if not len(closed):
                return
        elapsed = max(tick - self._last_learned_tick, 1) if self._last_learned_tick > NEVER else 1
        self._last_learned_tick = tick
        self.panel.learn(closed.inputs, closed.labels, closed.predictions, elapsed)
        self.stats.closed(tick * self.tick_ms, closed)

    def _joined(self, tick: int, impressions: Taken, actions: Taken, behaviours: Taken) -> JoinedTick:
        """Remember a tick's impressions and find those of its actions."""
        events, times, partitions = impressions.events, impressions.times, impressions.partitions
        ids: list[str] = events.ids.tolist()
        fresh = self.joins.new_rows(ids, partitions)
        if fresh is not None:
            events, times, partitions = events[fresh], times[fresh], partitions[fresh]
            ids = events.ids.tolist()
        shown = shown_columns(ids, events, times, partitions, len(self.plan.remembered))
        added = self.joins.add(tick, shown)
        wanted, bits = actions.events.ids.tolist(), _BITS[actions.events.codes]
        joined = self.joins.join(Actions(wanted, bits, actions.times, actions.partitions), tick)
        for k, name in enumerate(ACTIONS):
            self.totals.actions_by_kind[name] += int(np.count_nonzero(joined.bits == 1 << k))
        amounts, requests = actions.events.numbers[:, VALUE], events.keys[:, self._request_column]
        columns = tick_events(events, shown, added.rows, joined, amounts, behaviours, self.plan, requests)
        return JoinedTick(tick, events, shown, added, columns, len(joined), len(behaviours.events))

    def _observe(self, ticks: list[JoinedTick]) -> list[Float32Array]:
        """Count the ticks' events; each tick's features (impressions, q), in the order of its impressions."""
        events = united([one.columns for one in ticks])
        if not len(events):
            return [np.empty((0, len(self.plan.names)), dtype=np.float32) for _ in ticks]
        partitions = np.concatenate([one.columns.partitions for one in ticks])
        self.features.begin(partitions, ticks[0].tick * self.tick_ms)
        observed, seen = self.plan.observe(events, self.features.tables)
        worked_out = [
            (column, seen.shown(seen.keys[name]))
            for column, name in enumerate(self.plan.remembered)
            if name in self.plan.scope.derived
        ]
        snapshots, begin = [], 0
        for one in ticks:
            end = begin + len(one.events)
            snapshot = np.empty((len(one.events), observed.shape[1]), dtype=np.float32)
            snapshot[one.columns.shown] = observed[begin:end]
            if len(one.events) and worked_out:
                for column, keys in worked_out:
                    one.shown.keys[one.columns.shown, column] = keys[begin:end]
                self.joins.know(one.added, one.shown.keys)
            snapshots.append(snapshot)
            begin = end
        return snapshots

    def _predict(self, one: JoinedTick, snapshot: Float32Array) -> None:
        """What the experts say of a tick's impressions, before any of its labels is known."""
        if one.events.logged is not None:
            self.totals.logged_refused += self._logged.override(one.events.logged.tolist(), snapshot)
        columns = trunk_columns(one.events, one.shown, self._layouts[IMPRESSIONS])
        hidden = self.trunk.hidden(columns, len(one.events), snapshot)
        inputs = self.panel.assemble(hidden, self.trunk.normalise(snapshot))
        if self.predict_observer is not None:
            self.predict_observer(one.tick, inputs)
        self.joins.attach_payload(one.added, inputs, self.panel.predict(inputs))

    # -- checkpoint, weights, digest

    def weights(self, created_at_ms: int) -> Weights:
        """The next version of the weights. Call before ``checkpoint``, which makes the version durable."""
        self.version += 1
        counts = self.joins.counts
        return Weights(
            source=self.source,
            version=self.version,
            parent=self.version - 1,
            trunk_hash=self.trunk.hash,
            feature_names=self.panel.feature_names,
            features_hash=self.plan.hash,
            heads={"ctr": self.panel.head()},
            watermarks=Watermarks(features=max(self.done_until, 0), labels=max(self.labels_until, 0)),
            created_at=created_at_ms,
            samples=self.panel.samples,
            metrics=self.panel.metrics(),
            late=self.totals.late,
            older_logs=self.totals.older_logs,
            duplicates=counts.duplicate_impressions + counts.duplicate_actions,
        )

    def checkpoint(self) -> dict[Source, int]:
        """Write everything that must agree in one atomic batch. Returns the offsets that are now done."""
        self.intake.say_late()
        # What is late runs first: a commit note may have to say that all that is due is done.
        self._run_late()
        self.intake.follow_positions()
        batch = Batch()
        self.features.write(batch)
        self.joins.write(batch)
        progress = Progress(
            tick_ms=self.tick_ms,
            trunk_hash=self.trunk.hash,
            done_until=self.done_until,
            labels_until=self.labels_until,
            published_until=self.published_until,
            last_learned_tick=self._last_learned_tick,
            version=self.version,
            high=self.timeline.high,
            totals=self.totals,
            joins=self.joins.counts_by_partition,
            positions=[(s.kind, s.partition, known) for s, known in sorted(self.intake.known.items())],
        )
        write_progress(batch, progress, self.panel.state_bytes())
        self.store.commit(batch)
        self.features.evict()
        self._freed.follow()
        return {source: self.intake.known[source].position.resume_at for source in self.timeline.sources()}

    def digest(self) -> str:
        """SHA-256 over features, joins, learners and totals as of the last checkpoint.

        Two engines that processed the same events in the same ticks have the same digest, whatever was
        killed and restarted in between.
        """
        sha = hashlib.sha256()
        for part in self.features.state(self.done_until):
            sha.update(part)
        for part in self.joins.state():
            sha.update(part)
        sha.update(self.weights_digest().encode())
        return sha.hexdigest()

    def weights_digest(self) -> str:
        """SHA-256 over the parameters of every learner."""
        return self.panel.digest()

    def _restore(self) -> None:
        found = read_progress(self.store, self.tick_ms)
        # A folder that was begun and knows nothing has lost its write-ahead log, or was killed at once.
        self.intake.state_gone = not begin(self.store) and found is None
        if found is None:
            return
        progress, learners = found
        self.done_until, self.labels_until = progress.done_until, progress.labels_until
        self.published_until = progress.published_until
        # What the last checkpoint changed may not have been published before the process ended.
        self.features.republish_since(progress.published_until)
        self.version, self.totals = progress.version, progress.totals
        self.intake.known = {Source(kind, partition): at for kind, partition, at in progress.positions}
        self.joins.restore(progress.joins)
        self._last_learned_tick = take_up_learners(
            self.panel, self.joins, self.store, progress, learners, self.trunk.hash, self.notices
        )
        self.timeline.restore(self.done_until, progress.high)
