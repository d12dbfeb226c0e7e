"""Failure: a damaged or foreign checkpoint is taken up, crashes the worker, or runs code.

Required: whatever the bytes, a state is read back exactly or refused as LearnerStateError.
"""

import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from models.online.codec import LearnerStateError, decode_state, encode_state


@given(arrays(np.float64, (3, 2), elements=st.floats(allow_nan=False, allow_infinity=False)))
def test_arrays_come_back_bit_for_bit(array: np.ndarray) -> None:
    data = encode_state("demo", 1, {"ticks": 2**62}, {"a": array})
    state = decode_state(data, "demo", 1)
    assert state.floats("a", (3, 2)).tobytes() == array.tobytes()
    assert state.integer("ticks") == 2**62


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(LearnerStateError):
        decode_state(data, "demo", 1)


@given(st.data())
def test_one_changed_byte_is_read_or_refused_but_nothing_else(data: st.DataObject) -> None:
    good = bytearray(encode_state("demo", 1, {"ticks": 3}, {"a": np.arange(4.0)}))
    good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        state = decode_state(bytes(good), "demo", 1)
        state.floats("a", (4,))
        state.integer("ticks")
    except LearnerStateError:
        pass


def test_a_pickle_is_not_executed() -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (pytest.fail, ("the state was unpickled",))

    with pytest.raises(LearnerStateError):
        decode_state(pickle.dumps(Bomb()), "demo", 1)


@pytest.mark.parametrize(("kind", "version"), [("other", 1), ("demo", 2)])
def test_another_kind_or_version_is_named(kind: str, version: int) -> None:
    data = encode_state("demo", 1, {}, {})
    with pytest.raises(LearnerStateError, match="'demo' version 1"):
        decode_state(data, kind, version)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    state = decode_state(encode_state("demo", 1, {}, {"a": np.array([bad])}), "demo", 1)
    with pytest.raises(LearnerStateError, match="not finite"):
        state.floats("a", (1,))
