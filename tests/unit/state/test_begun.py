"""Failure: a worker that was killed before its first checkpoint, or whose write-ahead log is gone, does not
start again, and its source's records are not read once more; rows without their plan pass for a new state.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from features.declared import plan_from
from state.errors import StateDamagedError
from state.feature_rows import FeatureRows
from state.keys import META_BEGUN, ROWS, mark_format
from state.store import Batch, Store

PLAN = plan_from({}, ["click", "cart", "favourite", "purchase", "refund"])


def test_a_state_that_was_only_begun_is_a_new_one(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        batch = Batch()
        batch.put(META_BEGUN, b"1")
        mark_format(batch)
        store.commit(batch)
        assert not len(FeatureRows(store, PLAN, 10, 60_000))
        batch = Batch()
        batch.put(ROWS + bytes(12), b"")
        store.commit(batch)
        with pytest.raises(StateDamagedError, match="which features"):
            FeatureRows(store, PLAN, 10, 60_000)
