"""A side of the serving figure, as a process that is told its port and sizes."""

from __future__ import annotations

import base64
import sys

import numpy as np
from aiohttp import web

from bench import _serving_peer
from bench._serving_rows import NOW, Night, Size, night
from contracts.weights import Head, Watermarks, Weights
from features.plan import partitioned
from features.row_bytes import pack
from features.topic import OF_PARTITION, OF_WORKER, row_names, row_prefix
from models.deep.trunk import Trunk
from serving.admission import Accepted
from serving.feature_view import FeatureView
from serving.follower import CHUNK
from serving.scorer import Scorer
from serving.server import create_app

FORGET_MS = 604_800_000


def engine(known: Night) -> web.Application:
    """A scorer without a trunk, whose view has read every row from bytes and that serves learned weights."""
    view = FeatureView(known.plan, FORGET_MS)
    for name, layout in known.plan.tables.items():
        rows = known.tables[name].rows
        keys = rows.keys[: len(rows)]
        prefix = row_prefix(OF_PARTITION if partitioned(layout) else OF_WORKER, "0", name)
        records = list(zip(row_names(prefix, keys), pack(keys, rows.values[: len(rows)], NOW), strict=True))
        for start in range(0, len(records), CHUNK):
            view.apply(records[start : start + CHUNK])
    if view.refused:
        raise ValueError(f"rows were refused: {dict(view.refused)}")
    scorer = Scorer(Trunk.empty(), view)
    result = scorer.offer(_weights(scorer))
    if not isinstance(result, Accepted):
        raise ValueError(result.detail)
    return create_app(scorer)


def _weights(scorer: Scorer) -> Weights:
    p = len(scorer.feature_names)
    precision = base64.b64encode(np.eye(p)[np.triu_indices(p)].tobytes()).decode()
    head = Head(
        mean=(np.random.default_rng(5).normal(size=p) / 10.0).tolist(),
        prior_mean=[0.0] * p,
        prior_precision=precision,
        precision=precision,
    )
    return Weights(
        source="bench",
        version=1,
        parent=0,
        trunk_hash=scorer.identity.trunk_hash,
        feature_names=scorer.feature_names,
        features_hash=scorer.plan.hash,
        heads={"ctr": head},
        watermarks=Watermarks(features=NOW, labels=NOW),
        created_at=NOW,
        samples=0,
        metrics={},
    )


SIDES = {"engine": engine, "peer": _serving_peer.app}


def main(side: str, port: str, *size: str) -> None:
    """Serve until terminated."""
    app = SIDES[side](night(Size(*map(int, size))))
    web.run_app(app, host="127.0.0.1", port=int(port), access_log=None, print=None)


if __name__ == "__main__":
    main(*sys.argv[1:])
