"""Failure: rows that one build of the kernel wrote are called damaged by another, or by tools that know
crc32. Required: what ``zlib`` gives, compiled or not.
"""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import checksums
from features.checksums import crc32_rows


@given(words=st.integers(0, 9), seed=st.integers(0, 2**32 - 1))
def test_every_row_has_the_checksum_that_zlib_gives_it(words: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = random.integers(0, 256, (5, 8 * words), dtype=np.uint8)
    starts = random.integers(0, 2**32, 5, dtype=np.uint32)
    expected = [zlib.crc32(row.tobytes(), start) for row, start in zip(rows, starts.tolist(), strict=True)]
    assert crc32_rows(rows, starts).tolist() == expected


def test_without_a_compiler_the_checksums_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.arange(80, dtype=np.uint8).reshape(5, 16)
    starts = np.arange(5, dtype=np.uint32)
    compiled = crc32_rows(rows, starts)
    monkeypatch.setattr(checksums, "COMPILED", False)
    assert crc32_rows(rows, starts).tolist() == compiled.tolist()
