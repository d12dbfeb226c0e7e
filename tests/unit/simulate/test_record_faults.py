"""Fails when a damaged record would pass the event contract, or a harmless schema change would not."""

from __future__ import annotations

from collections import Counter

import pytest

from contracts.events import KINDS
from replay.records import Records, to_records
from replay.simulate import Night
from replay.simulate.faults import FaultError
from replay.simulate.record_faults import CHANGES, DAMAGES, accepted, malformed, schema_change


@pytest.fixture(scope="module")
def records(night: Night) -> Records:
    return to_records(night.log.slice(20_000, 2_000))


def refused(records: Records) -> int:
    return sum(not accepted(v, int(k)) for v, k in zip(records.values, records.kinds, strict=True))


def test_sound_records_are_accepted(records: Records) -> None:
    assert refused(records) == 0


def test_every_damage_is_refused_and_counted(records: Records) -> None:
    fault = malformed([records], share=0.2, seed=1)
    (out,) = fault
    changed = [new != old for new, old in zip(out.values, records.values, strict=True)]
    assert sum(fault.counts.values()) == sum(changed) == refused(out)
    assert set(fault.counts) == set(DAMAGES) and min(fault.counts.values()) > 30
    assert (out.keys, out.times.tolist()) == (records.keys, records.times.tolist())


def test_damage_does_not_depend_on_how_the_stream_is_cut(records: Records) -> None:
    half = len(records) // 2
    parts = [
        Records(records.kinds[s], records.keys[s], records.values[s], records.times[s])
        for s in (slice(0, half), slice(half, None))
    ]
    whole, pieces = malformed([records], share=0.3, seed=9), malformed(parts, share=0.3, seed=9)
    assert [v for out in whole for v in out.values] == [v for out in pieces for v in out.values]
    assert whole.counts == pieces.counts


@pytest.mark.parametrize(
    ("kind", "field", "what_is_refused"),
    [
        ("extra", "item_id", "nothing"),
        ("rename", "item_id", "impressions"),  # an action may do without its item
        ("rename", "impression_id", "joined"),
        ("rename", "price", "nothing"),
        ("retype", "event_time", "everything"),
        ("retype", "user_id", "everything"),
        ("retype", "context", "impressions"),  # only they have one
    ],
)
def test_schema_changes_cost_what_the_contract_says(
    records: Records, kind: str, field: str, what_is_refused: str
) -> None:
    since = int(records.times[len(records) // 2])
    fault = schema_change([records], kind=kind, from_ms=since, field=field)  # type: ignore[arg-type]
    (out,) = fault
    kinds = Counter(KINDS[k] for k in records.kinds[records.times >= since])
    joined = kinds["impression"] + kinds["action"]
    expected = {
        "nothing": 0,
        "impressions": kinds["impression"],
        "joined": joined,
        "everything": kinds.total(),
    }
    assert fault.counts["refused"] == refused(out) == expected[what_is_refused]
    assert fault.counts["changed"] > 0
    assert [v for v, t in zip(out.values, out.times, strict=True) if t < since] == [
        v for v, t in zip(records.values, records.times, strict=True) if t < since
    ]


def test_parameters_are_checked(records: Records) -> None:
    with pytest.raises(FaultError, match="share must be between 0 and 1"):
        malformed([records], share=-0.1, seed=1)
    with pytest.raises(FaultError, match=f"kind must be one of {', '.join(CHANGES)}"):
        schema_change([records], kind="drop", from_ms=0)  # type: ignore[arg-type]
    with pytest.raises(FaultError, match="field must be one of action, "):
        schema_change([records], kind="rename", from_ms=0, field="colour")
