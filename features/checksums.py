"""crc32 of many rows at once: what ``zlib.crc32`` gives for each, eight bytes a step where Numba is there.

Source: Kounavis and Berry, "Novel table lookup-based algorithms for high-performance CRC generation" (IEEE
Transactions on Computers, 2008): slicing by eight.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from features.compiled import COMPILED, kernel

Checksums = npt.NDArray[np.uint32]


def _tables() -> Checksums:
    tables = np.zeros((8, 256), dtype=np.uint32)
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
        tables[0, byte] = value
    for k in range(1, 8):
        before = tables[k - 1]
        tables[k] = before >> np.uint32(8) ^ tables[0][before & np.uint32(0xFF)]
    return tables


_TABLES = _tables()


def crc32_rows(rows: npt.NDArray[np.uint8], starts: Checksums) -> Checksums:
    """Checksums (n,) of rows (n, bytes), a multiple of eight bytes each; ``starts`` (n,) as in ``zlib``."""
    if not COMPILED:
        pairs = zip(rows, starts.tolist(), strict=True)
        return np.array([zlib.crc32(row.tobytes(), start) for row, start in pairs], dtype=np.uint32)
    out = np.empty(len(rows), dtype=np.uint32)
    _crc32(np.ascontiguousarray(rows).view("<u8"), starts, _TABLES, out)
    return out


@kernel
def _crc32(words, starts, tables, out):  # type: ignore[no-untyped-def]
    low = np.uint64(0xFF)
    for i in range(words.shape[0]):
        crc = np.uint64(starts[i] ^ np.uint32(0xFFFFFFFF))
        for k in range(words.shape[1]):
            word = words[i, k] ^ crc
            crc = np.uint64(
                tables[7, word & low]
                ^ tables[6, (word >> np.uint64(8)) & low]
                ^ tables[5, (word >> np.uint64(16)) & low]
                ^ tables[4, (word >> np.uint64(24)) & low]
                ^ tables[3, (word >> np.uint64(32)) & low]
                ^ tables[2, (word >> np.uint64(40)) & low]
                ^ tables[1, (word >> np.uint64(48)) & low]
                ^ tables[0, (word >> np.uint64(56)) & low]
            )
        out[i] = np.uint32(crc) ^ np.uint32(0xFFFFFFFF)
