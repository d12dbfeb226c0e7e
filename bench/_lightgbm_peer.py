"""Peer: LightGBM on the engine's own as-of features, once frozen in time and once with hindsight."""

from __future__ import annotations

import lightgbm as lgb
import numpy as np
import numpy.typing as npt

from bench._registry import BenchError
from bench._rows import BoolArray, FloatArray, IntArray

Inputs = npt.NDArray[np.float32]

MOST_ROUNDS, PATIENCE = 500, 25
#: Rounds of the cross-fitted trees, which have no later rows to stop at; twice as many measured worse.
ROUNDS = 100
FOLDS = 5


def _parameters(seed: int) -> dict[str, object]:
    return {
        "objective": "binary",
        "learning_rate": 0.1,
        "num_leaves": 31,
        "min_data_in_leaf": 50,
        "feature_fraction": 0.7,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "deterministic": True,
        "force_row_wise": True,
        # More threads wait for each other at every leaf, and on a busy machine longer than they work.
        "num_threads": 1,
        "verbosity": -1,
        "seed": seed,
    }


def frozen(inputs: Inputs, clicked: BoolArray, cut: int, seed: int = 0) -> FloatArray:
    """Fit on the first ``cut`` rows, then predict all (n,). Rounds: by the newest fifth of those rows."""
    if cut < 10 or not clicked[:cut].any() or clicked[:cut].all():
        raise BenchError("too few rows to fit trees to before the evaluated stretch")
    held = cut - cut // 5
    train = lgb.Dataset(inputs[:held], clicked[:held].astype(np.float64), free_raw_data=False)
    newest = lgb.Dataset(inputs[held:cut], clicked[held:cut].astype(np.float64), reference=train)
    stop = lgb.early_stopping(PATIENCE, verbose=False)
    parameters = _parameters(seed)
    tried = lgb.train(parameters, train, MOST_ROUNDS, valid_sets=[newest], callbacks=[stop])
    every = lgb.Dataset(inputs[:cut], clicked[:cut].astype(np.float64))
    model = lgb.train(parameters, every, max(tried.best_iteration, 1))
    return np.asarray(model.predict(inputs), dtype=np.float64)


def cross_fitted(inputs: Inputs, clicked: BoolArray, users: IntArray, seed: int = 0) -> FloatArray:
    """Every row (n,) predicted by trees that saw the whole stretch, its future included, of other users."""
    fold = np.random.default_rng(seed).permutation(int(users.max(initial=0)) + 1)[users] % FOLDS
    found = np.zeros(len(users))
    for number in range(FOLDS):
        out = fold == number
        train = lgb.Dataset(inputs[~out], clicked[~out].astype(np.float64))
        found[out] = np.asarray(lgb.train(_parameters(seed), train, ROUNDS).predict(inputs[out]))
    return found
