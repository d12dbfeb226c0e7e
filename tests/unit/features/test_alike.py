"""Failure: an impression gets what another user's list reads, or one of another list."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from features.alike import Alike, alike, reads_of_heads
from features.events import Events, order_reads


def grouped(pairs: list[tuple[int, int]]) -> Alike:
    lists, users = (np.array([pair[k] for pair in pairs]) for k in range(2))
    return alike(lists.astype(np.int32), users.astype(np.uint64))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), max_size=30))
def test_only_impressions_of_one_list_and_user_are_alike(pairs: list[tuple[int, int]]) -> None:
    heads, group = grouped(pairs)
    assert len(group) == len(pairs)
    for place, number in enumerate(group.tolist()):
        assert pairs[heads[number]] == pairs[place]
        assert heads[number] <= place
    first = {one: pairs[pairs.index((one, user))][1] for one, user in reversed(pairs)}
    for place, (one, user) in enumerate(pairs):
        if user == first[one]:
            assert heads[group[place]] == pairs.index((one, user)), "all of the first user's are one group"


@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 1)), min_size=1, max_size=30))
def test_heads_are_read_in_their_order_and_every_event_is_counted(pairs: list[tuple[int, int]]) -> None:
    n = len(pairs)
    lists = np.array([one for one, _ in pairs], dtype=np.int32)
    users = np.array([user for _, user in pairs], dtype=np.uint64)
    events = Events(
        kinds=np.where(lists < 0, 1, 0).astype(np.int16),
        times=np.arange(n, dtype=np.int64),
        keys={"user_id": users},
        numbers={},
        lists=lists,
        origins=np.full(n, -1, dtype=np.int32),
    )
    reads = order_reads(events)
    groups = alike(lists[reads.shown], users[reads.shown])
    some = reads_of_heads(reads, groups)
    assert [step for step in some.steps.tolist() if step >= 0] == [s for s in reads.steps.tolist() if s >= 0]
    wanted = [~step for step in reads.steps.tolist() if step < 0]
    wanted = [event for event in wanted if reads.at[event] in set(groups.heads.tolist())]
    assert [~step for step in some.steps.tolist() if step < 0] == wanted
    assert [some.at[event] for event in wanted] == [groups.group[reads.at[event]] for event in wanted]
