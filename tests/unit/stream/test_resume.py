"""Failure: a partition that moves is counted twice, or a state older than its commit loses the difference.

Mechanism: Kafka's committed offset is the lowest open one and says nothing of who committed it, nor of what
was done above it. Required: with the note beside it every record is done exactly once, whoever is given the
partition; a state that was put back is rewound exactly; what cannot be put right is counted and said.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.commit_note import CommitNote, decode_note, encode_note, note_of
from stream.lane import NEVER, Lane, Position
from stream.offset_ranges import Ranges, complement, intersection, size, union
from stream.resume import Known, Place, done_elsewhere, resumption
from tests.unit.stream.some_columns import named, names

LENGTH = 60


def position(end: int, open_ranges: Ranges | None = None) -> Position:
    return Position(end=end, open_ranges=open_ranges or [], newest=NEVER, promised=NEVER)


def note(worker: str, at: Position, **more: object) -> CommitNote:
    return note_of(worker, 7, "t1", at, 0, **more)  # type: ignore[arg-type]


# -- sets of offsets

RANGES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), max_size=6).map(
    lambda pairs: union([(first, first + more) for first, more in pairs])
)


def as_set(ranges: Ranges) -> set[int]:
    return {offset for first, last in ranges for offset in range(first, last + 1)}


@given(a=RANGES, b=RANGES, end=st.integers(0, 40))
def test_ranges_are_sets(a: Ranges, b: Ranges, end: int) -> None:
    assert as_set(union(a, b)) == as_set(a) | as_set(b)
    assert as_set(intersection(a, b)) == as_set(a) & as_set(b)
    assert as_set(complement(a, end)) == set(range(end)) - as_set(a)
    assert size(a) == len(as_set(a))
    for found in (union(a, b), intersection(a, b), complement(a, end)):
        assert found == sorted(found)


# -- the note


@given(ranges=RANGES, end=st.integers(40, 60))
def test_a_note_says_what_its_position_says(ranges: Ranges, end: int) -> None:
    at = position(end, ranges)
    found = decode_note(encode_note(note("a", at)))
    assert found is not None
    assert found.position() == at
    assert as_set(found.done()) == set(range(end)) - as_set(ranges)


def test_a_note_fits_a_commit_however_many_ranges_are_open() -> None:
    """A broker refuses longer ones, and with them the commit. Then the time says what is done."""
    random = np.random.default_rng(1)
    offsets = np.cumsum(random.integers(2, 9, 20_000)).tolist()
    at = position(offsets[-1] + 1, [(offset, offset) for offset in offsets])
    text = encode_note(note_of("a" * 200, 7, "t" * 36, at, 1_700_000_000_000))
    assert 0 < len(text.encode()) < 4096
    found = decode_note(text)
    assert found is not None and found.gaps is None
    assert found.position().open_ranges == [(offsets[0], offsets[-1])]
    assert found.position().done_before == 1_700_000_000_000


def test_with_a_time_for_a_note_only_what_is_due_later_is_done_again() -> None:
    at = Position(end=4, open_ranges=[(0, 3)], newest=9000, promised=NEVER, done_before=5000)
    lane = Lane(at, 0.0, 1000, 60_000)
    times = np.array([4000, 6000, 4999, 5000], dtype=np.int64)
    lane.put(4, named("abcd"), times, np.arange(4), 0.0, 2**60, NEVER)
    taken = [event for piece in lane.passes[0].take(2**60) for event in names(piece.events)]
    # The third is due at 5000: the second, which is open, has moved the mark on.
    assert taken == ["b", "c", "d"]


@pytest.mark.parametrize("text", [None, "", "of another client", "1:", "1:@@@", "1:" + "0" * 4000])
def test_what_another_client_committed_is_no_note(text: str | None) -> None:
    assert decode_note(text) is None


# -- cases with words


def test_a_state_older_than_its_own_commit_is_rewound_and_says_how_far() -> None:
    own = Known(position(40, [(30, 34)]), "t1")
    found = resumption("a", "actions 2", own, Place(90, note("a", position(100, [(90, 92)])), 0, 120, "t1"))
    assert (found.read_from, found.known.position) == (30, own.position)
    # 5 open and 60 after the state's end, less 3 that are open there as well.
    assert (found.rewound, found.lost, found.done_twice) == (62, 0, 0)
    ((kind, text),) = found.said
    assert kind == "rewound" and "actions 2" in text and "62 records" in text and "offset 30" in text
    assert found.version == 7, "serving refuses versions that it has seen"


def test_what_an_operator_set_back_is_done_twice_and_nothing_below_it_is() -> None:
    """`kafka-consumer-groups --reset-offsets` leaves no note; whoever reads on did not do what is below."""
    taken = resumption("b", "actions 2", None, Place(70, None, 0, 120, "t1"))
    assert taken.read_from == 70
    known = taken.known
    done = note("b", position(110), before=known.before, earlier=known.earlier)
    found = resumption("a", "actions 2", Known(position(100), "t1"), Place(110, done, 0, 120, "t1"))
    assert (found.rewound, found.lost, found.done_twice) == (0, 0, 30)
    assert found.read_from == 110
    # Nor does that change where a third worker takes over before the first one comes back.
    known = resumption("c", "actions 2", None, Place(110, done, 0, 120, "t1")).known
    later = note("c", position(115), before=known.before, earlier=known.earlier)
    found = resumption("a", "actions 2", Known(position(100), "t1"), Place(115, later, 0, 120, "t1"))
    assert (found.read_from, found.done_twice) == (115, 30)


def test_what_was_done_by_both_is_said_where_the_partition_stays_with_the_other() -> None:
    """Failure: a worker was killed between checkpoint and commit, comes back, and is given other partitions.

    Found with four partitions and two workers: which two it had depended on who had joined first.
    """
    begun = resumption("b", "actions 2", Known(position(0), "t1"), Place(None, None, 0, 120, "t1")).known
    own = Known(position(50, [(0, 0), (30, 34)]), "t1")
    never = note("b", position(80, [(0, 0)]), before=begun.before, earlier=begun.earlier)
    twice, text = done_elsewhere("a", "actions 2", own, Place(80, never, topic="t1"))
    assert twice == [(1, 29), (35, 49)]
    assert "worker b" in text and "last 44 records" in text
    own.twice = twice
    assert done_elsewhere("a", "actions 2", own, Place(80, never, topic="t1"))[0] == [], "said once"
    later = resumption("a", "actions 2", own, Place(80, never, 0, 120, "t1"))
    assert later.done_twice == 0, "also where it is given back"
    # Committed in part: what the successor's note holds of its commit was not done by both.
    taken = resumption("b", "p", None, Place(0, note("a", position(40, [(0, 0), (30, 34)])), 0, 120, "t1"))
    after = note("b", position(80, [(0, 0)]), before=taken.known.before, earlier=taken.known.earlier)
    own.twice = []
    assert done_elsewhere("a", "p", own, Place(80, after, topic="t1"))[0] == [(40, 49)]
    # After a third worker only the lowest open offset of that commit is known: nothing is said.
    third = resumption("c", "p", None, Place(0, after, 0, 120, "t1")).known
    last = note("c", position(90), before=third.before, earlier=third.earlier)
    assert done_elsewhere("a", "p", own, Place(90, last, topic="t1")) == ([], "")
    # Nor of a topic that was made anew, nor where no other worker has it.
    assert done_elsewhere("a", "p", own, Place(80, never, topic="t2")) == ([], "")
    assert done_elsewhere("a", "p", own, Place(80, note("a", position(90)), topic="t1")) == ([], "")
    assert done_elsewhere("a", "p", own, Place(80, None, topic="t1")) == ([], "")


def test_what_retention_deleted_before_it_was_read_is_counted() -> None:
    own = Known(position(40, [(30, 34)]), "t1")
    found = resumption("a", "impressions 0", own, Place(30, note("a", own.position), 55, 120, "t1"))
    assert (found.read_from, found.lost) == (55, 5 + 15)
    assert [kind for kind, _ in found.said] == ["lost"]
    assert resumption("a", "impressions 0", None, Place(None, None, 55, 120, "t1")).lost == 0, (
        "a group begins"
    )


def test_a_topic_made_anew_is_known_by_its_id_also_when_it_is_longer() -> None:
    own = Known(position(40), "t1")
    found = resumption("a", "impressions 0", own, Place(40, note("a", position(40)), 0, 500, "t2"))
    assert (found.read_from, found.known.position) == (None, position(0))
    assert [kind for kind, _ in found.said] == ["topic_anew"]
    # A broker that has no ids: by the end, as far as that tells.
    assert resumption("a", "i", own, Place(40, None, 0, 8, "")).read_from is None
    assert resumption("a", "i", own, Place(40, None, 0, 500, "")).read_from == 40


def test_a_client_without_notes_can_still_move_the_group_on() -> None:
    own = Known(position(40, [(30, 34)]), "t1")
    assert resumption("a", "i", own, Place(33, None, 0, 99, "t1")).read_from == 33
    assert resumption("a", "i", own, Place(60, None, 0, 99, "t1")).read_from == 60
    assert resumption("a", "i", own, Place(10, None, 0, 99, "t1")).read_from == 30


def test_a_new_state_beside_an_old_commit_goes_on_from_it_and_says_what_it_has_not() -> None:
    """A folder that was deleted on purpose: what was done is not learned again, and not hidden either."""
    place = Place(30, note("a", position(40, [(30, 34)])), 0, 99, "t1")
    found = resumption("a", "impressions 1", None, place)
    assert (found.read_from, found.known.position.open_ranges, found.rewound) == (30, [(30, 34)], 0)
    ((kind, text),) = found.said
    assert kind == "new_state" and "35 records" in text
    # Of another worker it says nothing: that is how partitions move.
    assert resumption("b", "impressions 1", None, place).said == []


def test_a_state_that_lost_everything_is_read_again_from_where_the_worker_began() -> None:
    """A removed write-ahead log leaves an empty state in a folder that is not new."""
    place = Place(30, note("a", position(40, [(30, 34)])), 10, 99, "t1")
    found = resumption("a", "impressions 1", None, place, state_gone=True)
    assert (found.read_from, found.rewound, found.lost) == (10, 35, 10)
    assert [kind for kind, _ in found.said] == ["rewound", "lost"]


# -- any history


class Worker:
    """A worker's state: what it counted, its position, and backups of both."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.known: Known | None = None
        self.counted: set[int] = set()
        self.saved: list[tuple[Known | None, set[int]]] = [(None, set())]


