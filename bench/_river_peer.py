"""Peer: River's hashed logistic regression by River's own API, predicting before it learns."""

from __future__ import annotations

import numpy as np
import polars as pl
from river import linear_model, optim, preprocessing

from bench._rows import BoolArray, FloatArray, Step

HASHED = 2**22


def predict(features: pl.DataFrame, clicked: BoolArray, steps: list[Step]) -> FloatArray:
    """Probabilities (n,), each made before the row was learned."""
    # Text is hashed as name=value: every column is a category, as Vowpal Wabbit takes them.
    texts = features.select(pl.all().cast(pl.String)).to_dicts()
    labels = clicked.tolist()
    hasher = preprocessing.FeatureHasher(HASHED, seed=0)
    # The bias gets the same steps as the weights; River's default for it (0.01) is too slow for rare clicks.
    model = hasher | linear_model.LogisticRegression(optim.AdaGrad(0.1), intercept_lr=0.1)
    found = np.zeros(len(texts))
    done = 0
    for step in steps:
        for row in range(done, step.learned):
            model.learn_one(texts[row], labels[row])
        done = max(done, step.learned)
        for row in range(step.begin, step.end):
            found[row] = model.predict_proba_one(texts[row]).get(True, 0.5)
    return found
