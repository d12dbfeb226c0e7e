"""The manifest beside a trunk's weights: its kind, what it reads, how that is scaled, how it was trained."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

import msgspec

from contracts.errors import SurgelineError

#: 3: kinds of trunk, real-time features, ids as 64-bit keys. Earlier ones read ids by crc32 and no features.
SCHEMA_VERSION = 3
MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "trunk.safetensors"

Size = Annotated[int, msgspec.Meta(ge=1, le=65_536)]
Scale = Annotated[float, msgspec.Meta(gt=0.0)]


class TrunkError(SurgelineError, ValueError):
    """A trunk folder cannot be used; the message names the file and what is wrong."""


class Reads(msgspec.Struct, kw_only=True, frozen=True):
    """What a trunk reads of an impression.

    ``fields``: columns, in order: ids, ``context.<key>``, ``position``, ``hour``, ``price``. ``price_mean``
    and ``price_scale`` standardise log(1 + price). ``features``: names of the real-time features, in the
    order of the plan with ``features_hash``; both are empty where a trunk reads none. ``feature_mean`` and
    ``feature_scale`` (q,) standardise them.
    """

    fields: list[str] = []
    price_mean: float = 0.0
    price_scale: Scale = 1.0
    features: list[str] = []
    features_hash: str = ""
    feature_mean: list[float] = []
    feature_scale: list[Scale] = []


class Training(msgspec.Struct, kw_only=True, frozen=True):
    """How a trunk came about. Informative: none of it enters the trunk's hash.

    ``first_event_time`` and ``last_event_time`` (ms): of the impressions that it was fitted to.
    ``validation_*``: on the newest part of the log. ``constant``: every row gets the same score. ``epochs``:
    passes over the log, or rounds of trees. ``library``: what trained it, with its version.
    """

    log: str
    rows: int
    clicks: int
    first_event_time: int
    last_event_time: int
    label_window_s: float
    validation_rows: int
    validation_clicks: int
    validation_auc: float | None
    validation_log_loss: float
    constant: bool
    epochs: int
    seed: int
    library: str


class Manifest(msgspec.Struct, kw_only=True, frozen=True):
    """``settings``: what only the trunk's kind understands."""

    schema_version: int
    kind: str
    weights_sha256: str
    hidden_size: Size
    reads: Reads
    settings: dict[str, Any]
    training: Training | None = None

    @property
    def trunk_hash(self) -> str:
        """sha256 (hex) over the weights file's hash and all that changes the trunk's output."""
        relevant = msgspec.structs.replace(self, training=None)
        return hashlib.sha256(msgspec.json.encode(relevant, order="deterministic")).hexdigest()


class _Edition(msgspec.Struct):
    schema_version: int


def read_manifest(folder: Path) -> Manifest:
    """Raises ``TrunkError`` where the manifest is missing, malformed or of another schema version."""
    path = folder / MANIFEST_FILE
    try:
        data = path.read_bytes()
        version = msgspec.json.decode(data, type=_Edition).schema_version
        if version != SCHEMA_VERSION:
            raise TrunkError(
                f"{path}: schema version {version}, this build reads {SCHEMA_VERSION}; "
                "train the trunk again with `surgeline train`"
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except OSError as error:
        raise TrunkError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise TrunkError(f"{path}: {error}") from error
    reads = manifest.reads
    if not len(reads.features) == len(reads.feature_mean) == len(reads.feature_scale):
        raise TrunkError(f"{path}: features, feature_mean and feature_scale must have one length")
    return manifest
