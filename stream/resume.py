"""Where a worker reads a partition from: its own state, what was committed by whom, and what the topic has.

A state comes before its commit, so the state's own position is usually right. It is not where another worker
had the partition meanwhile, where the state is older than this worker's own commit (a torn write-ahead log,
a folder put back from a backup), where the topic was made anew, or where retention has deleted what was not
read yet. Nothing of that happens in silence: whatever is read again, gone, or done twice is counted and said.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from stream.commit_note import MAX_EARLIER, UNNAMED, Before, CommitNote, Holder, taken_from
from stream.lane import NEVER, Position
from stream.offset_ranges import Ranges, complement, intersection, size, union


class Known(msgspec.Struct):
    """A partition in a worker's state: its position, and the topic's id then (empty where unknown).

    ``twice``: what was said to be done by others, too, while the partition was theirs.
    """

    position: Position
    topic: str = ""
    before: Before | None = None
    earlier: list[Holder] = []
    twice: list[tuple[int, int]] = []


class Place(NamedTuple):
    """What the broker says of a partition: the group's ``committed`` offset and the ``note`` beside it, where
    the topic begins and ends now, and the topic's id (empty where the broker has none)."""

    committed: int | None = None
    note: CommitNote | None = None
    begin: int | None = None
    end: int | None = None
    topic: str = ""


class Resumption(NamedTuple):
    """How to go on: ``known`` with the position, the offset to read from (None: where the group begins), and
    what to say. Numbers count records, control records of transactions among them."""

    known: Known
    read_from: int | None
    said: list[tuple[str, str]]
    rewound: int = 0
    lost: int = 0
    done_twice: int = 0
    #: The newest version that this worker is known to have published; 0 where that is not known.
    version: int = 0


def resumption(
    worker: str, name: str, own: Known | None, place: Place, state_gone: bool = False
) -> Resumption:
    """Decide for the partition called ``name``. ``own`` is what the state knows of it, if anything.

    ``state_gone``: the state folder is not new and knows nothing; what this worker committed is in no state.
    """
    said: list[tuple[str, str]] = []
    committed, note = place.committed, place.note
    if own is not None and (why := _made_anew(own, place)):
        said.append(("topic_anew", f"{name}: {why}; it is read from its start"))
        own = None
    if note is not None and note.topic and place.topic and note.topic != place.topic:
        committed = note = None
    if committed is not None and place.end is not None and committed > place.end:
        committed = note = None
    if own is None and state_gone and note is not None and note.worker == worker:
        own = Known(_fresh(0), note.topic, note.before, note.earlier)
        if note.before is not None:
            own.position = _fresh(note.before.end)
            own.position.open_ranges = complement(note.before.done(), note.before.end)
    before, earlier = (None, []) if note is None else taken_from(note, worker)
    rewound = twice = 0
    version = note.version if note is not None and note.worker == worker else 0
    if own is None:
        if note is None and committed:
            # Another client set this offset: whoever did what lies below it, it was not this worker.
            earlier = [Holder(UNNAMED, committed)]
        position = note.position() if note is not None else _fresh(committed or 0)
        read_from = committed if note is None else position.resume_at
        if note is not None and note.worker == worker and (done := size(note.done())):
            said.append(
                (
                    "new_state",
                    f"{name}: this state is new, and a worker of this name has committed {done} records "
                    "before; it goes on after them, and what was learned from them is not in this state",
                )
            )
    else:
        position, rewound, twice = _merged(worker, own, committed, note)
        read_from = position.resume_at
        if note is None:
            before, earlier = own.before, own.earlier
        if rewound:
            said.append(
                (
                    "rewound",
                    f"{name}: this state is older than what this worker has committed (a torn write-ahead "
                    f"log, or a folder put back from a backup): {rewound} records are read again, from "
                    f"offset {position.resume_at} on",
                )
            )
        if twice and note is not None:
            said.append(("done_twice", _twice_text(name, note, twice)))
    position, lost = _without_deleted(position, place.begin, begun=own is not None or committed is not None)
    if lost:
        said.append(
            (
                "lost",
                f"{name}: {lost} records below offset {place.begin} were deleted (retention) before they "
                "were read; they are lost to learning",
            )
        )
        read_from = position.resume_at
    known = Known(position, place.topic, before, earlier)
    return Resumption(known, read_from, said, rewound, lost, twice, version)


