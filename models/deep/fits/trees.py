"""Train trees with LightGBM: as many rounds as help on the newest part of the log, then on all of it."""

from __future__ import annotations

import os
from typing import Any

import lightgbm as lgb
import numpy as np

from models.deep.fitted import SAME_SCORE, Fitted, Options, auc, log_loss
from models.deep.kinds.trees import FIELDS, Forest, Settings, inputs
from models.deep.manifest import Reads
from models.deep.samples import Float32Array, Samples, scaling, varying_numbers

UNITS = 32
MAX_ROUNDS = 1500
#: Rounds without progress on the newest part until training stops.
PATIENCE = 50
#: Rows that a leaf must have: this share of the log, within limits.
LEAVES_OF_DATA, LEAST_LEAF, LARGEST_LEAF = 800, 20, 200
#: Rows from which on several threads pay.
MANY = 50_000
#: Rows from which on each round sees a part of them only.
LEAST_BAGGED = 100
PARAMETERS: dict[str, Any] = {
    "objective": "binary",
    "learning_rate": 0.03,
    "num_leaves": 31,
    "feature_fraction": 0.3,
    "lambda_l2": 10.0,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    # The same trees whatever the number of threads.
    "deterministic": True,
    "force_row_wise": True,
    "use_missing": False,
    "verbosity": -1,
}


def fit(samples: Samples, options: Options) -> Fitted:
    """Deterministic for one seed and version of LightGBM."""
    train, valid = samples.held_out(options.validation_share)
    fields = [name for name in varying_numbers(train) if name in FIELDS]
    read, read_valid, read_all = (_inputs(part, fields) for part in (train, valid, samples))
    parameters = PARAMETERS | {
        "seed": options.seed,
        "min_data_in_leaf": min(max(len(train) // LEAVES_OF_DATA, LEAST_LEAF), LARGEST_LEAF),
        "num_threads": len(os.sched_getaffinity(0)) if len(train) >= MANY else 1,
    }
    if len(train) < LEAST_BAGGED:
        parameters["bagging_freq"] = 0
    found = lgb.train(
        parameters,
        lgb.Dataset(read, train.clicked),
        num_boost_round=options.epochs or MAX_ROUNDS,
        valid_sets=[lgb.Dataset(read_valid, valid.clicked)],
        callbacks=[lgb.early_stopping(PATIENCE, verbose=False)],
    )
    logits = np.asarray(found.predict(read_valid, raw_score=True), dtype=np.float64)
    rounds = max(found.best_iteration, 1)
    booster = lgb.train(parameters, lgb.Dataset(read_all, samples.clicked), num_boost_round=rounds)
    trees = parse(booster.model_to_string())
    units = min(options.hidden_size or UNITS, len(trees))
    forest = flatten(trees, units)
    sums = forest.sums(read_all[-50_000:], units)
    center = sums.mean(axis=0)
    normal = scaling(samples.features)
    return Fitted(
        kind="trees",
        hidden_size=units,
        reads=Reads(
            fields=fields,
            features=list(samples.feature_names),
            features_hash=samples.features_hash,
            feature_mean=normal.mean.tolist(),
            feature_scale=normal.scale.tolist(),
        ),
        settings=Settings(),
        tensors={name: getattr(forest, name) for name in Forest.__struct_fields__}
        | {
            "center": center,
            "factor": np.ones(units),
            "head.weight": np.ones(units),
            "head.bias": np.array([center.sum()]),
        },
        epochs=rounds,
        validation_rows=len(valid),
        validation_clicks=int(valid.clicked.sum()),
        validation_auc=auc(logits, valid.clicked),
        validation_log_loss=log_loss(logits, valid.clicked),
        constant=float(np.ptp(sums.sum(axis=1))) < SAME_SCORE,
        library=f"lightgbm {lgb.__version__}",
    )


def _inputs(samples: Samples, fields: list[str]) -> Float32Array:
    features = samples.features if samples.feature_names else None
    read = inputs(samples.columns, len(samples), features, fields)
    # LightGBM wants a column; one that is constant makes trees of one leaf.
    return read if read.shape[1] else np.zeros((len(samples), 1), dtype=np.float32)


def parse(text: str) -> list[dict[str, list[str]]]:
    """The trees of a LightGBM model file, each a list of numbers a name.

    >>> parse("tree\\n\\nTree=0\\nnum_leaves=2\\nleaf_value=0.5 -1\\n\\nend of trees\\n")
    [{'num_leaves': ['2'], 'leaf_value': ['0.5', '-1']}]
    """
    trees = []
    for block in text.partition("\nend of trees")[0].split("\nTree=")[1:]:
        pairs = (line.partition("=") for line in block.splitlines()[1:] if line)
        trees.append({name: value.split() for name, _, value in pairs})
    return trees


def flatten(trees: list[dict[str, list[str]]], units: int) -> Forest:
    """One forest of LightGBM's trees, in ``units`` groups of consecutive ones, as equal as they can be."""
    column: list[int] = []
    threshold: list[float] = []
    children: dict[str, list[int]] = {"left_child": [], "right_child": []}
    leaf: list[float] = []
    root: list[int] = []
    for tree in trees:
        node, first_leaf = len(column), len(leaf)
        leaf += map(float, tree["leaf_value"])
        inner = len(tree.get("split_feature", ()))
        root.append(node if inner else ~first_leaf)
        column += map(int, tree.get("split_feature", ()))
        threshold += map(float, tree.get("threshold", ()))
        for side, numbers in children.items():
            given = map(int, tree.get(side, ()))
            numbers += [node + k if k >= 0 else ~(first_leaf + ~k) for k in given]
    unit = np.arange(len(trees)) * units // len(trees)
    return Forest(
        column=np.array(column, dtype=np.int32),
        threshold=floor32(np.array(threshold, dtype=np.float64)),
        left=np.array(children["left_child"], dtype=np.int32),
        right=np.array(children["right_child"], dtype=np.int32),
        leaf=np.array(leaf, dtype=np.float64),
        root=np.array(root, dtype=np.int32),
        unit=unit.astype(np.int32),
    )


def floor32(numbers: np.ndarray) -> Float32Array:
    """The largest float32 that is not above each number: x <= number is the same for every float32 x.

    >>> float(floor32(np.array([0.1]))[0]) <= 0.1 < float(np.nextafter(floor32(np.array([0.1]))[0], 1))
    True
    """
    near = numbers.astype(np.float32)
    down: Float32Array = np.nextafter(near, np.float32(-np.inf))
    return np.where(near.astype(np.float64) > numbers, down, near)
