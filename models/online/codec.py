"""Learner state as bytes: exact, versioned, and safe to read from a disk that one does not trust.

A state is a MessagePack map of plain numbers and raw little-endian arrays. Nothing is unpickled, so a
damaged or forged state can be refused but cannot run code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from contracts.errors import SurgelineError

CODEC_VERSION = 1

FloatArray = npt.NDArray[np.float64]
Value = int | float | str


class LearnerStateError(SurgelineError, ValueError):
    """A saved state does not fit the learner that should take it up; the message says why."""


class _Array(msgspec.Struct, array_like=True, frozen=True):
    dtype: Literal["<f8", "<i8"]
    shape: list[int]
    data: bytes


class _State(msgspec.Struct, frozen=True):
    codec: int
    kind: str
    version: int
    values: dict[str, Value]
    arrays: dict[str, _Array]
    parts: dict[str, bytes]


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(_State)


class State:
    """A decoded state whose accessors check shape and type.

    >>> data = encode_state("demo", 1, {"ticks": 3}, {"w": np.array([1.0, 2.0])})
    >>> state = decode_state(data, "demo", 1)
    >>> state.integer("ticks"), state.floats("w", (2,)).tolist()
    (3, [1.0, 2.0])
    >>> state.floats("w", (5,))
    Traceback (most recent call last):
    models.online.codec.LearnerStateError: demo state: w has shape [2], this learner needs [5]
    """

    def __init__(self, state: _State) -> None:
        self._state = state

    def integer(self, name: str) -> int:
        """A whole number that is not negative."""
        value = self._value(name)
        if not isinstance(value, int) or value < 0:
            raise LearnerStateError(f"{self._state.kind} state: {name} is {value!r}, not a count")
        return value

    def number(self, name: str) -> float:
        """A finite number."""
        value = self._value(name)
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise LearnerStateError(f"{self._state.kind} state: {name} is {value!r}, not a finite number")
        return float(value)

    def part(self, name: str) -> bytes:
        """The state of a part."""
        if name not in self._state.parts:
            raise LearnerStateError(f"{self._state.kind} state: no part {name}")
        return self._state.parts[name]

    def floats(self, name: str, shape: tuple[int, ...]) -> FloatArray:
        """A finite float64 array of this shape; -1 in ``shape`` takes any length."""
        array: FloatArray = self._array(name, "<f8", shape).astype(np.float64)
        if not np.isfinite(array).all():
            raise LearnerStateError(f"{self._state.kind} state: {name} is not finite")
        return array

    def integers(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
        """An int64 array of this shape; -1 in ``shape`` takes any length."""
        return self._array(name, "<i8", shape).astype(np.int64)

    def text(self, name: str) -> str:
        """A string."""
        value = self._value(name)
        if not isinstance(value, str):
            raise LearnerStateError(f"{self._state.kind} state: {name} is not text")
        return value

    def _value(self, name: str) -> Value:
        if name not in self._state.values:
            raise LearnerStateError(f"{self._state.kind} state: no {name}")
        return self._state.values[name]

    def _array(self, name: str, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        kind = self._state.kind
        found = self._state.arrays.get(name)
        if found is None or found.dtype != dtype:
            raise LearnerStateError(f"{kind} state: no {dtype} array {name}")
        fits = len(found.shape) == len(shape) and all(
            want in (-1, have) for want, have in zip(shape, found.shape, strict=True)
        )
        if not fits:
            raise LearnerStateError(
                f"{kind} state: {name} has shape {found.shape}, this learner needs {list(shape)}"
            )
        if min(found.shape, default=0) < 0 or math.prod(found.shape) * 8 != len(found.data):
            raise LearnerStateError(f"{kind} state: {name} has {len(found.data)} bytes for {found.shape}")
        return np.frombuffer(found.data, dtype=dtype).reshape(found.shape)


def encode_state(
    kind: str,
    version: int,
    values: Mapping[str, Value],
    arrays: Mapping[str, npt.NDArray[Any]],
    parts: Mapping[str, bytes] | None = None,
) -> bytes:
    """Equal states give equal bytes. Arrays are float64 or int64."""
    packed = {}
    for name, array in arrays.items():
        dtype: Literal["<f8", "<i8"] = "<i8" if array.dtype.kind == "i" else "<f8"
        packed[name] = _Array(dtype, list(array.shape), np.ascontiguousarray(array, dtype=dtype).tobytes())
    return _encoder.encode(_State(CODEC_VERSION, kind, version, dict(values), packed, dict(parts or {})))


def decode_state(data: bytes, kind: str, version: int) -> State:
    """Read a state of this kind and version. Raises ``LearnerStateError`` for anything else."""
    try:
        state = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise LearnerStateError(f"not a learner state: {error}") from error
    if state.codec != CODEC_VERSION:
        raise LearnerStateError(f"state of codec {state.codec}, this build reads {CODEC_VERSION}")
    if (state.kind, state.version) != (kind, version):
        raise LearnerStateError(
            f"state of {state.kind!r} version {state.version}, this learner is {kind!r} version {version}"
        )
    return State(state)
