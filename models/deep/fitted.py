"""What training gives, whatever the kind, and how it is written to a folder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save as save_tensors

from models.deep.manifest import (
    MANIFEST_FILE,
    SCHEMA_VERSION,
    WEIGHTS_FILE,
    Manifest,
    Reads,
    Training,
)

#: Log odds that differ by less over all rows are one score with rounding.
SAME_SCORE = 1e-4


@dataclass(frozen=True)
class Options:
    """What every kind understands. ``hidden_size`` and ``epochs`` (rounds for trees): 0 for the kind's own.

    The newest ``validation_share`` of the log decides when to stop.
    """

    hidden_size: int = 0
    epochs: int = 0
    seed: int = 0
    validation_share: float = 0.15


@dataclass(frozen=True)
class Fitted:
    """A trained trunk as it will be written, and its figures on the newest part of the log.

    ``constant``: every row gets the same score: nothing that was read told clicks from no clicks.
    """

    kind: str
    hidden_size: int
    reads: Reads
    settings: msgspec.Struct
    tensors: dict[str, npt.NDArray[np.generic]]
    epochs: int
    validation_rows: int
    validation_clicks: int
    validation_auc: float | None
    validation_log_loss: float
    constant: bool
    library: str


def export(fitted: Fitted, folder: str | PathLike[str], training: Training | None = None) -> Manifest:
    """Write ``trunk.safetensors`` and ``manifest.json``. The same trunk has the same hash."""
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in sorted(fitted.tensors.items())}
    data = save_tensors(tensors)
    manifest = manifest_of(fitted, hashlib.sha256(data).hexdigest(), training)
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    # The manifest names the weights' hash, so a half-written pair is refused rather than used.
    (path / WEIGHTS_FILE).write_bytes(data)
    (path / MANIFEST_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    return manifest


def manifest_of(fitted: Fitted, weights_sha256: str, training: Training | None = None) -> Manifest:
    """What stands beside the weights."""
    return Manifest(
        schema_version=SCHEMA_VERSION,
        kind=fitted.kind,
        weights_sha256=weights_sha256,
        hidden_size=fitted.hidden_size,
        reads=fitted.reads,
        settings=msgspec.to_builtins(fitted.settings),
        training=training,
    )


def log_loss(logits: npt.NDArray[np.floating], clicked: npt.NDArray[np.bool_]) -> float:
    """Mean log loss of log odds.

    >>> round(log_loss(np.zeros(3), np.array([True, False, False])), 4)
    0.6931
    """
    wide = np.asarray(logits, dtype=np.float64)
    return float((np.logaddexp(0.0, wide) - clicked * wide).mean())


def auc(scores: npt.NDArray[np.floating], clicked: npt.NDArray[np.bool_]) -> float | None:
    """Exact AUC by ranks, ties counted half; None with one class only.

    >>> auc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]))
    0.875
    """
    positives = int(clicked.sum())
    negatives = len(clicked) - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - 0.5 * (counts - 1)
    won = ranks[inverse][clicked].sum() - positives * (positives + 1) / 2.0
    return float(won / (positives * negatives))
