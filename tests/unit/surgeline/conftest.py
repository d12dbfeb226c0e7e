"""A small simulated night as a log and its truth, for tests of rehearsal and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest

from replay.files import write_log
from replay.simulate import Double11, Double11Config


class Night(NamedTuple):
    """Two minutes with midnight in the middle, about 40 impressions a second."""

    log: Path
    truth: Path
    table: pl.DataFrame


@pytest.fixture(scope="session")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    folder = tmp_path_factory.mktemp("night")
    config = Double11Config(
        minutes=2.0, rate=40.0, jump_ratio=4.0, seed=5, users=400, items=120, base_ctr=0.12
    )
    frames = list(Double11(config).frames())
    table = pl.concat([log for log, _ in frames])
    write_log(iter([table]), folder / "night.parquet")
    pl.concat([truth for _, truth in frames]).write_parquet(folder / "truth.parquet")
    return Night(folder / "night.parquet", folder / "truth.parquet", table)
