"""Impressions whose segment lies in RocksDB only: found by an index of hashes, read back, verified by id."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from features.events import IntArray
from state.joins.columns import Shown
from state.joins.segments import Segment, read_block
from state.keys import JoinKeys, row_number
from state.row_index import HashArray, RowIndex
from state.store import Store

#: Rows of blocks that were read last and stay decoded, at about 200 bytes each; one block is always kept.
CACHED_ROWS = 16_384
#: Blocks that are read from RocksDB in one call.
BLOCKS_A_READ = 64


class Spilled:
    """Looks ids up among the spilled rows. ``segment_of`` gives the segment of a row's number."""

    def __init__(
        self, store: Store, keys: JoinKeys, columns: int, segment_of: Callable[[int], Segment]
    ) -> None:
        self._store = store
        self._keys = keys
        self._columns = columns
        self._segment_of = segment_of
        self._index = RowIndex()
        self._cache: OrderedDict[int, Shown] = OrderedDict()
        self._cached = 0

    def __len__(self) -> int:
        """Index entries."""
        return len(self._index)

    def add(self, base: int, hashes: HashArray) -> None:
        """From now on the rows ``base``, ``base + 1``, ... are found here."""
        self._index.add(base, hashes)

    def find(self, ids: Sequence[str], hashes: HashArray, rows: IntArray, out: Shown | None = None) -> None:
        """Write the numbers of those of ``ids`` that are spilled into ``rows``, what is known into ``out``.

        Exact: every candidate's id is read back and compared. Raises ``StateDamagedError`` where a row is not
        on disk.
        """
        by_block: dict[int, list[tuple[int, int]]] = {}
        for i, row in self._index.find(hashes):
            by_block.setdefault(self._segment_of(row).block_of(row), []).append((i, row))
        wanted = sorted(by_block)
        for begin in range(0, len(wanted), BLOCKS_A_READ):
            some = wanted[begin : begin + BLOCKS_A_READ]
            for block, shown in zip(some, self._blocks(some), strict=True):
                for i, row in by_block[block]:
                    at = row - block
                    if shown.ids[at] != ids[i]:
                        continue
                    rows[i] = row
                    if out is not None:
                        out.times[i] = shown.times[at]
                        out.keys[i] = shown.keys[at]
                        out.places[i] = shown.places[at]
                        out.prices[i] = shown.prices[at]
                        out.partitions[i] = shown.partitions[at]

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

    def _blocks(self, wanted: Sequence[int]) -> list[Shown]:
        """Blocks by the number of their first row."""
        missing = [block for block in wanted if block not in self._cache]
        data = (
            self._store.get_many([self._keys.shown + row_number(block) for block in missing])
            if missing
            else []
        )
        read = {
            block: read_block(self._store, self._keys, block, self._columns, value)
            for block, value in zip(missing, data, strict=True)
        }
        found = [read[block] if block in read else self._cache[block] for block in wanted]
        for block, shown in zip(wanted, found, strict=True):
            if block in self._cache:
                self._cache.move_to_end(block)
            else:
                self._cache[block] = shown
                self._cached += len(shown)
        while self._cached > CACHED_ROWS and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._cached -= len(dropped)
        return found