class Group:
    """A partition of ``LENGTH`` records and the workers that have it in turn."""

    def __init__(self) -> None:
        self.workers = [Worker(name) for name in "abc"]
        self.note: CommitNote | None = None
        self.twice = 0
        self.holder: Worker | None = None

    def give(self, worker: Worker) -> None:
        text = None if self.note is None else encode_note(self.note)
        place = Place(None if self.note is None else self.note.resume_at, decode_note(text), 0, LENGTH, "t1")
        found = resumption(worker.name, "p", worker.known, place)
        worker.known = found.known
        assert found.read_from is None or found.read_from == found.known.position.resume_at
        self.twice += found.done_twice
        self.holder = worker

    def look(self, worker: Worker) -> None:
        """A start, or a rebalance that leaves the partition with another worker."""
        if worker is not self.holder and worker.known is not None and self.note is not None:
            found, _ = done_elsewhere(worker.name, "p", worker.known, Place(None, self.note, topic="t1"))
            counted_by_others = set().union(*(w.counted for w in self.workers if w is not worker))
            assert as_set(found) <= worker.counted & counted_by_others, "said of what was done once"
            assert not as_set(found) & as_set(worker.known.twice), "said again"
            worker.known.twice = union(worker.known.twice, found)
            self.twice += size(found)

    def work(self, up_to: int, leave_open: set[int]) -> None:
        """Do all open records below ``up_to`` except some."""
        assert self.holder is not None and self.holder.known is not None
        at = self.holder.known.position
        end = max(at.end, up_to)
        todo = as_set(union(at.open_ranges, [(at.end, end - 1)] if end > at.end else []))
        done = {offset for offset in todo if offset < up_to and offset not in leave_open}
        self.holder.counted |= done
        left = union([(offset, offset) for offset in todo - done])
        self.holder.known = Known(
            position(end, left), "t1", self.holder.known.before, self.holder.known.earlier
        )

    def checkpoint(self) -> None:
        assert self.holder is not None
        self.holder.saved.append((copy.deepcopy(self.holder.known), set(self.holder.counted)))

    def commit(self) -> None:
        """Commits come after a checkpoint and speak of it."""
        assert self.holder is not None
        known, _ = self.holder.saved[-1]
        if known is not None:
            self.note = note_of(self.holder.name, 1, "t1", known.position, 0, known.before, known.earlier)

    def restore(self, back: int) -> None:
        """What ``kill -9`` leaves (0), or a folder that is put back from an older backup."""
        assert self.holder is not None
        saved = self.holder.saved[-1 - back] if back < len(self.holder.saved) else self.holder.saved[0]
        self.holder.known, self.holder.counted = copy.deepcopy(saved[0]), set(saved[1])


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("work"), st.integers(0, LENGTH), st.sets(st.integers(0, LENGTH), max_size=8)),
        st.just(("checkpoint",)),
        st.just(("checkpoint",)),
        st.just(("commit",)),
        st.just(("kill",)),
        st.tuples(st.just("move"), st.integers(0, 2)),
        st.tuples(st.just("look"), st.integers(0, 2)),
    ),
    max_size=30,
)


