"""Failure: serving swaps in a message that is broken, of another schema, or not finite.

Required: such a message is refused with WeightsError and its reason, by the writer or by the reader.
"""

from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from contracts.weights import (
    Head,
    Watermarks,
    Weights,
    WeightsError,
    decode_weights,
    encode_weights,
)


def weights(mean: float = 0.5, **changes: Any) -> Weights:
    head = Head(mean=[mean], prior_mean=[0.0], prior_precision="", precision="")
    message = Weights(
        source="0",
        version=2,
        parent=1,
        trunk_hash="none",
        feature_names=["bias"],
        features_hash="",
        heads={"ctr": head},
        watermarks=Watermarks(features=0, labels=0),
        created_at=0,
        samples=0,
        metrics={},
    )
    return msgspec.structs.replace(message, **changes)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_weight_comes_back_bit_for_bit(mean: float) -> None:
    assert decode_weights(encode_weights(weights(mean))) == weights(mean)


@pytest.mark.parametrize("mean", [float("nan"), float("inf")])
def test_a_head_that_is_not_finite_is_not_written(mean: float) -> None:
    with pytest.raises(WeightsError, match="not finite"):
        encode_weights(weights(mean))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema_version": 99}, "schema version 99"),
        ({"heads": {}}, "no head 'ctr'"),
        ({"feature_names": ["bias", "x"]}, "the feature list has 2"),
        ({"version": 0}, "not a weights message"),
    ],
)
def test_a_message_that_cannot_be_used_is_explained(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(WeightsError, match=reason):
        decode_weights(encode_weights(weights(**changes)))


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(WeightsError):
        decode_weights(data)


def test_the_key_names_the_source() -> None:
    assert weights(source="worker-3").key == b"ctr/worker-3"
