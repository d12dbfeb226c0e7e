"""Row numbers by hash: 8 bytes a row in sorted runs, and 2 to 4 bytes of a filter in front of them.

An entry is one 64-bit integer: the hash's upper 43 bits, and 21 bits of the row's place in its run. Runs
cover rows in order and are merged four to one (a log-structured merge tree without levels on disk: O'Neil et
al., "The log-structured merge-tree", 1996), so that there are few of them and an entry is copied seldom.
Different ids may have equal hashes: what is found are candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

HashArray = npt.NDArray[np.uint64]

ROW_BITS = 21
#: Runs do not grow beyond this. Merging takes twice its 8 bytes a row for a moment.
MAX_RUN_ROWS = 1 << ROW_BITS
#: So many runs of one level become one of the next.
FAN = 4
#: The filter has between FILTER_BITS and twice as many bits a row when it is built, and is built anew when
#: what was added since (rows that are forgotten stay in it) has filled this part of it.
FILTER_BITS = 16
FILTER_FULL = 1 / 8
SMALLEST_FILTER = 10  # as a power of two
_ROW_MASK = np.uint64(MAX_RUN_ROWS - 1)
_HASH_MASK = ~_ROW_MASK
_ONE, _SIX_BITS, _LOWER, _UPPER = (np.uint64(n) for n in (1, 63, ROW_BITS, ROW_BITS + 6))


def hashes_of(ids: Sequence[str]) -> HashArray:
    """Python's own 64-bit hash (SipHash): strings keep it, and nobody outside knows this process's key."""
    return np.fromiter(map(hash, ids), dtype=np.int64, count=len(ids)).view(np.uint64)


def _filter_bits(hashes: HashArray) -> HashArray:
    """Two of the 64 bits of a word of the filter; the word follows from the hash's upper end."""
    bits: HashArray = (_ONE << ((hashes >> _LOWER) & _SIX_BITS)) | (_ONE << ((hashes >> _UPPER) & _SIX_BITS))
    return bits


class _Run:
    """Sorted entries of the rows [base, end)."""

    __slots__ = ("base", "end", "entries", "level")

    def __init__(self, base: int, end: int, entries: HashArray, level: int) -> None:
        self.base, self.end, self.entries, self.level = base, end, entries, level


class RowIndex:
    """Candidates for ids among the rows that were added and are not forgotten."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []
        self._first = 0
        self._build_filter()

    def __len__(self) -> int:
        """Entries, those of a few forgotten rows among them."""
        return sum(len(run.entries) for run in self._runs)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(run.entries.nbytes for run in self._runs) + self._filter.nbytes

    def add(self, base: int, hashes: HashArray) -> None:
        """Add rows ``base``, ``base + 1``, ...; they follow all that were added before."""
        for begin in range(0, len(hashes), MAX_RUN_ROWS):
            part = hashes[begin : begin + MAX_RUN_ROWS]
            entries = (part & _HASH_MASK) | np.arange(len(part), dtype=np.uint64)
            entries.sort()
            self._runs.append(_Run(base + begin, base + begin + len(part), entries, 0))
            self._mark(entries)
            self._merge()

    def find(self, hashes: HashArray) -> list[tuple[int, int]]:
        """(index into ``hashes``, row) of every candidate, grouped by run."""
        if not self._runs:
            return []
        wanted = hashes & _HASH_MASK
        bits = _filter_bits(wanted)
        passed = ((self._filter.take((wanted >> self._shift).astype(np.intp)) & bits) == bits).nonzero()[0]
        if not len(passed):
            return []
        wanted = wanted[passed]
        found: list[tuple[int, int]] = []
        for run in self._runs:
            entries = run.entries
            # An entry is never smaller than its own hash with row 0, and equal hashes lie together.
            left = entries.searchsorted(wanted)
            same = ((entries.take(left, mode="clip") ^ wanted) <= _ROW_MASK).nonzero()[0]
            if not len(same):
                continue
            right = entries.searchsorted(wanted[same] | _ROW_MASK, side="right")
            for i, begin, end in zip(passed[same].tolist(), left[same].tolist(), right.tolist(), strict=True):
                rows = (entries[begin:end] & _ROW_MASK).tolist()
                found += [(i, run.base + row) for row in rows if run.base + row >= self._first]
        return found

    def forget(self, first: int) -> None:
        """Forget the rows below ``first``."""
        self._first = first
        runs = self._runs
        gone = 0
        while gone < len(runs) and runs[gone].end <= first:
            gone += 1
        if gone:
            del runs[:gone]
        if runs and first - runs[0].base > len(runs[0].entries) // 2:
            oldest = runs[0]
            dead = np.uint64(first - oldest.base)
            oldest.entries = oldest.entries[(oldest.entries & _ROW_MASK) >= dead] - dead
            oldest.base = first
            gone += 1
        if gone and len(self) * FILTER_BITS * 4 < len(self._filter) * 64:
            self._build_filter()

    def clear(self) -> None:
        """Forget everything."""
        self._runs = []
        self._build_filter()

    def _merge(self) -> None:
        runs = self._runs
        while len(runs) >= FAN:
            some = runs[-FAN:]
            rows = some[-1].end - some[0].base
            if rows > MAX_RUN_ROWS or any(run.level != some[0].level for run in some):
                return
            base = some[0].base
            entries = np.concatenate([run.entries + np.uint64(run.base - base) for run in some])
            # Stable: it merges what is sorted already.
            entries.sort(kind="stable")
            runs[-FAN:] = [_Run(base, some[-1].end, entries, some[0].level + 1)]

    def _mark(self, entries: HashArray) -> None:
        self._marked += len(entries)
        if self._marked > len(self._filter) * 64 * FILTER_FULL:
            self._build_filter()
        else:
            self._set(entries)

    def _build_filter(self) -> None:
        """A filter of all entries, with room for as many again."""
        self._marked = len(self)
        bits = max((FILTER_BITS * self._marked).bit_length(), SMALLEST_FILTER)
        self._shift = np.uint64(64 - (bits - 6))
        self._filter: HashArray = np.zeros(1 << (bits - 6), dtype=np.uint64)
        for run in self._runs:
            if len(run.entries):
                self._set(run.entries)

    def _set(self, entries: HashArray) -> None:
        words = (entries >> self._shift).astype(np.intp)
        # Entries are sorted, so those of one word lie together.
        firsts = np.concatenate(([0], (words[1:] != words[:-1]).nonzero()[0] + 1))
        self._filter[words[firsts]] |= np.bitwise_or.reduceat(_filter_bits(entries), firsts)
