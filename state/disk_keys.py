"""Which keys may be on disk and not in memory: a Bloom filter that grows, two bytes a key.

A key that was added always passes. Of others three in a hundred do, and then RocksDB is asked in vain. The
filter is a list of filters, each four times as large as the one before (Almeida et al., "Scalable Bloom
filters", 2007), of words of 64 bits (Putze et al., "Cache-, hash- and space-efficient Bloom filters", 2007).
At ``MAX_BYTES`` it grows no more: more keys than that pass more often, and are right all the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.hashing import Keys

#: At the fullest.
BITS_A_KEY = 16
GROWTH = 4
#: Keys of the smallest filter.
SMALLEST = 1024
#: Of one table: room for 33 million keys.
MAX_BYTES = 64 * 1024 * 1024
_ONE, _SIX, _SIXTY_THREE = np.uint64(1), np.uint64(6), np.uint64(63)


class DiskKeys:
    """Keys are 64-bit numbers that are mixed already. ``len``: how many were added, some perhaps twice.

    ``expected``: so many go into the first filter.
    """

    def __init__(self, expected: int = 0) -> None:
        self._filters: list[Keys] = []
        self._next = SMALLEST
        while self._next < min(expected, MAX_BYTES * 8 // BITS_A_KEY):
            self._next *= 2
        self._room = 0
        self._added = 0

    def __len__(self) -> int:
        return self._added

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(words.nbytes for words in self._filters)

    def add(self, keys: Keys) -> None:
        """From now on these pass."""
        self._added += len(keys)
        while len(keys):
            if self._room <= 0:
                self._grow()
            # What is beyond the room goes into the next one; the last one takes all.
            part = keys if self._room <= 0 else keys[: self._room]
            words = self._filters[-1]
            np.bitwise_or.at(words, _words(part, words), _bits(part))
            self._room -= len(part)
            keys = keys[len(part) :]

    def find(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Which of ``keys`` may have been added."""
        found = np.zeros(len(keys), dtype=np.bool_)
        bits = _bits(keys)
        for words in self._filters:
            found |= (words.take(_words(keys, words)) & bits) == bits
        return found

    def _grow(self) -> None:
        if not self._filters or self.nbytes + self._next * BITS_A_KEY // 8 <= MAX_BYTES:
            self._filters.append(np.zeros(self._next * BITS_A_KEY // 64, dtype=np.uint64))
            self._room = self._next
            self._next *= GROWTH


def _words(keys: Keys, words: Keys) -> npt.NDArray[np.intp]:
    """The word of each key, by its upper bits."""
    return (keys >> np.uint64(64 - (len(words) - 1).bit_length())).astype(np.intp)


def _bits(keys: Keys) -> Keys:
    """Four of the 64 bits of a word, by its lower bits."""
    bits = np.zeros(len(keys), dtype=np.uint64)
    for _ in range(4):
        bits |= _ONE << (keys & _SIXTY_THREE)
        keys = keys >> _SIX
    return bits
