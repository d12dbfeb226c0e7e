"""A feature row as bytes: its numbers (float64), the time of its last change (int64, ms), a checksum (crc32).

All little-endian. The checksum begins with the row's key, so that a row that stands under another key does
not pass for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from contracts.errors import SurgelineError
from features.checksums import crc32_rows
from features.events import IntArray
from features.hashing import Keys
from features.rows import Values

#: Bytes behind the numbers, and those of the checksum among them.
TAIL, CHECKSUM = 12, 4
_LOWER = np.uint64(0xFFFFFFFF)


class RowError(SurgelineError, ValueError):
    """Bytes that are no row of this width and key."""


def pack(keys: Keys, rows: Values, changed_at: int) -> list[bytes]:
    """Rows (n, width) as bytes, ``8 * width + TAIL`` each."""
    words = rows.shape[1] + 1
    block = np.empty((len(rows), words), dtype="<f8")
    block[:, :-1] = rows
    block[:, -1] = np.array(changed_at, dtype="<i8").view("<f8")
    whole = np.empty((len(rows), 8 * words + CHECKSUM), dtype=np.uint8)
    whole[:, :-CHECKSUM] = block.view(np.uint8)
    whole[:, -CHECKSUM:] = _checksums(keys, block.view(np.uint8))
    size, data = whole.shape[1], whole.tobytes()
    return [data[at : at + size] for at in range(0, len(data), size)]


def intact(keys: Keys, data: Sequence[bytes], width: int) -> npt.NDArray[np.bool_]:
    """Which of ``data`` ``pack`` has made, of ``width`` numbers and under these keys."""
    size = 8 * width + TAIL
    good = np.fromiter((len(one) == size for one in data), dtype=np.bool_, count=len(data))
    kept = np.flatnonzero(good)
    if len(kept):
        whole = np.frombuffer(b"".join([data[i] for i in kept.tolist()]), dtype=np.uint8).reshape(-1, size)
        sums = _checksums(keys[kept], np.ascontiguousarray(whole[:, :-CHECKSUM]))
        good[kept] = (whole[:, -CHECKSUM:] == sums).all(axis=1)
    return good


def unpack(keys: Keys, data: Sequence[bytes], width: int) -> tuple[Values, IntArray]:
    """Rows (n, width) and the times of their last changes. Raises ``RowError`` where ``pack`` made others."""
    size = 8 * (width + 1)
    if any(len(one) != size + CHECKSUM for one in data):
        raise RowError(f"a row that is not of {width} numbers, {size + CHECKSUM} bytes")
    whole = np.frombuffer(b"".join(data), dtype=np.uint8).reshape(len(data), size + CHECKSUM)
    block = np.ascontiguousarray(whole[:, :size])
    if (whole[:, size:] != _checksums(keys, block)).any():
        raise RowError("a row's checksum is wrong")
    rows: Values = block.view("<f8")[:, :width].astype(np.float64)
    return rows, block.view("<i8")[:, width].astype(np.int64)


def _checksums(keys: Keys, block: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Checksums (n, 4) of rows of bytes."""
    found = crc32_rows(block, (keys & _LOWER).astype(np.uint32))
    return found.astype("<u4").view(np.uint8).reshape(-1, CHECKSUM)


def first_numbers(data: Sequence[bytes]) -> npt.NDArray[np.float64]:
    """The first number of each row, unchecked. Raises ``RowError`` where a row is too short to have one."""
    if any(len(one) < 8 + TAIL for one in data):
        raise RowError("a row without numbers")
    return np.frombuffer(b"".join([one[:8] for one in data]), dtype="<f8")
