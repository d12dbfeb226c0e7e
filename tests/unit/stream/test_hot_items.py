"""Failure: the live page shows items with endless clicks, or none, once time has started over with an older
log: rows of the pass before are newer than the ticks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stream.hot_items import hottest
from stream.lane import NEVER
from tests.unit.stream.conftest import T0, Rig, action, impression


@pytest.mark.parametrize("done_until", [T0 + 10_000, T0 - 86_400_000, NEVER])
def test_the_hottest_items_are_counted_at_any_time(done_until: int, tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    shown = [impression(k, 1000 + k, item="ab"[k % 3 == 0]) for k in range(9)]
    rig.feed(*shown, *(action(k, 1500 + k) for k in range(0, 9, 2)), until=10_000)
    rig.engine.done_until = done_until
    with np.errstate(over="raise", invalid="raise"):
        found, half_life_s = hottest(rig.engine, 5)
    assert [one.item for one in found] == ["a", "b"]
    for one, (clicks, impressions) in zip(found, [(3, 6), (2, 3)], strict=True):
        faded = one.clicks / clicks
        assert 0.5 ** (10.0 / half_life_s) <= faded <= 1.0
        assert one.impressions == pytest.approx(impressions * faded, rel=1e-2)
    rig.close()
