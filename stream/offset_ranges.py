"""Sets of offsets as sorted, disjoint, inclusive [first, last] pairs."""

from __future__ import annotations

from collections.abc import Iterable

Ranges = list[tuple[int, int]]


def union(*sets: Ranges) -> Ranges:
    """All offsets of the sets; what touches is joined.

    >>> union([(1, 3), (7, 8)], [(4, 4), (8, 9)])
    [(1, 4), (7, 9)]
    """
    merged: Ranges = []
    for first, last in sorted(pair for one in sets for pair in one):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


def intersection(a: Ranges, b: Ranges) -> Ranges:
    """Offsets that are in both.

    >>> intersection([(1, 5), (8, 9)], [(3, 8)])
    [(3, 5), (8, 8)]
    """
    found: Ranges = []
    i = j = 0
    while i < len(a) and j < len(b):
        first, last = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if first <= last:
            found.append((first, last))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return found


def complement(ranges: Ranges, end: int) -> Ranges:
    """Offsets from 0 to before ``end`` that are not in ``ranges``.

    >>> complement([(2, 3), (6, 9)], 8)
    [(0, 1), (4, 5)]
    """
    missing: Ranges = []
    at = 0
    for first, last in ranges:
        if first >= end:
            break
        if first > at:
            missing.append((at, first - 1))
        at = max(at, last + 1)
    if at < end:
        missing.append((at, end - 1))
    return missing


def size(ranges: Iterable[tuple[int, int]]) -> int:
    """How many offsets there are.

    >>> size([(1, 3), (7, 7)])
    4
    """
    return sum(last - first + 1 for first, last in ranges)
