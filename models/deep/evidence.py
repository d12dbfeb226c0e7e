"""What training told of a trunk's head: how sharply the log loss of its samples is curved there.

The Laplace approximation of the posterior that training leaves behind (MacKay 1992, "A practical Bayesian
framework for backpropagation networks", with the hidden layer held fixed): ``H = Z' S Z`` over
``z = [1 | hidden | normalised features]``, ``S = p (1 - p)``. Online learning takes a share of it into its
prior, because the trunk was fitted to the same samples and so H says more than a new log would.
"""

from __future__ import annotations

import numpy as np

from models.deep.samples import Samples
from models.deep.trunk import FloatArray, Trunk

#: Rows that are worked out at once.
CHUNK_ROWS = 16_384


def head_evidence(trunk: Trunk, samples: Samples) -> FloatArray:
    """H (p, p) of ``samples`` at the trunk's frozen head, p = 1 + hidden units + features that it reads."""
    q = len(trunk.feature_names)
    found = np.zeros((1 + trunk.hidden_size + q,) * 2)
    for begin in range(0, len(samples), CHUNK_ROWS):
        rows = slice(begin, min(begin + CHUNK_ROWS, len(samples)))
        n = rows.stop - rows.start
        features = samples.features[rows] if q else np.zeros((n, 0), dtype=np.float32)
        hidden = trunk.hidden({name: column[rows] for name, column in samples.columns.items()}, n, features)
        z = np.empty((n, len(found)))
        z[:, 0], z[:, 1 : 1 + trunk.hidden_size] = 1.0, hidden
        z[:, 1 + trunk.hidden_size :] = trunk.normalise(features)
        p = 1.0 / (1.0 + np.exp(-trunk.frozen_logit(hidden)))
        z *= np.sqrt(p * (1.0 - p))[:, None]
        found += z.T @ z
    return found
