"""The impressions of one tick as columns: in memory while they change, and how they lie in RocksDB.

On disk a segment is immutable blocks of ``BLOCK_ROWS`` rows, so that one row can be read back without the
others of its tick; one row with what the experts saw, until the samples close; and one small row of action
masks, which is rewritten when actions come.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import numpy.typing as npt

from state.errors import StateDamagedError, decoding
from state.keys import SEGMENT_COLUMNS, SEGMENT_MASKS, SEGMENT_PAYLOAD
from state.row_index import HashArray, hashes_of
from state.store import Batch, Store

IntArray = npt.NDArray[np.int64]
FloatArray32 = npt.NDArray[np.float32]

#: A row that is read back costs one look-up in RocksDB and the decoding of so many rows.
BLOCK_ROWS = 32

_encode = msgspec.msgpack.Encoder().encode


class Segment(msgspec.Struct, kw_only=True):
    """Impressions of one tick, a whole segment or a block of one. ``base`` is the number of its first row."""

    base: int
    tick: int
    ids: list[str]
    times: bytes
    users: list[str]
    items: list[str]
    categories: list[str]
    positions: list[str]

    def __len__(self) -> int:
        return len(self.ids)


_decode = msgspec.msgpack.Decoder(Segment).decode


class Remembered:
    """A segment with what changes about it.

    ``columns`` is None once the segment is spilled, and so are ``times`` and ``hashes``: what they held is
    then read back from its blocks.
    """

    __slots__ = (
        "base",
        "block_rows",
        "columns",
        "features",
        "hashes",
        "masks",
        "masks_changed",
        "open",
        "predictions",
        "tick",
        "times",
        "written",
    )

    def __init__(self, columns: Segment, masks: npt.NDArray[np.uint8], hashes: HashArray) -> None:
        self.base = columns.base
        self.tick = columns.tick
        self.block_rows = BLOCK_ROWS
        self.columns: Segment | None = columns
        self.times: IntArray | None = np.frombuffer(columns.times, dtype="<i8")
        self.masks = masks
        self.hashes: HashArray | None = hashes
        self.features: FloatArray32 | None = None
        self.predictions: FloatArray32 | None = None
        self.open = True
        self.written = False
        self.masks_changed = False

    def __len__(self) -> int:
        return len(self.masks)

    def block_of(self, row: int) -> int:
        """Number of the first row of the block that holds ``row``."""
        return self.base + (row - self.base) // self.block_rows * self.block_rows

    def blocks(self) -> Iterator[int]:
        """Numbers of the first rows of all blocks."""
        yield from range(self.base, self.base + len(self), self.block_rows)

    def keys(self) -> list[bytes]:
        """Everything that is on disk of a closed segment."""
        return [
            SEGMENT_MASKS + number(self.base),
            *(SEGMENT_COLUMNS + number(block) for block in self.blocks()),
        ]

    def put_columns(self, batch: Batch) -> None:
        """Add the blocks to ``batch``."""
        whole = self.columns
        assert whole is not None
        for block in self.blocks():
            rows = slice(block - self.base, block - self.base + self.block_rows)
            part = Segment(
                base=block,
                tick=self.tick,
                ids=whole.ids[rows],
                times=whole.times[8 * rows.start : 8 * rows.stop],
                users=whole.users[rows],
                items=whole.items[rows],
                categories=whole.categories[rows],
                positions=whole.positions[rows],
            )
            batch.put(SEGMENT_COLUMNS + number(block), _encode(part))

    def packed_payload(self) -> bytes:
        """What the experts saw and said, as it is stored."""
        assert self.features is not None and self.predictions is not None
        return _encode((self.features.tobytes(), self.predictions.tobytes()))

    def load_payload(self, data: bytes) -> None:
        """The opposite of ``packed_payload``."""
        features, predictions = msgspec.msgpack.decode(data, type=tuple[bytes, bytes])
        self.features = np.frombuffer(features, dtype=np.float32).reshape(len(self), -1)
        self.predictions = np.frombuffer(predictions, dtype=np.float32).reshape(len(self), -1)

    def read_columns(self, store: Store) -> Segment:
        """The whole segment, from memory or from its blocks."""
        if self.columns is not None:
            return self.columns
        return joined([read_block(store, block) for block in self.blocks()])


def number(base: int) -> bytes:
    """A row's number as part of a key. Big-endian: key order is the order of the rows."""
    return base.to_bytes(8, "big")


def read_block(store: Store, block: int, data: bytes | None = None) -> Segment:
    """The block that begins with row ``block``; ``data`` where it has been read already.

    Raises ``StateDamagedError`` where it is not there: what memory knows of must be on disk.
    """
    data = data or store.get(SEGMENT_COLUMNS + number(block))
    if data is None:
        raise StateDamagedError(store.path, f"impression {block} of the join is gone")
    with decoding(store.path, f"impression {block} of the join"):
        return _checked(data, block)


def _checked(data: bytes, block: int) -> Segment:
    """A block from its bytes. Raises whatever decoders do, see ``state.errors.decoding``."""
    found = _decode(data)
    columns = (found.users, found.items, found.categories, found.positions)
    if {len(found.times) / 8, *map(len, columns)} != {len(found)} or found.base != block:
        raise ValueError("its columns do not fit together")
    return found


def joined(blocks: list[Segment]) -> Segment:
    """Blocks of one segment, in order, as one."""
    first = blocks[0]
    if len(blocks) == 1:
        return first
    return Segment(
        base=first.base,
        tick=first.tick,
        ids=[one for block in blocks for one in block.ids],
        times=b"".join(block.times for block in blocks),
        users=[one for block in blocks for one in block.users],
        items=[one for block in blocks for one in block.items],
        categories=[one for block in blocks for one in block.categories],
        positions=[one for block in blocks for one in block.positions],
    )


def stored(store: Store) -> Iterator[Remembered]:
    """Every segment on disk, in order, whole and with its masks and payload; ``open`` where it has one.

    Raises ``StateDamagedError`` where parts do not fit together.
    """
    folder = store.path
    blocks: list[Segment] = []
    masks, segments, end = b"", 0, -1
    for key, value in store.scan(SEGMENT_COLUMNS):
        name = key[len(SEGMENT_COLUMNS) :]
        with decoding(folder, f"segment {name.hex()} of the join"):
            block = _checked(value, int.from_bytes(name, "big"))
            if end not in (-1, block.base):
                raise ValueError(f"it does not follow impression {end}")
            if not blocks:
                masks = store.get(SEGMENT_MASKS + name) or b""
            blocks.append(block)
            end = block.base + len(block)
            rows = end - blocks[0].base
            if rows > len(masks):
                raise ValueError("it has no action masks")
            live = _whole(store, blocks, masks) if rows == len(masks) else None
        if live is not None:
            yield live
            blocks, segments = [], segments + 1
    masked = sum(1 for _ in store.scan(SEGMENT_MASKS))
    if blocks or masked != segments:
        raise StateDamagedError(folder, f"{masked} segments of the join have masks, {segments} are whole")


def _whole(store: Store, blocks: list[Segment], masks: bytes) -> Remembered:
    columns = joined(blocks)
    one = Remembered(columns, np.frombuffer(masks, dtype=np.uint8).copy(), hashes_of(columns.ids))
    # All blocks but the last are full.
    one.block_rows = max(len(blocks[0]), 1)
    one.written = True
    payload = store.get(SEGMENT_PAYLOAD + number(one.base))
    if payload is None:
        one.open = False
    else:
        one.load_payload(payload)
    return one
