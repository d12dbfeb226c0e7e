"""The first edition's scorer, as a process that is told its port and sizes.

It runs in a copy of that edition's own code, so that nothing here may be imported, and what is of that
edition is imported by name. Its features are 32 columns of four keys: not those of today's plan, but what
a request cost before them.
"""

from __future__ import annotations

import base64
import itertools
import sys
from importlib import import_module
from typing import Any

import numpy as np
from aiohttp import web

NOW = 1_700_000_000_000
HALF_LIVES_S = (60.0, 600.0, 3600.0)
SMOOTHING = 20.0
#: Rows that the view takes at once.
CHUNK = 1000


def app(items: int, users: int) -> web.Application:
    """The server of a scorer that knows a row of every entity and serves learned weights."""
    view = import_module("serving.feature_view").FeatureView(HALF_LIVES_S)
    records = iter(_rows(items, users))
    while part := list(itertools.islice(records, CHUNK)):
        view.apply(part)
    if view.refused:
        raise ValueError(f"rows were refused: {dict(view.refused)}")
    trunk = import_module("models.deep.trunk").Trunk.empty()
    scorer = import_module("serving.scorer").Scorer(trunk, view, SMOOTHING)
    result = scorer.offer(_weights(scorer))
    if not isinstance(result, import_module("serving.admission").Accepted):
        raise ValueError(result.detail)
    made: web.Application = import_module("serving.server").create_app(scorer)
    return made


def _rows(items: int, users: int) -> list[tuple[bytes, bytes]]:
    formulas, random = import_module("state.formulas"), np.random.default_rng(7)
    sizes = {"item": items, "user": users, "category": 50, "position": 1000, formulas.GLOBAL: 1}
    names = {
        table: [str(n) if table == "position" else f"{table}-{n}" for n in range(size)]
        for table, size in sizes.items()
    } | {formulas.GLOBAL: [formulas.GLOBAL_ENTITY]}
    row = np.dtype([("last", "<i8"), ("counts", "<f8", (len(formulas.COUNTS), len(HALF_LIVES_S)))])
    found = []
    for table, entities in names.items():
        rows = np.zeros(len(entities), dtype=row)
        rows["last"] = NOW - random.integers(3_600_000, size=len(entities))
        rows["counts"] = random.exponential(5.0, rows["counts"].shape)
        found += [
            (f"0/{table}/{name}".encode(), one.tobytes()) for name, one in zip(entities, rows, strict=True)
        ]
    return found


def _weights(scorer: Any) -> Any:
    messages, formulas = import_module("models.weights"), import_module("state.formulas")
    p = len(scorer.feature_names)
    precision = base64.b64encode(np.eye(p)[np.triu_indices(p)].tobytes()).decode()
    head = messages.Head(
        mean=(np.random.default_rng(5).normal(size=p) / 10.0).tolist(),
        prior_mean=[0.0] * p,
        prior_precision=[1.0] * p,
        precision=precision,
    )
    return messages.Weights(
        source="bench",
        version=1,
        parent=0,
        trunk_hash=scorer.identity.trunk_hash,
        feature_names=scorer.feature_names,
        feature_scheme=messages.FeatureScheme(
            tables=[*formulas.TABLES, formulas.GLOBAL],
            counts=list(formulas.COUNTS),
            half_lives_s=list(HALF_LIVES_S),
            smoothing=SMOOTHING,
        ),
        heads={"ctr": head},
        watermarks=messages.Watermarks(features=NOW, labels=NOW),
        created_at=NOW,
        samples=0,
        metrics={},
    )


if __name__ == "__main__":
    port, items, users = map(int, sys.argv[1:4])
    web.run_app(app(items, users), host="127.0.0.1", port=port, access_log=None, print=None)
