"""Fails when a row's name or bytes are read as another row's, or a name that nobody writes is taken."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.row_bytes import RowError, intact, pack, unpack
from features.topic import (
    KEY_DIGITS,
    OF_PARTITION,
    OF_WORKER,
    parse_keys,
    parse_prefix,
    row_names,
    row_prefix,
)

keys = st.lists(st.integers(1, 2**64 - 1), min_size=1, max_size=20)


@given(keys, st.sampled_from([(OF_PARTITION, 12, "user_id*item_id"), (OF_WORKER, "worker-0", "item_id")]))
def test_a_name_comes_back(numbers: list[int], owner: tuple[str, str | int, str]) -> None:
    prefix = row_prefix(*owner)
    names = row_names(prefix, np.array(numbers, dtype=np.uint64))
    assert {name[:-KEY_DIGITS] for name in names} == {prefix}
    assert parse_keys([name[-KEY_DIGITS:] for name in names]).tolist() == numbers
    assert parse_prefix(prefix) == tuple(map(str, owner))


@given(st.lists(st.binary(max_size=20) | st.from_regex(rb"\A[0-9a-fA-F]{16}\Z"), max_size=10))
def test_what_is_no_key_is_0(digits: list[bytes]) -> None:
    for one, key in zip(digits, parse_keys(digits).tolist(), strict=True):
        assert key == 0 or f"{key:016x}".encode() == one
        if len(one) == KEY_DIGITS and set(one) <= set(b"0123456789abcdef"):
            assert key == int(one, 16)


@given(st.binary(max_size=30))
def test_any_bytes_are_a_prefix_or_none(prefix: bytes) -> None:
    found = parse_prefix(prefix)
    assert found is None or row_prefix(*found) == prefix


@pytest.mark.parametrize(
    "prefix", ["p/1/t", "p/01/t/", "p/-1/t/", "p/1/t/\n", "q/1/t/", "p/1//", "p//t/", "p/1/a/b/", " p/1/t/"]
)
def test_a_prefix_that_nobody_writes_is_none(prefix: str) -> None:
    assert parse_prefix(prefix.encode()) is None


@given(st.integers(1, 6), keys, st.integers(0, 2**60), st.data())
def test_bytes_come_back_and_a_changed_one_is_found(
    width: int, numbers: list[int], changed_at: int, data: st.DataObject
) -> None:
    """Any bit of numbers, time and checksum; and a row under another key."""
    own = np.array(numbers, dtype=np.uint64)
    rows = np.random.default_rng(0).normal(size=(len(own), width))
    packed = pack(own, rows, changed_at)
    back, times = unpack(own, packed, width)
    assert (back == rows).all() and (times == changed_at).all()
    assert intact(own, packed, width).all()
    which, bit = data.draw(st.integers(0, len(own) - 1)), data.draw(st.integers(0, 8 * len(packed[0]) - 1))
    torn = bytearray(packed[which])
    torn[bit // 8] ^= 1 << bit % 8
    packed[which] = bytes(torn)
    good = intact(own, packed, width)
    assert not good[which] and good.sum() == len(own) - 1
    with pytest.raises(RowError, match="checksum"):
        unpack(own, packed, width)
    packed[which] = bytes(torn)[:-1]
    with pytest.raises(RowError, match="bytes"):
        unpack(own, packed, width)
    # The checksum knows the key's lower half, and the index the whole of it.
    assert not intact(own ^ np.uint64(1), pack(own, rows, changed_at), width).any()
