"""One small night, generated once and read by many tests."""

from __future__ import annotations

import polars as pl
import pytest

from replay.simulate import Double11, Double11Config, Night

SMALL = Double11Config(minutes=1.0, rate=1_500.0, seed=11, users=3_000, items=600, categories=20, shops=50)


@pytest.fixture(scope="session")
def night() -> Night:
    return Double11(SMALL).night()


@pytest.fixture(scope="session")
def shown(night: Night) -> pl.DataFrame:
    """Impressions beside their truth, and whether each was clicked, carted, bought at any time."""
    did = night.log.filter(pl.col("event") == "action").select("impression_id", "action")
    frame = night.log.filter(pl.col("event") == "impression").drop("action", "value")
    frame = frame.join(night.truth, on="impression_id", how="left", maintain_order="left")
    for action in ("click", "cart", "favourite", "purchase", "refund"):
        ids = did.filter(pl.col("action") == action)["impression_id"]
        frame = frame.with_columns(pl.col("impression_id").is_in(ids.implode()).alias(action))
    return frame
