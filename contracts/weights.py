"""The weights message: one self-describing JSON document a version, what serving swaps in.

The topic is compacted under the key ``ctr/<source>``, one source a worker slot. Heads are Gaussian
posteriors in natural parameters, so that the messages of several workers merge by addition
(``merge`` in ``models.online.bayes``).
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

from contracts.errors import SurgelineError

SCHEMA_VERSION = 2


class WeightsError(SurgelineError, ValueError):
    """The weights message cannot be used; the message says why."""


class Head(msgspec.Struct, kw_only=True):
    """One task's last layer over ``z`` (length p).

    ``mean`` and ``prior_mean`` have p entries; ``precision`` and ``prior_precision`` are base64 of the
    posterior's and the prior's upper triangle (row-major, float64, little-endian).
    """

    mean: list[float]
    prior_mean: list[float]
    prior_precision: str
    precision: str


class LearnerMetrics(msgspec.Struct, kw_only=True, frozen=True):
    """Progressive figures of one learner (predicted before learned); None where undefined.

    ``auc`` comes from binned scores, see ``models.online.metrics``.
    """

    samples: int
    positives: int
    auc: float | None
    log_loss: float | None
    pcoc: float | None


class Watermarks(msgspec.Struct, kw_only=True, frozen=True):
    """Event time (ms UTC) up to which features and labels are complete."""

    features: int
    labels: int


class Weights(msgspec.Struct, kw_only=True):
    """One version of one source's heads. ``parent`` is the version before it, of whatever trunk.

    ``features_hash`` is that of the features plan: equal names may be computed in other ways.

    ``late`` events came behind what the worker had done, ``older_logs`` times its whole input went back in
    time, and ``duplicates`` were dropped; all three count since the worker's state began.
    """

    schema_version: int = SCHEMA_VERSION
    source: str
    version: Annotated[int, msgspec.Meta(ge=1)]
    parent: Annotated[int, msgspec.Meta(ge=0)]
    trunk_hash: str
    feature_names: list[str]
    features_hash: str
    heads: dict[str, Head]
    watermarks: Watermarks
    created_at: int
    samples: int
    metrics: dict[str, LearnerMetrics]
    late: int = 0
    older_logs: int = 0
    duplicates: int = 0

    @property
    def key(self) -> bytes:
        """The compaction key."""
        return weights_key(self.source)


def weights_key(source: str) -> bytes:
    """The compaction key of a source's weights."""
    return f"ctr/{source}".encode()


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Weights)


def encode_weights(weights: Weights) -> bytes:
    """The message's bytes. Raises ``WeightsError`` where a head is not finite: JSON has no NaN."""
    for name, head in weights.heads.items():
        if not all(map(math.isfinite, head.mean)):
            raise WeightsError(f"head {name!r} of version {weights.version} is not finite")
    return _encoder.encode(weights)


def decode_weights(data: bytes) -> Weights:
    """Read and check a message. Raises ``WeightsError`` with the reason."""
    try:
        weights = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WeightsError(f"not a weights message: {error}") from error
    if weights.schema_version != SCHEMA_VERSION:
        raise WeightsError(f"schema version {weights.schema_version}, this build reads {SCHEMA_VERSION}")
    size = len(weights.feature_names)
    for name, head in weights.heads.items():
        lengths = {len(head.mean), len(head.prior_mean)}
        if lengths != {size}:
            raise WeightsError(f"head {name!r} has lengths {sorted(lengths)}, the feature list has {size}")
        if not all(map(math.isfinite, head.mean)):
            raise WeightsError(f"head {name!r} is not finite")
    if "ctr" not in weights.heads:
        raise WeightsError("no head 'ctr'")
    return weights