def _made_anew(own: Known, place: Place) -> str:
    if own.topic and place.topic:
        return "" if own.topic == place.topic else "the topic was deleted and made anew (it has another id)"
    if place.end is not None and own.position.end > place.end:
        return (
            f"it ends at {place.end}, before the state's offset {own.position.end}: the topic was made anew"
        )
    return ""


def _merged(
    worker: str, known: Known, committed: int | None, note: CommitNote | None
) -> tuple[Position, int, int]:
    """The state's position with what others did; records to read again, and those done twice."""
    own = known.position
    if note is None:
        # Committed by another client, or by nobody: an offset beyond the state's says what is to be skipped.
        return own.skipped_to(committed or 0), 0, 0
    open_here = union(own.open_ranges, [(own.end, max(own.end, note.end))])
    mine = _committed_by(worker, note)
    again = intersection(open_here, mine)
    if note.worker == worker:
        return own, size(again), 0
    theirs = note.position()
    # What another worker read on from, and what of the own work no commit speaks of.
    open_ranges = union(again, intersection(open_here, theirs.open_ranges))
    beyond = intersection(own.open_ranges, [(note.end, max(own.end, note.end))])
    position = msgspec.structs.replace(
        theirs,
        end=max(own.end, note.end),
        open_ranges=union(open_ranges, beyond),
        # Where it is not known which of what is read again was done, nothing is taken for done.
        done_before=NEVER if again else theirs.done_before,
    )
    twice = 0
    if mine or len(note.earlier) < MAX_EARLIER:
        twice = size(_done_by_both(worker, known, note))
    return position, size(again), twice


def done_elsewhere(worker: str, name: str, own: Known, place: Place) -> tuple[Ranges, str]:
    """What ``own`` has done of a partition that another worker has now, and that one as well; with words.

    A worker that comes back may be given other partitions than it had; what it had done without a commit was
    done again by whoever took them. Empty where no note tells it exactly: after a second worker took over
    from the first, the note knows what this one had committed by its lowest open offset alone.
    """
    note = place.note
    if note is None or note.worker == worker or own.topic != note.topic or _made_anew(own, place):
        return [], ""
    next_after = note.before is not None and note.before.worker == worker
    never_committed = len(note.earlier) < MAX_EARLIER and all(one.worker != worker for one in note.earlier)
    if not (next_after or never_committed):
        return [], ""
    twice = _done_by_both(worker, own, note)
    return twice, _twice_text(name, note, size(twice))


def _done_by_both(worker: str, known: Known, note: CommitNote) -> Ranges:
    """What the state has done, and others as well without knowing it."""
    before = known.before.done() if known.before is not None else []
    told = union(_committed_by(worker, note), _committed_by(UNNAMED, note))
    told = union(union(told, before), known.twice)
    done_by_others = intersection(note.done(), complement(told, note.end))
    return intersection(complement(known.position.open_ranges, known.position.end), done_by_others)


def _twice_text(name: str, note: CommitNote, count: int) -> str:
    return (
        f"{name}: worker {note.worker} took over before the last {count} records done here were committed; "
        "they have been done by both"
    )


def _committed_by(worker: str, note: CommitNote) -> Ranges:
    """What ``worker`` itself had done by its last commit, as far as the note tells."""
    if note.worker == worker:
        return note.done()
    if note.before is not None and note.before.worker == worker:
        return note.before.done()
    until = max((holder.until for holder in note.earlier if holder.worker == worker), default=0)
    return [(0, until - 1)] if until else []


def _without_deleted(position: Position, begin: int | None, begun: bool) -> tuple[Position, int]:
    """The position without what the topic no longer has, and how many open records that was."""
    if not begin or begin <= position.resume_at:
        return position, 0
    gone = [(0, begin - 1)]
    open_below = union(intersection(position.open_ranges, gone), intersection([(position.end, 2**62)], gone))
    # A group that begins has lost nothing.
    return position.skipped_to(begin), size(open_below) if begun else 0


def _fresh(end: int) -> Position:
    return Position(end=end, open_ranges=[], newest=NEVER, promised=NEVER)
