"""The manifest beside a trunk's weights: what the trunk reads, its sizes, and how it was trained."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import msgspec

from contracts.errors import SurgelineError

SCHEMA_VERSION = 2
MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "trunk.safetensors"

#: Fields of ids, each with an embedding; further ones are ``context.<key>``.
ID_FIELDS: tuple[str, ...] = ("user_id", "item_id", "category_id", "shop_id")
CONTEXT = "context."
#: Ids are hashed with crc32 into 2 ** BUCKET_BITS buckets; only trained buckets have a row.
BUCKET_BITS = 24

Size = Annotated[int, msgspec.Meta(ge=1, le=65_536)]


class TrunkError(SurgelineError, ValueError):
    """A trunk folder cannot be used; the message names the file and what is wrong."""


class Training(msgspec.Struct, kw_only=True, frozen=True):
    """How a trunk came about. Informative: none of it enters the trunk's hash."""

    log: str
    rows: int
    clicks: int
    first_event_time: int
    last_event_time: int
    label_window_s: float
    validation_rows: int
    validation_auc: float | None
    validation_log_loss: float
    epochs: int
    seed: int
    torch_version: str
    #: Not known of trunks that were trained before these were written.
    validation_clicks: int | None = None
    constant: bool | None = None


class Manifest(msgspec.Struct, kw_only=True, frozen=True):
    """``price_mean`` and ``price_scale`` standardise log(1 + price)."""

    schema_version: int
    weights_sha256: str
    fields: list[str]
    embedding_size: Size
    layer_size: Size
    hidden_size: Size
    position_buckets: Size
    price_mean: float
    price_scale: Annotated[float, msgspec.Meta(gt=0.0)]
    bucket_bits: Annotated[int, msgspec.Meta(ge=1, le=32)] = BUCKET_BITS
    training: Training | None = None

    @property
    def id_fields(self) -> list[str]:
        """The fields that are looked up by id, in order."""
        return [field for field in self.fields if field in ID_FIELDS or field.startswith(CONTEXT)]

    @property
    def trunk_hash(self) -> str:
        """sha256 (hex) over the weights file's hash and all that changes the trunk's output."""
        relevant = msgspec.structs.replace(self, training=None)
        return hashlib.sha256(msgspec.json.encode(relevant, order="deterministic")).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Raises ``TrunkError`` where the manifest is missing, malformed or of another schema version."""
    path = folder / MANIFEST_FILE
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise TrunkError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise TrunkError(f"{path}: {error}") from error
    if manifest.schema_version != SCHEMA_VERSION:
        raise TrunkError(
            f"{path}: schema version {manifest.schema_version}, this build reads {SCHEMA_VERSION}; "
            "train the trunk again"
        )
    allowed = (*ID_FIELDS, "position", "hour", "price")
    for field in manifest.fields:
        if field not in allowed and not field.startswith(CONTEXT):
            raise TrunkError(
                f"{path}: unknown field {field!r}; allowed are {', '.join(allowed)}, context.<key>"
            )
    return manifest
