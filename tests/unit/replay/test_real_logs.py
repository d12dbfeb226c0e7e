"""Fails when a real log, where its data is on this machine, is not read row for row.

The counts are those of the data's own description. Only what is found is tested.
"""

from __future__ import annotations

import msgspec
import pytest

from contracts.events import EVENTS, Action, Impression
from replay.adapters.behaviour import IMPLICIT
from replay.adapters.registry import adapter
from replay.log import to_records
from replay.open_log import open_log
from replay.source import TableLog

#: name -> (source rows that are impressions, actions by type, behaviours, first and last second)
KNOWN = {
    "trivago": (220_705, {"click": 9_626}, 59_584, 1_541_548_939, 1_541_678_398),
    "taobao": (
        98_361,
        {"cart": 6_063, "favourite": 3_383, "purchase": 2_493},
        98_361,
        1_511_658_000,
        1_511_665_811,
    ),
    "tmall": (
        91_015,
        {"cart": 1, "favourite": 3_727, "purchase": 13_346},
        91_015,
        1_399_737_600,
        1_415_721_598,
    ),
}
FOUND = [name for name in KNOWN if adapter(name).find() is not None]


@pytest.mark.parametrize("name", FOUND)
def test_every_row_becomes_its_event(name: str) -> None:
    views, by_action, behaviours, first, last = KNOWN[name]
    log = open_log(name)
    assert isinstance(log, TableLog)
    info = log.info()
    assert info.impressions - log.tally.made_up.get(IMPLICIT, 0) == views
    assert info.by_action == by_action
    assert info.behaviours == behaviours
    assert info.refused == 0
    assert info.first_ms is not None and info.last_ms is not None
    assert (info.first_ms // 1000, info.last_ms // 1000) == (first, last)


@pytest.mark.parametrize("name", FOUND)
def test_every_record_decodes_in_order_and_finds_its_impression(name: str) -> None:
    shown: dict[str, int] = {}
    newest = 0
    for chunk in open_log(name).chunks(20_000):
        records = to_records(chunk)
        for kind, value in zip(records.kinds.tolist(), records.values, strict=True):
            event = msgspec.json.decode(value, type=EVENTS[kind])
            assert event.event_time >= newest
            newest = event.event_time
            if isinstance(event, Action):
                assert shown[event.impression_id] <= event.event_time
            elif isinstance(event, Impression):
                assert shown.setdefault(event.impression_id, newest) == newest
