"""Failure: powers, hashes or rows that are wrong, or differ between a compiled and a plain process: features
would then depend on the machine, and a state that one wrote would mean something else to another.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import compiled
from features.hashing import cross, hash_numbers, hash_texts
from features.powers import LEAST, power_of_two
from features.rows import NO_ROW, Rows
from tests.unit.features.kernels import uncompiled

ROOT = Path(__file__).parents[3]


@given(st.floats(-1022, 1000))
def test_a_power_of_two_is_within_two_units_of_the_last_place(x: float) -> None:
    found = float(power_of_two(x))
    with uncompiled():
        from features import powers

        assert powers.power_of_two(x) == found
    assert abs(Fraction(found) - Fraction(2.0**x)) <= 2 * Fraction(math.ulp(found))


def test_whole_powers_are_exact_and_tiny_ones_are_zero() -> None:
    assert [power_of_two(float(k)) for k in range(LEAST, 1024)] == [
        math.ldexp(1.0, k) for k in range(LEAST, 1024)
    ]
    assert power_of_two(-1023.5) == 0.0


@given(st.lists(st.text(max_size=6)))
def test_texts_have_the_same_numbers_alone_and_together(texts: list[str]) -> None:
    together = hash_texts(texts)
    assert together.tolist() == [int(hash_texts([text])[0]) for text in texts]
    assert [bool(key) for key in together] == [bool(text) for text in texts]
    with uncompiled():
        assert hash_texts(texts).tolist() == together.tolist()


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 3)), max_size=9))
def test_crossings_differ_where_their_parts_do_and_need_all_of_them(pairs: list[tuple[int, int]]) -> None:
    left = hash_numbers(np.array([a for a, _ in pairs], dtype=np.int64))
    right = hash_texts(["" if b == 0 else str(b) for _, b in pairs])
    crossed = cross([left, right])
    known = [(pair, int(key)) for pair, key in zip(pairs, crossed, strict=True) if pair[1]]
    assert len(set(known)) == len({pair for pair, _ in known}) == len({key for _, key in known})
    assert all(key == 0 for pair, key in zip(pairs, crossed, strict=True) if not pair[1])


def test_a_variable_asks_for_plain_kernels() -> None:
    code = "from features import compiled, rows; assert not compiled.COMPILED; assert rows._find.__code__"
    environment = {**os.environ, compiled.VARIABLE: compiled.PLAIN}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("initial", [1, 1024])
@given(data=st.data())
def test_rows_are_found_by_their_keys(initial: int, data: Any) -> None:
    """Against a dictionary: rows begin with zeros where they may, and keep what was written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("features.rows.INITIAL_ROWS", initial)
        rows, known = Rows(2), dict[int, float]()
        for round_ in range(data.draw(st.integers(1, 4))):
            # Keys that share their lower bits meet in the index.
            drawn = data.draw(st.lists(st.tuples(st.sampled_from([0, 1, 2, 9, 17, 1 << 40]), st.booleans())))
            keys = np.array([key for key, _ in drawn], dtype=np.uint64)
            slots = rows.locate(keys, np.array([begin for _, begin in drawn], dtype=np.bool_))
            for number, ((key, begin), slot) in enumerate(zip(drawn, slots, strict=True)):
                if key and begin:
                    known.setdefault(key, 0.0)
                if slot == NO_ROW:
                    assert key not in known or not any(k == key and b for k, b in drawn[:number])
                else:
                    assert rows.values[slot, 0] == known[key]
                    rows.values[slot] = known[key] = 10.0 * round_ + number
            if data.draw(st.booleans()):
                kept = np.flatnonzero(rows.keys[: rows.used] % 2 == 1)
                rows.keep(kept)
                known = {key: value for key, value in known.items() if key % 2 == 1}
        found = rows.find(np.array([*known, 12345], dtype=np.uint64))
        assert found[-1] == NO_ROW and len(rows) == len(known)
        assert rows.values[found[:-1], 1].tolist() == list(known.values())
