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
#: Rows that go through a tree together: they and the tree stay in the processor's cache.
_BLOCK = 64


class Settings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Trees have none: their tensors say all."""


class Forest(msgspec.Struct):
    """All trees in flat arrays. Inner node k: rows with input ``column[k]`` <= ``threshold[k]`` go to
    ``left[k]``, others to ``right[k]``; a number below 0 is the leaf ``~number`` of ``leaf`` (float64).
    ``root`` (T,): where a tree begins. ``unit`` (T,): the unit that it belongs to.
    """

    column: Int32Array
    threshold: Float32Array
    left: Int32Array
    right: Int32Array
    leaf: FloatArray
    root: Int32Array
    unit: Int32Array

    def sums(self, inputs: Float32Array, units: int) -> FloatArray:
        """What each unit's trees add up to (n, units), in the order of the trees."""
        out = np.zeros((len(inputs), units))
        walk = _walk if COMPILED else walk_in_numpy
        walk(
            inputs,
            self.column,
            self.threshold,
            self.left,
            self.right,
            self.leaf,
            self.root,
            self.unit,
            _BLOCK,
            out,
        )
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
    nodes, leaves, trees = (
        len(tensors[name]) if name in tensors else 0 for name in ("column", "leaf", "root")
    )
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("column", "threshold", "left", "right"), (nodes,))
    shapes |= {"leaf": (leaves,), "root": (trees,), "unit": (trees,), "head.bias": (1,)}
    shapes |= dict.fromkeys(("center", "factor", "head.weight"), (units,))
    check_tensors(tensors, shapes, path)
    types = {"threshold": np.float32, "leaf": np.float64}
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
    for name, numbers in (("left", forest.left), ("right", forest.right), ("root", forest.root)):
        after = own if name != "root" else -1
        if not np.where(
            numbers < 0, ~numbers < len(forest.leaf), (numbers > after) & (numbers < nodes)
        ).all():
            raise TrunkError(f"{path}: {name} leads to no later node and to no leaf")
    if not ((forest.unit >= 0) & (forest.unit < units)).all():
        raise TrunkError(f"{path}: unit names a unit that there is not")


@kernel
def _walk(inputs, column, threshold, left, right, leaf, root, unit, block, out):  # type: ignore[no-untyped-def]
    n = len(inputs)
    for begin in range(0, n, block):
        end = min(begin + block, n)
        for tree in range(len(root)):
            for i in range(begin, end):
                node = root[tree]
                while node >= 0:
                    node = left[node] if inputs[i, column[node]] <= threshold[node] else right[node]
                out[i, unit[tree]] += leaf[~node]


def walk_in_numpy(
    inputs: Float32Array,
    column: Int32Array,
    threshold: Float32Array,
    left: Int32Array,
    right: Int32Array,
    leaf: FloatArray,
    root: Int32Array,
    unit: Int32Array,
    block: int,
    out: FloatArray,
) -> None:
    """The kernel's sums, all rows a step: the form for where there is no compiler."""
    rows = np.arange(len(inputs))
    for tree in range(len(root)):
        node = np.full(len(inputs), root[tree])
        going = rows[node >= 0]
        while len(going):
            at = node[going]
            node[going] = np.where(inputs[going, column[at]] <= threshold[at], left[at], right[at])
            going = going[node[going] >= 0]
        out[:, unit[tree]] += leaf[~node]
