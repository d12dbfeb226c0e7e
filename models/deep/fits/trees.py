"""Train trees with LightGBM: as many rounds as help on the newest part of the log, then on all of it."""

from __future__ import annotations

import os
from collections import deque
from typing import Any

import lightgbm as lgb
import numpy as np

from models.deep.fitted import SAME_SCORE, Fitted, Options, auc, log_loss
from models.deep.kinds.trees import FIELDS, Forest, Settings, inputs
from models.deep.manifest import Reads
from models.deep.samples import Float32Array, Samples, scaling, varying_numbers

UNITS = 32
MAX_ROUNDS = 2000
#: Rounds without progress on the newest part until training stops.
PATIENCE = 50
#: Rows that a leaf must have: this share of the log, within limits.
LEAVES_OF_DATA, LEAST_LEAF, LARGEST_LEAF = 800, 20, 200
#: Rows from which on several threads pay: half of the processors. Threads wait for each other by spinning;
#: where other work ran, all of them took more than four times as long as one.
MANY = 50_000
#: Rows from which on each round sees a part of them only.
LEAST_BAGGED = 100
PARAMETERS: dict[str, Any] = {
    "objective": "binary",
    "learning_rate": 0.02,
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
    if not fields and not samples.feature_names:
        # Trees read something, even if it never varies: then each is a single leaf.
        fields = ["position"]
    read, read_valid, read_all = (_inputs(part, fields) for part in (train, valid, samples))
    parameters = PARAMETERS | {
        "seed": options.seed,
        "min_data_in_leaf": min(max(len(train) // LEAVES_OF_DATA, LEAST_LEAF), LARGEST_LEAF),
        "num_threads": max((os.cpu_count() or 1) // 2, 1) if len(train) >= MANY else 1,
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
    return inputs(samples.columns, len(samples), features, fields)


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
    after: list[int] = []
    value: list[float] = []
    root: list[int] = []

    def leaves(count: int) -> int:
        """New nodes, for now leaves; the number of the first."""
        first = len(column)
        column.extend([0] * count)
        threshold.extend([0.0] * count)
        after.extend(range(first, first + count))
        value.extend([0.0] * count)
        return first

    for tree in trees:
        root.append(leaves(1))
        # A node here, and its number in LightGBM's tree: below 0 for the leaf ~number.
        waiting = deque([(root[-1], 0 if tree.get("split_feature") else ~0)])
        while waiting:
            node, number = waiting.popleft()
            if number < 0:
                value[node] = float(tree["leaf_value"][~number])
                continue
            column[node] = int(tree["split_feature"][number])
            threshold[node] = float(tree["threshold"][number])
            after[node] = leaves(2)
            waiting.append((after[node], int(tree["left_child"][number])))
            waiting.append((after[node] + 1, int(tree["right_child"][number])))
    unit = np.arange(len(trees)) * units // len(trees)
    return Forest(
        column=np.array(column, dtype=np.int32),
        threshold=floor32(np.array(threshold, dtype=np.float64)),
        after=np.array(after, dtype=np.int32),
        value=np.array(value, dtype=np.float64),
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
