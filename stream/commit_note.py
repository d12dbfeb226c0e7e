"""What a worker says beside an offset that it commits: who it is, and exactly what it has done.

Kafka keeps a short text with each committed offset. The offset alone is the lowest one that is still open,
and does not say what was done above it, nor by whom. With the note another worker that is given the
partition does nothing twice, and a worker whose state is older than its own commit knows that it is.
"""

from __future__ import annotations

import base64
import zlib

import msgspec

from stream.lane import NEVER, PassPosition, Position
from stream.offset_ranges import Ranges, complement

#: A broker's usual limit of a commit's metadata is 4,096 bytes (``offset.metadata.max.bytes``).
MAX_NOTE_BYTES = 3_900
#: What a note may unpack to: whoever can commit for the group may have written it.
MAX_PLAIN_BYTES = 1 << 20
#: Workers before the present one that a note remembers.
MAX_EARLIER = 8
#: No worker's name.
UNNAMED = ""
_VERSION = "1:"


class Holder(msgspec.Struct, array_like=True, frozen=True):
    """A worker that had the partition before, and up to where it had done everything.

    ``UNNAMED``: another client, which knows no notes, had set the offset ``until``.
    """

    worker: str
    until: int


class Before(msgspec.Struct, array_like=True):
    """What the worker before the present one had done when it lost the partition."""

    worker: str
    end: int
    gaps: list[int]

    def done(self) -> Ranges:
        """Offsets that it had done."""
        return complement(_from_gaps(self.gaps), self.end)


class CommitNote(msgspec.Struct, array_like=True):
    """The note of one partition.

    ``version`` is that of the worker's weights at the checkpoint; ``topic`` the topic's id, empty where the
    broker has none. ``gaps`` are the open ranges below ``end`` as (records since the last one's end, length)
    pairs; None where they did not fit: then every event due before ``done_before`` (ms) is done, except those
    from ``passes[0].began`` on. ``before`` is what the worker before this one had done, ``earlier`` who had
    the partition before that.
    """

    worker: str
    version: int
    topic: str
    resume_at: int
    end: int
    newest: int
    promised: int
    passes: list[PassPosition]
    done_before: int
    gaps: list[int] | None
    before: Before | None = None
    earlier: list[Holder] = []

    def position(self) -> Position:
        """The place to go on from, for whoever is given the partition."""
        open_ranges = [(self.resume_at, self.end - 1)] if self.resume_at < self.end else []
        if self.gaps is not None:
            open_ranges = _from_gaps(self.gaps)
        return Position(
            end=self.end,
            open_ranges=open_ranges,
            newest=self.newest,
            promised=self.promised,
            passes=self.passes,
            done_before=self.done_before if self.gaps is None else NEVER,
        )

    def done(self) -> Ranges:
        """Offsets that the worker had done for certain."""
        return complement(self.position().open_ranges, self.end)


def note_of(
    worker: str,
    version: int,
    topic: str,
    position: Position,
    done_before: int,
    before: Before | None = None,
    earlier: list[Holder] | None = None,
) -> CommitNote:
    """The note for a position; ``before`` and ``earlier`` as they were when the partition was taken."""
    return CommitNote(
        worker=worker,
        version=version,
        topic=topic,
        resume_at=position.resume_at,
        end=position.end,
        newest=position.newest,
        promised=position.promised,
        passes=position.passes,
        done_before=max(done_before, position.done_before),
        gaps=_to_gaps(position.open_ranges),
        before=before,
        earlier=earlier or [],
    )


def taken_from(note: CommitNote, worker: str) -> tuple[Before | None, list[Holder]]:
    """What to remember of ``note``'s worker in the notes of ``worker``, which has its partition now."""
    if note.worker == worker:
        return note.before, note.earlier
    before = None if note.gaps is None else Before(note.worker, note.end, note.gaps)
    earlier = [*note.earlier, Holder(note.worker, note.resume_at)]
    return before, earlier[-MAX_EARLIER:]


def encode_note(note: CommitNote) -> str:
    """As text that fits a commit; what is too long is left out, the least needed first."""
    for shorter in (note, _with(note, before=None), _with(note, before=None, gaps=None)):
        text = _VERSION + base64.b85encode(zlib.compress(msgspec.msgpack.encode(shorter))).decode()
        if len(text) <= MAX_NOTE_BYTES:
            return text
    return ""


def decode_note(text: str | None) -> CommitNote | None:
    """The note in a commit's metadata; None where another client committed."""
    if not text or not text.startswith(_VERSION):
        return None
    try:
        return msgspec.msgpack.decode(
            zlib.decompress(base64.b85decode(text[len(_VERSION) :])), type=CommitNote
        )
    except (ValueError, zlib.error, msgspec.MsgspecError):
        return None


def _with(note: CommitNote, **changes: object) -> CommitNote:
    return msgspec.structs.replace(note, **changes)


def _to_gaps(ranges: Ranges) -> list[int]:
    # Small numbers, which pack well: the distance to the range before, and the length.
    flat: list[int] = []
    at = 0
    for first, last in ranges:
        flat += (first - at, last - first + 1)
        at = last + 1
    return flat


def _from_gaps(flat: list[int]) -> Ranges:
    ranges: Ranges = []
    at = 0
    for gap, length in zip(flat[::2], flat[1::2], strict=True):
        ranges.append((at + gap, at + gap + length - 1))
        at += gap + length
    return ranges
