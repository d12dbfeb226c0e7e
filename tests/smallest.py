"""Every capacity, cache bound, chunk and batch size that results must not depend on, and its least value.

``pytest --smallest`` runs with these: each array grows, each cache evicts, each chunk ends as often as it
can, so that whatever was taken before such a moment and used after it shows. Sizes that are part of a result
(the minibatch of FTRL, the window of the metrics, blocks that fix the order of floating sums, limits of a
contract) are not sizes in this sense; ``tests/unit/test_smallest.py`` lists them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

#: module.NAME -> its least value.
SMALLEST: dict[str, float] = {
    "features.families.listed.SHORT": 1,
    "features.rows.INITIAL_ROWS": 1,
    "replay.produce.BATCH_BYTES": 1,
    "replay.produce.IN_FLIGHT": 1,
    "serving.follower.CHUNK": 1,
    "state.disk_keys.MAX_BYTES": 1,
    "state.disk_keys.SMALLEST": 8,
    "state.feature_rows.FLUSHED_ROWS": 1,
    "state.feature_rows.SWEEP_ROWS": 1,
    "state.feature_table.SCAN_KEYS": 1,
    "state.joins.payloads.FILE_BYTES": 1,
    "state.joins.payloads.KEPT_BYTES": 1,
    "state.joins.payloads.KEPT_FILES": 1,
    "state.joins.recent.SMALLEST_TABLE": 2,
    "state.joins.segments.BLOCK_ROWS": 1,
    "state.joins.spilled.BLOCKS_A_READ": 1,
    "state.joins.spilled.CACHED_ROWS": 1,
    "state.memory.WORTH_BYTES": 1,
    "state.row_index.FAN": 2,
    "state.row_index.MAX_RUN_ROWS": 1,
    "state.row_index.SMALLEST_FILTER": 7,
    "state.row_pass.PART_ROWS": 1,
    "state.store.WRITE_BUFFER_BYTES": 1,
    "state.store.MAX_WAL_BYTES": 1,
    "stream.engine.CHUNK_TICKS": 1,
    "stream.engine.FEW_EVENTS": 0,
    "stream.publish.ROWS_A_TURN": 1,
    "stream.runtime.BUFFER_LIMIT": 1,
    "stream.transport.FULL_WAIT_S": 0.0,
    "surgeline.evaluation.predictions.FLUSH_ROWS": 1,
    "surgeline.evaluation.rehearse.CHECKPOINT_S": 0.0,
}
#: ``state.cached_rows``, whatever the scenario says: a scenario may not be so mean.
CACHED_ROWS = 1


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Set everything to its least value until ``patch`` is undone."""
    for name, value in SMALLEST.items():
        module, _, constant = name.rpartition(".")
        patch.setattr(import_module(module), constant, value)
    rows = import_module("state.feature_rows")
    begin_rows = rows.FeatureRows.__init__

    def begin_few(self: Any, store: Any, plan: Any, cached_rows: int, forget_ms: int) -> None:
        begin_rows(self, store, plan, min(cached_rows, CACHED_ROWS), forget_ms)

    patch.setattr(rows.FeatureRows, "__init__", begin_few)
