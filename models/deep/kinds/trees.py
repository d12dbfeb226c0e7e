"""Boosted trees as a hidden layer: a unit is what a group of consecutive trees says.

The idea is that of He et al. 2014 ("Practical lessons from predicting clicks on ads at Facebook", ADKDD):
trees make the features, a linear layer that is learned online weights them. There every leaf is an input;
here the leaf values of the k-th group of trees are added up to unit k, so that the head starts exactly at the
forest (weights that are 1 before scaling) and the online layer stays small: it says how much to trust each
stage of boosting.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from features.compiled import COMPILED, kernel
from models.deep.fields import Columns, log_position, scaled_log_price
from models.deep.manifest import Manifest, TrunkError
from models.deep.trunk import Float32Array, FloatArray, Tensors, Trunk, check_tensors

Int32Array = npt.NDArray[np.int32]

#: Fields that trees may read beside features.
FIELDS = ("position", "price")


class Settings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Trees have none: their tensors say all."""


class Forest(msgspec.Struct):
    """All trees in flat arrays. From node k, rows with input ``column[k]`` <= ``threshold[k]`` go to node
    ``after[k]``, others to ``after[k] + 1``. A leaf has itself after it, and its ``value`` counts (float64).
    ``root`` (T,): where a tree begins. ``unit`` (T,): the unit that it belongs to.
    """

    column: Int32Array
    threshold: Float32Array
    after: Int32Array
    value: FloatArray
    root: Int32Array
    unit: Int32Array

    def sums(self, inputs: Float32Array, units: int) -> FloatArray:
        """What each unit's trees add up to (n, units), in the order of the trees."""
        out = np.zeros((len(inputs), units))
        # At a leaf every row goes to where it is.
        leaf = self.after == np.arange(len(self.after))
        threshold = np.where(leaf, np.float32(np.inf), self.threshold)
        walk = _walk if COMPILED else walk_in_numpy
        walk(inputs, self.column, threshold, self.after, self.value, self.root, self.unit, out)
        return out


class TreesTrunk(Trunk):
    """Hidden units have mean 0 where they were trained, and the head's bias has what they had."""

    def __init__(self, manifest: Manifest, tensors: Tensors) -> None:
        self._take(manifest, tensors)
        self._forest = forest_of(tensors)
        self._center: FloatArray = tensors["center"].astype(np.float64)
        self._factor: FloatArray = tensors["factor"].astype(np.float64)

    def hidden(self, columns: Columns, n: int, features: Float32Array | None = None) -> Float32Array:
        """As ``Trunk.hidden`` says."""
        given = self._checked(features, n) if self.feature_names else None
        sums = self._forest.sums(inputs(columns, n, given, self.fields), self.hidden_size)
        sums -= self._center
        sums *= self._factor
        return sums.astype(np.float32)


def inputs(
    columns: Columns, n: int, features: Float32Array | None, fields: tuple[str, ...] | list[str]
) -> Float32Array:
    """What trees read (n, q + fields), contiguous: features, then the log position and the log price."""
    q = 0 if features is None else features.shape[1]
    read = np.empty((n, q + len(fields)), dtype=np.float32)
    if features is not None:
        read[:, :q] = features
    for k, field in enumerate(fields):
        read[:, q + k] = (
            log_position(columns["position"]) if field == "position" else scaled_log_price(columns["price"])
        )
    return read


def forest_of(tensors: Tensors) -> Forest:
    """The forest in a trunk's tensors, which have its arrays' names."""
    return Forest(*(tensors[name] for name in Forest.__struct_fields__))  # type: ignore[arg-type]


def build(manifest: Manifest, tensors: Tensors, path: Path) -> TreesTrunk:
    """Raises ``TrunkError`` where manifest and tensors (of ``path``) do not fit together."""
    reads, units = manifest.reads, manifest.hidden_size
    try:
        msgspec.convert(manifest.settings, Settings)
    except msgspec.ValidationError as error:
        raise TrunkError(f"{path.parent}: the manifest's settings: {error}") from error
    if foreign := [field for field in reads.fields if field not in FIELDS]:
        raise TrunkError(f"{path.parent}: trees cannot read {foreign[0]!r}; allowed are {', '.join(FIELDS)}")
    nodes, trees = (len(tensors[name]) if name in tensors else 0 for name in ("column", "root"))
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("column", "threshold", "after", "value"), (nodes,))
    shapes |= {"root": (trees,), "unit": (trees,), "head.bias": (1,)}
    shapes |= dict.fromkeys(("center", "factor", "head.weight"), (units,))
    check_tensors(tensors, shapes, path)
    types = {"threshold": np.float32, "value": np.float64}
    for name in Forest.__struct_fields__:
        if tensors[name].dtype != types.get(name, np.int32):
            raise TrunkError(f"{path}: {name} is of type {tensors[name].dtype}")
    _check(forest_of(tensors), len(reads.features) + len(reads.fields), units, path)
    return TreesTrunk(manifest, tensors)


def _check(forest: Forest, inputs: int, units: int, path: Path) -> None:
    """A damaged forest must not be walked: it could read elsewhere, or walk for ever."""
    nodes = len(forest.column)
    own = np.arange(nodes)
    if not ((forest.column >= 0) & (forest.column < inputs)).all():
        raise TrunkError(f"{path}: column names an input that there is not")
    if not ((forest.after == own) | ((forest.after > own) & (forest.after < nodes - 1))).all():
        raise TrunkError(f"{path}: after leads to no later node")
    if not ((forest.root >= 0) & (forest.root < nodes)).all():
        raise TrunkError(f"{path}: root leads to no node")
    if not ((forest.unit >= 0) & (forest.unit < units)).all():
        raise TrunkError(f"{path}: unit names a unit that there is not")


@kernel
def _walk(inputs, column, threshold, after, value, root, unit, out):  # type: ignore[no-untyped-def]
    n = len(inputs)
    whole = n - n % 4
    # Four rows go through a tree side by side and without a branch: their steps wait for memory together.
    for i in range(0, whole, 4):
        for tree in range(len(root)):
            a = b = c = d = root[tree]
            while True:
                e = after[a] + (inputs[i, column[a]] > threshold[a])
                f = after[b] + (inputs[i + 1, column[b]] > threshold[b])
                g = after[c] + (inputs[i + 2, column[c]] > threshold[c])
                h = after[d] + (inputs[i + 3, column[d]] > threshold[d])
                if a == e and b == f and c == g and d == h:
                    break
                a, b, c, d = e, f, g, h
            k = unit[tree]
            out[i, k] += value[a]
            out[i + 1, k] += value[b]
            out[i + 2, k] += value[c]
            out[i + 3, k] += value[d]
    for i in range(whole, n):
        for tree in range(len(root)):
            a = root[tree]
            e = after[a] + (inputs[i, column[a]] > threshold[a])
            while a != e:
                a = e
                e = after[a] + (inputs[i, column[a]] > threshold[a])
            out[i, unit[tree]] += value[a]


def walk_in_numpy(
    inputs: Float32Array,
    column: Int32Array,
    threshold: Float32Array,
    after: Int32Array,
    value: FloatArray,
    root: Int32Array,
    unit: Int32Array,
    out: FloatArray,
) -> None:
    """The kernel's sums, all rows a step: the form for where there is no compiler."""
    for tree in range(len(root)):
        node = np.full(len(inputs), root[tree])
        going = np.arange(len(inputs))
        while len(going):
            at = node[going]
            node[going] = after[at] + (inputs[going, column[at]] > threshold[at])
            going = going[node[going] != at]
        out[:, unit[tree]] += value[node]