@settings(max_examples=300, deadline=None)
@given(steps=STEPS)
def test_whoever_has_the_partition_every_record_is_done_once(steps: list[tuple[object, ...]]) -> None:
    """Moves by kill and by orderly stop; a checkpoint that was not committed is the one thing done twice."""
    group = Group()
    group.give(group.workers[0])
    for step in steps:
        if step[0] == "work":
            group.work(step[1], step[2])  # type: ignore[arg-type]
        elif step[0] == "move":
            # What was not checkpointed is lost with the process; the next one starts from the commit.
            group.restore(0)
            group.give(group.workers[step[1]])  # type: ignore[call-overload]
        elif step[0] == "look":
            group.look(group.workers[step[1]])  # type: ignore[call-overload]
        elif step[0] == "kill":
            group.restore(0)
            group.give(group.holder)  # type: ignore[arg-type]
        else:
            getattr(group, str(step[0]))()
    for worker in group.workers:
        group.restore(0)
        group.give(worker)
        group.work(LENGTH, set())
        group.checkpoint()
        group.commit()
    counts = [sum(offset in worker.counted for worker in group.workers) for offset in range(LENGTH)]
    assert min(counts) >= 1
    assert sum(counts) - LENGTH <= group.twice


@settings(max_examples=300, deadline=None)
@given(
    before=st.lists(
        st.tuples(st.integers(0, LENGTH), st.sets(st.integers(0, LENGTH), max_size=8)), max_size=6
    ),
    back=st.integers(0, 6),
    between=st.lists(st.integers(0, LENGTH), max_size=1),
)
def test_a_backup_that_is_put_back_is_rewound_exactly(
    before: list[tuple[int, set[int]]], back: int, between: list[int]
) -> None:
    """Also where another worker had the partition in between."""
    group = Group()
    first, second = group.workers[:2]
    group.give(first)
    first.saved.clear()
    group.checkpoint()
    for up_to, leave_open in before:
        group.work(up_to, leave_open)
        group.checkpoint()
        group.commit()
    for up_to in between:
        group.give(second)
        group.work(up_to, set())
        group.checkpoint()
        group.commit()
    group.holder = first
    group.restore(back)
    group.give(first)
    group.work(LENGTH, set())
    counts = [sum(offset in worker.counted for worker in (first, second)) for offset in range(LENGTH)]
    assert counts == [1] * LENGTH
