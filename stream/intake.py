"""What comes in: which partitions are read from where, and what of their records waits for a tick.

The engine's side of the source topics. Everything that a person should know about them is said here, in one
line each, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from contracts.events import KINDS
from contracts.scenario import Times
from stream.checkpoint import Totals
from stream.clock import Clock
from stream.commit_note import CommitNote, note_of
from stream.decode import Decoded, Decoder, Named, Record, Refused
from stream.event_columns import Layout
from stream.notices import Notices
from stream.offset_ranges import size, union
from stream.resume import Known, Place, done_elsewhere, resumption
from stream.timeline import Source, Timeline

IMPRESSIONS, ACTIONS_KIND, BEHAVIOURS = range(len(KINDS))
#: So many late events are said; a few are what networks and phones do.
LATE_SAID = 32


class Intake:
    """The sources of one engine. ``worker`` is its name in commits. One thread uses it.

    ``layouts``: what events are decoded into; ``named``: see ``stream.decode.Decoder``.
    """

    def __init__(
        self,
        worker: str,
        times: Times,
        timeline: Timeline,
        notices: Notices,
        clock: Clock,
        layouts: Sequence[Layout],
        named: Named | None = None,
    ) -> None:
        self._worker = worker
        self._timeline = timeline
        self._notices = notices
        self._clock = clock
        self._closing_ms = times.closing_ms
        max_future_ms = round(times.max_future_s * 1000)
        self._decoders = [Decoder(one, max_future_ms, self._closing_ms, named) for one in layouts]
        #: What the state knows of each partition that it ever had.
        self.known: dict[Source, Known] = {}
        #: The state folder is not new, and knows nothing (``stream.resume``).
        self.state_gone = False
        self._late = 0, 0

    def assign(self, source: Source, place: Place, totals: Totals) -> tuple[int | None, int]:
        """Begin to read a source. Returns the offset to read from, None where the group has none yet, and
        the newest version that this worker is known to have published (0 where that is not known).

        What ``place`` says differs from the state in ways that ``stream.resume`` explains; numbers go into
        the totals, words into the notices.
        """
        name = _name(source)
        found = resumption(self._worker, name, self.known.get(source), place, self.state_gone)
        for kind, text in found.said:
            self._notices.say(kind, text, subject=name)
        totals.rewound += found.rewound
        totals.lost += found.lost
        totals.done_twice += found.done_twice
        self.known[source] = found.known
        self._timeline.assign(source, found.known.position, self._clock.monotonic())
        return found.read_from, found.version

    def compare(self, source: Source, place: Place, totals: Totals) -> None:
        """Look at a partition that the state knows and another worker has: what was done by both is said."""
        name, known = _name(source), self.known[source]
        twice, text = done_elsewhere(self._worker, name, known, place)
        if twice:
            self._notices.say("done_twice", text, subject=name)
            totals.done_twice += size(twice)
            known.twice = union(known.twice, twice)

    def revoke(self, source: Source) -> None:
        """Stop reading a source. Where it is assigned again, reading goes on from here."""
        if source in self._timeline.sources():
            self.known[source].position = self._timeline.position(source)
        self._timeline.revoke(source)

    def follow_positions(self) -> None:
        """Bring what is known up to what has been read and done, for a checkpoint."""
        for source in self._timeline.sources():
            self.known[source].position = self._timeline.position(source)

    def commit_notes(self, version: int, done_until: int) -> dict[Source, CommitNote]:
        """What to commit for each source, as of the last ``follow_positions``."""
        notes = {}
        for source in self._timeline.sources():
            known = self.known[source]
            notes[source] = note_of(
                self._worker, version, known.topic, known.position, done_until, known.before, known.earlier
            )
        return notes

    def take(self, source: Source, records: Sequence[Record], now_ms: int, totals: Totals) -> list[Refused]:
        """Decode a partition batch (in offset order) and buffer its events. Returns what was refused.

        Records that a checkpoint already holds are skipped, so reading again is harmless.
        """
        if not records:
            return []
        end = records[-1].offset + 1
        first = records[0].offset
        if end - first == len(records):
            offsets = np.arange(first, end, dtype=np.int64)
        else:  # some were compacted away, or belong to transactions
            offsets = np.array([record.offset for record in records], dtype=np.int64)
        fresh = self._timeline.fresh(source, offsets)
        if fresh is not None:
            records, offsets = [records[i] for i in np.flatnonzero(fresh).tolist()], offsets[fresh]
        decoded = self._decoders[source.kind].decode(records, offsets, now_ms)
        self._buffer(source, end, decoded, now_ms)
        totals.refused += len(decoded.refused)
        if parked := self._timeline.take_parked():
            totals.ahead += parked
            self._say_fast_clock(_name(source), (int(decoded.times.max()) - now_ms) / 1000.0)
        return decoded.refused

    def say_late(self) -> None:
        """Say what was late since the last time, once that is worth a line."""
        count, furthest_ms = self._timeline.take_behind()
        count, furthest_ms = self._late[0] + count, max(self._late[1], furthest_ms)
        if count < LATE_SAID:
            self._late = count, furthest_ms
            return
        self._late = 0, 0
        self._notices.say(
            "late",
            f"{count} events came behind what was done, by up to {furthest_ms / 1000.0:.0f} s: a slow clock, "
            "a producer that was away, or a log beside live traffic. They are learned with the next tick and "
            "counted as late",
        )

    def _buffer(self, source: Source, end: int, decoded: Decoded, now_ms: int) -> None:
        """Put a batch into the timeline, in the order of its records: a promise holds for what follows it."""
        timeline, now = self._timeline, self._clock.monotonic()
        events, times, offsets = decoded.events, decoded.times, decoded.offsets
        for offset, watermark in decoded.watermarks:
            k = int(np.searchsorted(offsets, offset))
            timeline.put(source, offset + 1, events[:k], times[:k], offsets[:k], now, now_ms)
            # A producer's fast clock must not make everything late that follows.
            timeline.promise(source, min(watermark, now_ms + self._closing_ms), offset, now)
            events, times, offsets = events[k:], times[k:], offsets[k:]
        timeline.put(source, end, events, times, offsets, now, now_ms)

    def _say_fast_clock(self, name: str, ahead_s: float) -> None:
        self._notices.say(
            "fast_clock",
            f"{name}: an event is {ahead_s:.0f} s ahead of this machine's clock. Such events wait for their "
            "time and nothing else waits for them; compare this clock and the producers' with NTP",
            subject=name,
        )


def _name(source: Source) -> str:
    return f"{KINDS[source.kind]}s {source.partition}"
