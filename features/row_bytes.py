"""A feature row as bytes: its numbers (float64), the time of its last change (int64, ms), a checksum (crc32).

All little-endian. The checksum begins with the row's key, so that a row that stands under another key does
not pass for it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from contracts.errors import SurgelineError
from features.events import IntArray
from features.hashing import Keys
from features.rows import Values

#: Bytes behind the numbers, and those of the checksum among them.
TAIL, CHECKSUM = 12, 4
#: The crc32 of anything together with its own crc32 behind it (ISO/IEC 13239, the residue).
_RESIDUE = 0x2144DF1C
_LOWER = np.uint64(0xFFFFFFFF)


class RowError(SurgelineError, ValueError):
    """Bytes that are no row of this width and key."""


def pack(keys: Keys, rows: Values, changed_at: int) -> list[bytes]:
    """Rows (n, width) as bytes, ``8 * width + TAIL`` each."""
    block = np.empty((len(rows), rows.shape[1] + 1), dtype="<f8")
    block[:, :-1] = rows
    block[:, -1] = np.array(changed_at, dtype="<i8").view("<f8")
    size, data, crc32 = 8 * block.shape[1], block.tobytes(), zlib.crc32
    return [
        (part := data[at : at + size]) + crc32(part, start).to_bytes(CHECKSUM, "little")
        for at, start in zip(range(0, size * len(rows), size), (keys & _LOWER).tolist(), strict=True)
    ]


def intact(keys: Keys, data: Sequence[bytes], width: int) -> npt.NDArray[np.bool_]:
    """Which of ``data`` ``pack`` has made, of ``width`` numbers and under these keys."""
    size, crc32 = 8 * width + TAIL, zlib.crc32
    starts = (keys & _LOWER).tolist()
    return np.array(
        [len(one) == size and crc32(one, start) == _RESIDUE for one, start in zip(data, starts, strict=True)],
        dtype=np.bool_,
    )


def unpack(keys: Keys, data: Sequence[bytes], width: int) -> tuple[Values, IntArray]:
    """Rows (n, width) and the times of their last changes. Raises ``RowError`` where ``pack`` made others."""
    good = intact(keys, data, width)
    if not good.all():
        one = data[int(np.argmin(good))]
        if len(one) != 8 * width + TAIL:
            raise RowError(f"a row of {len(one)} bytes; {width} numbers need {8 * width + TAIL}")
        raise RowError("its checksum is wrong")
    whole = np.frombuffer(b"".join(data), dtype=np.uint8).reshape(len(data), 8 * width + TAIL)
    block = np.ascontiguousarray(whole[:, :-CHECKSUM])
    rows: Values = block.view("<f8")[:, :width].astype(np.float64)
    return rows, block.view("<i8")[:, width].astype(np.int64)


def first_numbers(data: Sequence[bytes]) -> npt.NDArray[np.float64]:
    """The first number of each row, unchecked. Raises ``RowError`` where a row is too short to have one."""
    if any(len(one) < 8 + TAIL for one in data):
        raise RowError("a row without numbers")
    return np.frombuffer(b"".join([one[:8] for one in data]), dtype="<f8")
