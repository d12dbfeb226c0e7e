"""The idiomatic peer must compute what the engine computes; else the throughput figure compares two jobs."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from bench import _engine_pass
from bench._faust_features import NAMES, Features
from bench._faust_rows import TABLES, Shown
from contracts.events import ACTIONS, KINDS, Action, Behaviour, Impression
from contracts.scenario import Scenario, Times
from features.declared import plan_from
from models.deep.trunk import Trunk
from replay.simulate import Double11, Double11Config

#: Few users and items, so that rows meet again; a good hour, so that sessions end and counts decay.
NIGHT = Double11Config(
    minutes=90.0,
    rate=1.0,
    hours=1.5,
    jump_ratio=2.0,
    users=12,
    items=60,
    categories=8,
    shops=5,
    base_ctr=0.2,
    seed=5,
)


@pytest.fixture(scope="module")
def sale() -> pl.DataFrame:
    """A small sale by time; at equal times impressions, actions, behaviours, as they count."""
    frame = pl.concat([log for log, _ in Double11(NIGHT).frames()])
    # Some impressions say no price.
    priced = pl.col("price") * (pl.int_range(pl.len()) % 7 > 0)
    rank = pl.col("event").replace_strict({kind: k for k, kind in enumerate(KINDS)})
    return frame.with_columns(priced.alias("price")).sort("event_time", rank, maintain_order=True)


class Peer:
    """The peer's features on events in order, with dictionaries for its tables."""

    def __init__(self) -> None:
        self.features = Features({name: {} for name in TABLES})
        self.found: dict[str, dict[str, float]] = {}
        self.shown: dict[str, Shown] = {}
        self.open: list[Impression] = []

    def take(self, event: Any) -> None:
        if isinstance(event, Impression):
            if self.open and self.open[0].request_id != event.request_id:
                self.close()
            self.open.append(event)
            return
        self.close()
        if isinstance(event, Action):
            self.features.act(self.shown[event.impression_id], event.action, float(event.event_time))
        else:
            self.features.behave(event)

    def close(self) -> None:
        for name, found, shown in self.features.show(self.open) if self.open else ():
            self.found[name], self.shown[name] = found, shown
        self.open = []


def events_of(frame: pl.DataFrame) -> list[Any]:
    """A log's events in its order."""
    types = dict(zip(KINDS, (Impression, Action, Behaviour), strict=True))
    events = []
    for row in frame.iter_rows(named=True):
        kind = types[row["event"]]
        events.append(
            msgspec.convert({k: row[k] for k in kind.__struct_fields__ if row.get(k) is not None}, kind)
        )
    return events


def test_the_peer_has_the_columns_of_the_default_plan() -> None:
    assert list(NAMES) == plan_from({}, ACTIONS).names


def test_the_peer_and_the_engine_see_the_same_of_every_impression(sale: pl.DataFrame) -> None:
    ids = sale.filter(pl.col("event") == KINDS[0])["impression_id"].to_list()
    # The peer remembers impressions for good; so must the engine, whatever the night's delays.
    scenario = Scenario(times=Times(join_limit_s=86_400.0))
    engine = _engine_pass.run(sale, ids, scenario, Trunk.empty(), 0)
    peer = Peer()
    for event in events_of(sale):
        peer.take(event)
    peer.close()
    assert len(sale.filter(pl.col("event") == KINDS[1])) > 100
    assert len(sale.filter(pl.col("event") == KINDS[2])) > 10
    mine = np.array([[peer.found[name][column] for column in NAMES] for name in ids])
    assert not np.isnan(mine).any()
    # No column of this sale is one that never moves.
    assert [name for k, name in enumerate(NAMES) if len(np.unique(mine[:, k])) < 2] == []
    np.testing.assert_allclose(engine.features, mine, rtol=2e-5, atol=2e-5)
