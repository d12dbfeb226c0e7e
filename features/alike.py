"""Impressions that are alike: what they read of their user, and of everything, is the same.

A list is read at one moment (``features.events.order_reads``), so its impressions of one user differ by their
items only. What does not depend on these is worked out once a list.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from features.compiled import kernel
from features.events import Reads
from features.hashing import Keys

#: Columns of which all impressions that are alike have the same value.
SHARED = frozenset({"user_id", "everything"})

Int32Array = npt.NDArray[np.int32]


class Alike(NamedTuple):
    """``heads`` (g,): the first impression of each group; ``group`` (impressions,): each one's group."""

    heads: Int32Array
    group: Int32Array

    @property
    def each_alone(self) -> bool:
        """Whether no two are alike."""
        return len(self.heads) == len(self.group)


def alike(lists: Int32Array, users: Keys) -> Alike:
    """Groups of impressions with the same list and user.

    An impression of another user than its list's first one stays alone.

    >>> alike(np.array([0, 0, 1, 0], dtype=np.int32), np.array([7, 7, 7, 8], dtype=np.uint64))
    Alike(heads=array([0, 2, 3], dtype=int32), group=array([0, 0, 1, 2], dtype=int32))
    """
    heads, group = np.empty(len(lists), dtype=np.int32), np.empty(len(lists), dtype=np.int32)
    count = _group(lists, users, int(lists.max(initial=-1)) + 1, heads, group)
    return Alike(heads[:count], group)


def reads_of_heads(reads: Reads, groups: Alike) -> Reads:
    """The steps in which only heads are read, each into the place of its group."""
    steps = np.empty(len(reads.steps), dtype=np.int32)
    at = np.empty_like(reads.at)
    count = _only_heads(reads.steps, reads.at, *groups, steps, at)
    return Reads(steps[:count], reads.shown[groups.heads], at, reads.times)


@kernel
def _group(lists, users, count, heads, group):  # type: ignore[no-untyped-def]
    groups = 0
    known = np.full(count, -1, np.int32)
    for i in range(len(lists)):
        k = known[lists[i]]
        if k >= 0 and users[heads[k]] == users[i]:
            group[i] = k
            continue
        if k < 0:
            known[lists[i]] = groups
        heads[groups] = i
        group[i] = groups
        groups += 1
    return groups


@kernel
def _only_heads(steps, at, heads, group, kept, to):  # type: ignore[no-untyped-def]
    count = 0
    for step in steps:
        if step < 0:
            place = at[~step]
            if heads[group[place]] != place:
                continue
            to[~step] = group[place]
        kept[count] = step
        count += 1
    return count
