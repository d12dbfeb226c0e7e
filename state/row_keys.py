"""Where the rows of a feature table lie in RocksDB: by table, source partition and key, in this order.

Rows whose key contains ``user_id`` belong to the source partition that their user's events come in, so that
all rows of a partition of a table lie behind one prefix and can be handed over. The others count events of
all partitions of a worker and stay with it: their partition is ``SHARED``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from features.hashing import Keys
from state.keys import ROWS

Partitions = npt.NDArray[np.int16]

#: The partition of rows that belong to a worker as a whole.
SHARED = -1
_HEAD = len(ROWS) + 2
_LENGTH = _HEAD + 2 + 8


def table_prefix(number: int) -> bytes:
    """What the keys of a plan's table begin with, by its number."""
    return ROWS + number.to_bytes(2, "big")


def partition_prefix(number: int, partition: int) -> bytes:
    """What the keys of one source partition's rows begin with."""
    return table_prefix(number) + (partition + 1).to_bytes(2, "big")


def row_keys(number: int, partitions: Partitions, keys: Keys) -> list[bytes]:
    """Keys in RocksDB, in the order given."""
    block = np.empty((len(keys), 10), dtype=np.uint8)
    block[:, :2] = (partitions + 1).astype(">u2").view(np.uint8).reshape(-1, 2)
    block[:, 2:] = keys.astype(">u8").view(np.uint8).reshape(-1, 8)
    data, prefix = block.tobytes(), table_prefix(number)
    return [prefix + data[at : at + 10] for at in range(0, len(data), 10)]


def parsed(found: Sequence[bytes]) -> tuple[Partitions, Keys]:
    """The opposite of ``row_keys``. Raises ``ValueError`` for what is none."""
    if any(len(key) != _LENGTH for key in found):
        raise ValueError("a key of a row that is not one")
    block = np.frombuffer(b"".join(found), dtype=np.uint8).reshape(-1, _LENGTH)
    partitions = np.ascontiguousarray(block[:, _HEAD : _HEAD + 2]).view(">u2")[:, 0].astype(np.int32) - 1
    keys = np.ascontiguousarray(block[:, _HEAD + 2 :]).view(">u8")[:, 0]
    return partitions.astype(np.int16), keys.astype(np.uint64)


def parts(found: Iterable[bytes], size: int) -> Iterable[list[bytes]]:
    """``found`` in lists of ``size``."""
    part: list[bytes] = []
    for one in found:
        part.append(one)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part
