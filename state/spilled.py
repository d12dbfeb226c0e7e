"""Impressions whose segment lies in RocksDB only: found by an index of hashes, read back, verified by id."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from state.keys import SEGMENT_COLUMNS
from state.row_index import HashArray, RowIndex
from state.segments import Remembered, Segment, number, read_block
from state.store import Store

#: Rows of blocks that were read last and stay decoded, at about 450 bytes each; one block is always kept.
CACHED_ROWS = 16_384
#: Blocks that are read from RocksDB in one call.
BLOCKS_A_READ = 64


class Found(NamedTuple):
    """An impression that was read back: row ``at`` of ``segment``, and what an action needs of it."""

    segment: Remembered
    at: int
    time: int
    user: str
    item: str
    category: str
    position: str


class Spilled:
    """Looks ids up among the spilled rows. ``segment_of`` gives the segment of a row's number."""

    def __init__(self, store: Store, segment_of: Callable[[int], Remembered]) -> None:
        self._store = store
        self._segment_of = segment_of
        self._index = RowIndex()
        self._cache: OrderedDict[int, Segment] = OrderedDict()
        self._cached = 0

    def __len__(self) -> int:
        """Index entries."""
        return len(self._index)

    def add(self, base: int, hashes: HashArray) -> None:
        """From now on the rows ``base``, ``base + 1``, ... are found here."""
        self._index.add(base, hashes)

    def find(self, ids: Sequence[str], hashes: HashArray) -> dict[str, Found]:
        """Those of ``ids`` that are spilled rows. Exact: every candidate's id is read back and compared.

        Raises ``StateFormatError`` where a row is not on disk.
        """
        candidates = self._index.find(hashes)
        if not candidates:
            return {}
        by_block: dict[int, list[tuple[int, int]]] = {}
        for i, row in candidates:
            by_block.setdefault(self._segment_of(row).block_of(row), []).append((i, row))
        found: dict[str, Found] = {}
        wanted = sorted(by_block)
        for begin in range(0, len(wanted), BLOCKS_A_READ):
            for block in self._blocks(wanted[begin : begin + BLOCKS_A_READ]):
                for i, row in by_block[block.base]:
                    at = row - block.base
                    if block.ids[at] == ids[i]:
                        found[ids[i]] = self._row(block, at)
        return found

    def forget(self, first: int) -> None:
        """Forget the rows below ``first``."""
        self._index.forget(first)
        if not len(self._index):
            self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._index.clear()
        self._cache.clear()
        self._cached = 0

    def _row(self, block: Segment, at: int) -> Found:
        segment = self._segment_of(block.base)
        return Found(
            segment=segment,
            at=block.base + at - segment.base,
            time=int.from_bytes(block.times[8 * at : 8 * at + 8], "little", signed=True),
            user=block.users[at],
            item=block.items[at],
            category=block.categories[at],
            position=block.positions[at],
        )

    def _blocks(self, wanted: Sequence[int]) -> list[Segment]:
        """Blocks by the number of their first row."""
        missing = [block for block in wanted if block not in self._cache]
        data = self._store.get_many([SEGMENT_COLUMNS + number(block) for block in missing]) if missing else []
        read = {
            block: read_block(self._store, block, value) for block, value in zip(missing, data, strict=True)
        }
        blocks = [read[block] if block in read else self._cache[block] for block in wanted]
        for block in blocks:
            if block.base in self._cache:
                self._cache.move_to_end(block.base)
            else:
                self._cache[block.base] = block
                self._cached += len(block)
        while self._cached > CACHED_ROWS and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._cached -= len(dropped)
        return blocks
