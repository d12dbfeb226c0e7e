"""The impressions of one tick: what memory keeps of them, and how they lie in RocksDB.

On disk a segment is immutable blocks of ``BLOCK_ROWS`` rows, so that one row can be read back without the
others of its tick; what the experts saw (``state.joins.payloads``), until the samples close; and one small
row of action masks, which is rewritten when actions come. Every block ends with a checksum.

A segment holds rows of one source partition.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import msgspec
import numpy as np

from state.errors import StateDamagedError, decoding
from state.joins.columns import Bits, FloatArray32, Shown, concatenated
from state.joins.payloads import Payloads
from state.keys import JoinKeys, row_number
from state.store import Batch, Store

#: A row that is read back costs one look-up in RocksDB and the decoding of so many rows.
BLOCK_ROWS = 64
_CHECKSUM = 4
_encode = msgspec.msgpack.Encoder().encode


class Block(msgspec.Struct, array_like=True):
    """Some rows of a segment as bytes. ``base`` is the number of the first."""

    base: int
    tick: int
    ids: list[str]
    times: bytes
    keys: bytes
    places: bytes
    prices: bytes
    partitions: bytes


_decode = msgspec.msgpack.Decoder(Block).decode


class Segment:
    """Rows ``base`` to ``base + size - 1``, all of tick ``tick``, and how far they are on their way."""

    __slots__ = (
        "base",
        "block_rows",
        "inputs",
        "masks_changed",
        "open",
        "predictions",
        "size",
        "tick",
        "written",
    )

    def __init__(self, base: int, tick: int, size: int) -> None:
        self.base, self.tick, self.size = base, tick, size
        self.block_rows = BLOCK_ROWS
        self.inputs: FloatArray32 | None = None
        self.predictions: FloatArray32 | None = None
        self.open = True
        self.written = False
        self.masks_changed = False

    @property
    def end(self) -> int:
        """Number of the row after the last."""
        return self.base + self.size

    def block_of(self, row: int) -> int:
        """Number of the first row of the block that holds ``row``."""
        return self.base + (row - self.base) // self.block_rows * self.block_rows

    def blocks(self) -> range:
        """Numbers of the first rows of all blocks."""
        return range(self.base, self.end, self.block_rows)

    def stored_at(self, keys: JoinKeys) -> list[bytes]:
        """The keys of everything that is on disk of a closed segment."""
        return [
            keys.masks + row_number(self.base),
            *(keys.shown + row_number(block) for block in self.blocks()),
        ]

    def put(self, batch: Batch, keys: JoinKeys, shown: Shown) -> None:
        """Add the blocks to ``batch``."""
        whole = packed(self.base, self.tick, shown)
        for block in self.blocks():
            begin, end = block - self.base, min(block - self.base + self.block_rows, self.size)
            data = _encode(_part(whole, begin, end, self.size))
            batch.put(keys.shown + row_number(block), data + _checksum(data))

    def read(self, store: Store, keys: JoinKeys, columns: int) -> Shown:
        """The whole segment from its blocks."""
        return concatenated([read_block(store, keys, block, columns) for block in self.blocks()])


def packed(base: int, tick: int, shown: Shown) -> Block:
    """Rows as they are stored."""
    return Block(
        base=base,
        tick=tick,
        ids=shown.ids,
        times=shown.times.astype("<i8", copy=False).tobytes(),
        keys=shown.keys.astype("<u8", copy=False).tobytes(),
        places=shown.places.astype("<i4", copy=False).tobytes(),
        prices=shown.prices.astype("<f8", copy=False).tobytes(),
        partitions=shown.partitions.astype("<i2", copy=False).tobytes(),
    )


def _part(whole: Block, begin: int, end: int, size: int) -> Block:
    wide = len(whole.keys) // size
    return Block(
        whole.base + begin,
        whole.tick,
        whole.ids[begin:end],
        whole.times[8 * begin : 8 * end],
        whole.keys[wide * begin : wide * end],
        whole.places[4 * begin : 4 * end],
        whole.prices[8 * begin : 8 * end],
        whole.partitions[2 * begin : 2 * end],
    )


def read_block(store: Store, keys: JoinKeys, block: int, columns: int, data: bytes | None = None) -> Shown:
    """The block that begins with row ``block``; ``data`` where it has been read already.

    Raises ``StateDamagedError`` where it is not there: what memory knows of must be on disk.
    """
    data = data or store.get(keys.shown + row_number(block))
    if data is None:
        raise StateDamagedError(store.path, f"impression {block} of the join is gone")
    with decoding(store.path, f"impression {block} of the join"):
        return _unpacked(data, block, columns)[0]


def _unpacked(data: bytes, base: int, columns: int) -> tuple[Shown, int]:
    """A block from its bytes, and its tick. Raises whatever decoders do, see ``state.errors.decoding``."""
    if _checksum(data[:-_CHECKSUM]) != data[-_CHECKSUM:]:
        raise ValueError("its checksum is wrong")
    found = _decode(data[:-_CHECKSUM])
    shown = Shown(
        found.ids,
        np.frombuffer(found.times, dtype="<i8"),
        np.frombuffer(found.keys, dtype="<u8").reshape(-1, columns),
        np.frombuffer(found.places, dtype="<i4"),
        np.frombuffer(found.prices, dtype="<f8"),
        np.frombuffer(found.partitions, dtype="<i2"),
    )
    lengths = {len(shown.times), len(shown.keys), len(shown.places), len(shown.prices), len(shown.partitions)}
    if lengths != {len(shown)} or found.base != base:
        raise ValueError("its columns do not fit together")
    return shown, found.tick


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(_CHECKSUM, "little")


def stored(
    store: Store, keys: JoinKeys, columns: int, payloads: Payloads
) -> Iterator[tuple[Segment, Shown, Bits]]:
    """Every segment on disk, in order, with its rows and masks; ``open``, with its payload, where it has one.

    Raises ``StateDamagedError`` where parts do not fit together.
    """
    folder = store.path
    blocks: list[Shown] = []
    masks, segments, base, end = b"", 0, 0, -1
    for key, value in store.scan(keys.shown):
        name = key[len(keys.shown) :]
        whole = False
        with decoding(folder, f"segment {name.hex()} of the join"):
            block = int.from_bytes(name, "big")
            shown, tick = _unpacked(value, block, columns)
            if end not in (-1, block):
                raise ValueError(f"it does not follow impression {end}")
            if not blocks:
                base, masks = block, store.get(keys.masks + name) or b""
            blocks.append(shown)
            end = block + len(shown)
            if end - base > len(masks):
                raise ValueError("it has no action masks")
            if end - base == len(masks):
                whole = True
                segment = Segment(base, tick, len(masks))
                # All blocks but the last are full.
                segment.block_rows = max(len(blocks[0]), 1)
                segment.written = True
                payload = payloads.get(segment.base, segment.size)
                segment.open = payload is not None
                segment.inputs, segment.predictions = payload or (None, None)
        if whole:
            yield segment, concatenated(blocks), np.frombuffer(masks, dtype=np.uint8)
            blocks, segments = [], segments + 1
    masked = sum(1 for _ in store.keys(keys.masks))
    if blocks or masked != segments:
        raise StateDamagedError(folder, f"{masked} segments of the join have masks, {segments} are whole")
