"""Which weights a scorer takes: every reason to refuse, in one place.

A refusal is a value, not an exception: the scorer keeps what it has and counts the reason.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from contracts.weights import SCHEMA_VERSION, Head, Weights, WeightsError, decode_weights

TASK = "ctr"
#: ``undecodable``: not a weights message; ``schema``: of another schema version; ``key``: the record's
#: key is not the message's; ``trunk_hash``, ``feature_list``, ``features_hash``: made for another
#: scorer; ``head``: the head's parts do not fit together; ``not_finite``: NaN or infinity in it;
#: ``stale``: not newer than what the source has; ``merge``: does not merge with the other sources.
Reason = Literal[
    "undecodable",
    "schema",
    "key",
    "trunk_hash",
    "feature_list",
    "features_hash",
    "head",
    "not_finite",
    "stale",
    "merge",
]


@dataclass(frozen=True, slots=True)
class Accepted:
    """The weights serve now; ``version`` is the stamp that answers carry from here on."""

    version: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The weights do not serve; what served before still does."""

    reason: Reason
    detail: str


@dataclass(frozen=True)
class Identity:
    """What a scorer is: weights for anything else are not its own."""

    trunk_hash: str
    hidden_size: int
    features_hash: str
    real_time_names: tuple[str, ...]

    @property
    def feature_names(self) -> list[str]:
        """The vector that heads see: bias, hidden, real-time features."""
        hidden = [f"hidden_{i}" for i in range(self.hidden_size)]
        return ["bias", *hidden, *self.real_time_names]


def read(data: bytes, key: bytes | None) -> Weights | Refused:
    """The weights in a record of the weights topic, or why they are none."""
    try:
        weights = decode_weights(data)
    except WeightsError as error:
        return Refused("undecodable" if _schema_version(data) == SCHEMA_VERSION else "schema", str(error))
    if key != weights.key:
        # Compaction would keep it beside, or instead of, another source's weights.
        return Refused("key", f"the record's key is {key!r}, its message's {weights.key!r}")
    return weights


def check(weights: Weights, own: Identity, current: Mapping[str, Weights]) -> Refused | None:
    """Why ``weights`` cannot serve beside ``current`` (by source), or None."""
    if weights.schema_version != SCHEMA_VERSION:
        return Refused(
            "schema", f"schema version {weights.schema_version}, this build reads {SCHEMA_VERSION}"
        )
    if weights.trunk_hash != own.trunk_hash:
        return Refused(
            "trunk_hash", f"made for trunk {weights.trunk_hash!r}, this scorer has {own.trunk_hash!r}"
        )
    wrong = _wrong_features(weights.feature_names, own.feature_names)
    if wrong:
        return Refused("feature_list", wrong)
    if weights.features_hash != own.features_hash:
        return Refused(
            "features_hash",
            f"made for features {weights.features_hash[:12]!r}, this scorer has {own.features_hash[:12]!r}: "
            "the scenarios of worker and serving declare other features",
        )
    head = weights.heads.get(TASK)
    if head is None:
        return Refused("head", f"no head {TASK!r}")
    refused = _wrong_head(head, len(weights.feature_names))
    if refused:
        return refused
    had = current.get(weights.source)
    if had is not None and weights.version <= had.version:
        return Refused(
            "stale", f"version {weights.version} of {weights.source!r}, version {had.version} serves"
        )
    return None


def _wrong_features(names: Sequence[str], own: Sequence[str]) -> str:
    if len(names) != len(own):
        return f"{len(names)} features, this scorer has {len(own)}"
    for i, (theirs, ours) in enumerate(zip(names, own, strict=True)):
        if theirs != ours:
            return f"feature {i} is {theirs!r}, this scorer's is {ours!r}"
    return ""


def _wrong_head(head: Head, size: int) -> Refused | None:
    parts: dict[str, npt.NDArray[np.float64]] = {}
    triangle = size * (size + 1) // 2
    for name in ("precision", "prior_precision"):
        try:
            parts[name] = np.frombuffer(base64.b64decode(getattr(head, name), validate=True), dtype="<f8")
        except ValueError as error:
            return Refused("head", f"{name}: {error}")
        if len(parts[name]) != triangle:
            return Refused("head", f"{name} has {len(parts[name])} entries, {size} features need {triangle}")
    for name in ("mean", "prior_mean"):
        parts[name] = np.asarray(getattr(head, name), dtype=np.float64)
        if parts[name].shape != (size,):
            return Refused("head", f"{name} has {len(parts[name])} entries, {size} features need {size}")
    for name, part in parts.items():
        if not np.isfinite(part).all():
            return Refused("not_finite", f"{name} is not finite")
    if (parts["prior_precision"][_diagonal(size)] <= 0).any():
        return Refused("head", "prior_precision must be above 0")
    return None


def _diagonal(size: int) -> npt.NDArray[np.intp]:
    """Where the diagonal stands in an upper triangle, row by row."""
    return np.concatenate([[0], np.cumsum(np.arange(size, 1, -1))]).astype(np.intp)


class _OnlySchema(msgspec.Struct):
    schema_version: int = SCHEMA_VERSION


def _schema_version(data: bytes) -> int:
    try:
        return msgspec.json.decode(data, type=_OnlySchema).schema_version
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return SCHEMA_VERSION
