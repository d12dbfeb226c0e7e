"""Peer: Vowpal Wabbit's logistic regression over hashed features, predicting before it learns."""

from __future__ import annotations

import numpy as np
import polars as pl
from vowpalwabbit import Workspace

from bench._rows import BoolArray, FloatArray, Step

#: Its two usual learners; the rates are its defaults, which measured best.
LEARNERS = {"ftrl": "--ftrl", "adaptive": ""}
ALWAYS = "--loss_function logistic --link logistic -b 22 --quiet"


def lines(features: pl.DataFrame) -> list[str]:
    """Each row as VW's text without a label: one namespace, one categorical feature a column."""
    parts = [
        pl.concat_str(pl.lit(f"{name}="), pl.col(name).cast(pl.String).str.replace_all(r"[\s:|]+", "_"))
        for name in features.columns
    ]
    return features.select(pl.concat_str(pl.lit("|f"), *parts, separator=" ").alias("line"))["line"].to_list()


def predict(features: pl.DataFrame, clicked: BoolArray, steps: list[Step], learner: str) -> FloatArray:
    """Probabilities (n,), each made before the row was learned. ``learner``: a key of ``LEARNERS``."""
    texts = lines(features)
    labels = np.where(clicked, "1 ", "-1 ").tolist()
    model = Workspace(f"{LEARNERS[learner]} {ALWAYS}".strip())
    found = np.zeros(len(texts))
    done = 0
    try:
        for step in steps:
            for row in range(done, step.learned):
                model.learn(labels[row] + texts[row])
            done = max(done, step.learned)
            for row in range(step.begin, step.end):
                found[row] = model.predict(texts[row])
    finally:
        model.finish()
    return found
