"""Fails when an id's number depends on the ids beside it, or on how they are put together."""

from __future__ import annotations

import zlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from features.hashing import hash_texts

WRAP = 2**64 - 1


def by_hand(text: str) -> int:
    """FNV-1a, finished by splitmix64, in whole numbers."""
    if not text:
        return 0
    x = 0xCBF29CE484222325
    for byte in text.encode():
        x = (x ^ byte) * 0x100000001B3 & WRAP
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & WRAP
    x = (x ^ x >> 27) * 0x94D049BB133111EB & WRAP
    return (x ^ x >> 31) or 1


texts = st.lists(st.text(max_size=6) | st.sampled_from(["", "\0", "a\0", "żółw", "item-1"]), max_size=12)


@given(texts)
def test_each_text_has_its_own_number(given: list[str]) -> None:
    """NULs and empty texts among them: what separates the texts must not be taken for a text."""
    assert hash_texts(given).tolist() == [by_hand(text) for text in given]


def test_many_texts_are_as_each_alone() -> None:
    given = [f"{zlib.crc32(str(i).encode()):x}"[: i % 9] for i in range(5000)]
    assert (hash_texts(given) == np.array([by_hand(text) for text in given], dtype=np.uint64)).all()
