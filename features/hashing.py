"""Ids as 64-bit numbers, the same in every process and on every machine.

Rows are found by these numbers and not by the texts. Two ids of one table share a row with probability
n^2 / 2^65: 3 in a million for ten million ids. Zero means "no id".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from features.compiled import kernel

Keys = npt.NDArray[np.uint64]

_OFFSET, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_S30, _S27, _S31, _ZERO, _ONE = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(0), np.uint64(1)


def hash_texts(texts: Sequence[str]) -> Keys:
    """One number a text: FNV-1a over its UTF-8 bytes, finished by splitmix64; 0 for an empty text.

    >>> [hex(key) for key in hash_texts(["item-1", ""]).tolist()]
    ['0x2d6666d6fe13dd63', '0x0']
    """
    out = np.empty(len(texts), dtype=np.uint64)
    if not len(texts):
        return out
    joined = "\0".join(texts).encode()
    with np.errstate(over="ignore"):
        if joined.count(0) == len(texts) - 1:
            _hash_split(np.frombuffer(joined, dtype=np.uint8), out)
        else:  # a text has a NUL of its own
            encoded = [text.encode() for text in texts]
            ends = np.cumsum([len(one) for one in encoded])
            _hash(np.frombuffer(b"".join(encoded), dtype=np.uint8), ends, out)
    return out


def hash_numbers(numbers: npt.NDArray[np.int64]) -> Keys:
    """One number a whole number, none of them 0."""
    out = np.empty(len(numbers), dtype=np.uint64)
    with np.errstate(over="ignore"):
        _hash_numbers(numbers, out)
    return out


def cross(parts: Sequence[Keys]) -> Keys:
    """One number a row for several columns together; 0 where any of them is 0.

    A single column is its own crossing.
    """
    crossed = parts[0]
    for part in parts[1:]:
        out = np.empty(len(part), dtype=np.uint64)
        with np.errstate(over="ignore"):
            _cross(crossed, part, out)
        crossed = out
    return crossed


def numbered(keys: Keys) -> npt.NDArray[np.int32]:
    """Equal keys get one number, from 0 on in the order in which they come first; the key 0 gets -1.

    >>> numbered(np.array([9, 4, 0, 9, 5], dtype=np.uint64)).tolist()
    [0, 1, -1, 0, 2]
    """
    size = 8
    while size < 2 * len(keys):
        size *= 2
    out = np.empty(len(keys), dtype=np.int32)
    _numbered(keys, np.full(size, -1, dtype=np.int32), out)
    return out


@kernel
def _mixed(x):  # type: ignore[no-untyped-def]
    """The end of every hash: splitmix64's, never 0."""
    x = (x ^ (x >> _S30)) * _MIX_1
    x = (x ^ (x >> _S27)) * _MIX_2
    x = x ^ (x >> _S31)
    return x if x != _ZERO else _ONE


@kernel
def hash_bytes(data, begin, end):  # type: ignore[no-untyped-def]
    """The number of the text ``data[begin:end]``, for kernels that hash as they read."""
    if end == begin:
        return _ZERO
    x = _OFFSET
    for k in range(begin, end):
        x = (x ^ np.uint64(data[k])) * _PRIME
    return _mixed(x)


@kernel
def _hash_numbers(numbers, out):  # type: ignore[no-untyped-def]
    for i in range(len(numbers)):
        out[i] = _mixed(np.uint64(numbers[i]) + _GOLDEN)


@kernel
def _cross(left, right, out):  # type: ignore[no-untyped-def]
    for i in range(len(left)):
        if left[i] == _ZERO or right[i] == _ZERO:
            out[i] = _ZERO
        else:
            out[i] = _mixed((left[i] * _PRIME) ^ right[i])


@kernel
def _hash(data, ends, out):  # type: ignore[no-untyped-def]
    begin = 0
    for i in range(len(ends)):
        out[i] = hash_bytes(data, begin, ends[i])
        begin = ends[i]


@kernel
def _hash_split(data, out):  # type: ignore[no-untyped-def]
    # Texts end at zeros.
    i, begin, x = 0, 0, _OFFSET
    for k in range(len(data)):
        if data[k] != 0:
            x = (x ^ np.uint64(data[k])) * _PRIME
            continue
        out[i] = _mixed(x) if k > begin else _ZERO
        i, begin, x = i + 1, k + 1, _OFFSET
    out[i] = _mixed(x) if len(data) > begin else _ZERO


@kernel
def _numbered(keys, table, out):  # type: ignore[no-untyped-def]
    # The table holds where each key came first; keys are mixed, so that their lower bits are their place.
    mask, count = np.uint64(len(table) - 1), 0
    for i in range(len(keys)):
        if keys[i] == _ZERO:
            out[i] = -1
            continue
        at = np.int64(keys[i] & mask)
        while table[at] != -1 and keys[table[at]] != keys[i]:
            at = (at + 1) % len(table)
        if table[at] == -1:
            table[at] = i
            out[i] = count
            count += 1
        else:
            out[i] = out[table[at]]
