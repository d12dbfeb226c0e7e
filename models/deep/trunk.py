"""What a trunk is, whatever its kind: from columns and real-time features to the last hidden layer.

A kind is a class in a file of its own in ``models/deep/kinds/``; none needs torch or LightGBM.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from features.compiled import COMPILED, kernel
from models.deep.fields import Columns
from models.deep.manifest import Manifest, Reads, Training, TrunkError

__all__ = ["Trunk", "TrunkError"]

Float32Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]
Tensors = dict[str, npt.NDArray[np.generic]]

#: Click rate of the head without a trunk.
EMPTY_BASE_RATE = 0.02
#: The tensor of what training told of the head.
EVIDENCE = "head.evidence"
#: A standardised feature beyond this counts as this: one odd row must not outweigh all others.
LARGEST_NORMALISED = np.float32(8.0)


class Trunk:
    """The frozen deep model up to its last hidden layer (d = ``hidden_size``), and its frozen head.

    ``fields``: the columns that it reads. ``feature_names``: the real-time features that it reads, in the
    order of the plan with ``features_hash``; none for a trunk of ids alone. ``head_weight`` (d,) and
    ``head_bias`` are the head as it was trained; online learning starts there. ``head_evidence`` (p, p) over
    [bias | hidden | features that it reads]: what training told of the head, see ``models.deep.evidence``;
    zero where nothing is known. ``training`` says on what.

    This class itself is the trunk that there is without one: d = 0, and a base rate.

    >>> trunk = Trunk.empty()
    >>> trunk.hidden({}, 2).shape, round(trunk.head_bias, 2)
    ((2, 0), -3.89)
    """

    kind = "none"
    hash = "none"
    hidden_size = 0
    fields: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    features_hash = ""
    training: Training | None = None
    #: Whether ``hidden`` asks for contexts as they came (training, which looks what there is).
    reads_every_context = False
    head_weight: FloatArray
    head_bias: float
    head_evidence: FloatArray

    def __init__(self) -> None:
        self.head_weight = np.zeros(0)
        self.head_bias = float(np.log(EMPTY_BASE_RATE / (1.0 - EMPTY_BASE_RATE)))
        self.head_evidence = np.zeros((1, 1))
        self._normalise(Reads())

    @classmethod
    def empty(cls) -> Trunk:
        """No trunk: d = 0, and a frozen head that always predicts ``EMPTY_BASE_RATE``."""
        return Trunk()

    def check_features(self, names: Sequence[str], features_hash: str) -> None:
        """Raises ``TrunkError`` where a plan is not the one whose features the trunk was trained on."""
        if not self.feature_names or self.features_hash == features_hash:
            return
        ours, theirs = set(self.feature_names), set(names)
        parts = [
            f"{what} {', '.join(sorted(some)[:5])}{f' and {len(some) - 5} more' if len(some) > 5 else ''}"
            for what, some in (("it has not seen", theirs - ours), ("there is no", ours - theirs))
            if some
        ]
        raise TrunkError(
            f"trunk {self.hash[:12]} was trained on other features than the scenario declares: "
            f"{'; '.join(parts) or 'the same names with other settings'}. Train it again with `surgeline "
            "train`, or go back to the declarations that it was trained with"
        )

    def hidden(self, columns: Columns, n: int, features: Float32Array | None = None) -> Float32Array:
        """The last hidden layer (n, d) float32 of ``n`` impressions, each row a function of itself alone.

        ``columns``: those of ``fields``: ids as texts or as keys (uint64), ``position`` (0 is first),
        ``price``, ``event_time`` (ms UTC, for the hour), and ``context`` (dicts or None) or
        ``context.<key>``. Unknown ids count as no id. ``features`` (n, q): in the order of
        ``feature_names``; raises ``TrunkError`` where the trunk needs them and they are of another shape.
        """
        return np.zeros((n, 0), dtype=np.float32)

    def frozen_logit(self, hidden: Float32Array) -> FloatArray:
        """The frozen head's log odds (n,)."""
        logits: FloatArray = hidden @ self.head_weight + self.head_bias
        return logits

    def normalise(self, features: Float32Array) -> Float32Array:
        """Features (n, q) with mean 0 and deviation 1 where the trunk was trained, cut off far outside.

        As they are for a trunk that reads none: it has not seen any.
        """
        if not self.feature_names:
            return features
        out = np.empty_like(features)
        self._normalise_into(features, out)
        return out

    def _normalise_into(self, features: Float32Array, out: Float32Array) -> None:
        """As ``normalise``, into the rows ``out`` (n, q)."""
        if COMPILED:
            _normalised(features, self.feature_mean, self._feature_factor, LARGEST_NORMALISED, out)
        else:
            scaled = (features - self.feature_mean) * self._feature_factor
            np.clip(scaled, -LARGEST_NORMALISED, LARGEST_NORMALISED, out=out)

    def _take(self, manifest: Manifest, tensors: Tensors) -> None:
        """What every kind has from its files, once they are checked."""
        self.kind, self.hash = manifest.kind, manifest.trunk_hash
        self.hidden_size = manifest.hidden_size
        self.training = manifest.training
        self.fields = tuple(manifest.reads.fields)
        self.feature_names = tuple(manifest.reads.features)
        self.features_hash = manifest.reads.features_hash
        self.head_weight = tensors["head.weight"].astype(np.float64)
        self.head_bias = float(tensors["head.bias"][0])
        size = 1 + self.hidden_size + len(self.feature_names)
        self.head_evidence = tensors.get(EVIDENCE, np.zeros((size, size))).astype(np.float64)
        self._normalise(manifest.reads)

    def _normalise(self, reads: Reads) -> None:
        self.feature_mean: Float32Array = np.array(reads.feature_mean, dtype=np.float32)
        self.feature_scale: Float32Array = np.array(reads.feature_scale, dtype=np.float32)
        self._feature_factor = np.float32(1.0) / self.feature_scale

    def _checked(self, features: Float32Array | None, n: int) -> Float32Array:
        """The features that ``hidden`` was given."""
        shape = (n, len(self.feature_names))
        if features is None or features.shape != shape:
            got = "none" if features is None else f"{features.shape}"
            raise TrunkError(f"trunk {self.hash[:12]} reads real-time features {shape}, given are {got}")
        return features


@kernel
def _normalised(features, mean, factor, largest, out):  # type: ignore[no-untyped-def]
    for i in range(features.shape[0]):
        for k in range(features.shape[1]):
            scaled = (features[i, k] - mean[k]) * factor[k]
            out[i, k] = min(max(scaled, -largest), largest)


def check_tensors(tensors: Tensors, shapes: dict[str, tuple[int, ...]], path: Path) -> None:
    """Raises ``TrunkError`` for a tensor that is missing, of another shape, or not finite."""
    for name, shape in shapes.items():
        if name not in tensors:
            raise TrunkError(f"{path}: no tensor {name}")
        if tensors[name].shape != shape:
            raise TrunkError(f"{path}: {name} has shape {tensors[name].shape}, the manifest needs {shape}")
        if tensors[name].dtype.kind == "f" and not np.isfinite(tensors[name].astype(np.float64)).all():
            raise TrunkError(f"{path}: {name} is not finite")
