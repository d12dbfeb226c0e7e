"""Faults of single records: bytes that are no events, and producers that change their schema.

Like `faults.py`, but over `Records` (JSON in UTF-8, as `replay.records.to_records` makes them), because a
frame cannot hold what is malformed. ``refused`` counts the records that the event contract does not
accept, found by decoding them against `contracts.events`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, get_args

import msgspec
import numpy as np

from contracts.events import EVENTS
from replay.records import Records
from replay.simulate.faults import Counts, FaultError, Faulty

Damage = Literal["truncated", "binary", "not_an_object", "missing_field", "wrong_type"]
DAMAGES: tuple[str, ...] = get_args(Damage)
Change = Literal["extra", "rename", "retype"]
CHANGES: tuple[str, ...] = get_args(Change)

#: What an ``extra`` change adds: unknown fields pass, so none of these may cost an event.
EXTRA: dict[str, Any] = {"schema_version": 2, "experiment": {"arm": "b", "layers": [1, 2]}, "note": None}


def malformed(stream: Iterable[Records], *, share: float, seed: int) -> Faulty[Records]:
    """Damages a ``share`` of the records, each in one of five ways drawn with equal chance.

    ``truncated``: the last half is missing; ``binary``: a byte that is no UTF-8 in front;
    ``not_an_object``: a JSON list; ``missing_field``: no ``impression_id`` (of a behaviour: no
    ``type``); ``wrong_type``: the event
    time is a word. Counts: one for each way; their sum is what the engine must refuse.
    """
    if not 0.0 <= share <= 1.0:
        raise FaultError(f"share must be between 0 and 1, not {share!r}")

    def make(counts: Counts) -> Iterator[Records]:
        chosen, ways = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
        for records in stream:
            hit = chosen.random(len(records)) < share
            way = (ways.random(len(records)) * len(DAMAGES)).astype(np.int64)
            values = list(records.values)
            for row in np.flatnonzero(hit).tolist():
                name = DAMAGES[way[row]]
                values[row] = _DAMAGE[name](values[row])
                counts[name] += 1
            yield Records(records.kinds, records.keys, values, records.times)

    return Faulty(make, DAMAGES)


def schema_change(
    stream: Iterable[Records], *, kind: Change, from_ms: int, field: str = "item_id"
) -> Faulty[Records]:
    """From an event time on (ms UTC) every producer writes another schema.

    ``extra``: unknown fields come in; ``rename``: ``field`` is called ``<field>_v2``; ``retype``: a
    number becomes its text, a text a list. Counts: ``changed`` records, and those of them that the
    contract refuses.
    """
    if kind not in CHANGES:
        raise FaultError(f"kind must be one of {', '.join(CHANGES)}, not {kind!r}")
    known = {name for event in EVENTS for name in event.__struct_fields__}
    if field not in known:
        raise FaultError(f"field must be one of {', '.join(sorted(known))}, not {field!r}")

    def make(counts: Counts) -> Iterator[Records]:
        for records in stream:
            values = list(records.values)
            for row in np.flatnonzero(records.times >= from_ms).tolist():
                event: dict[str, Any] = msgspec.json.decode(values[row])
                if kind == "extra":
                    event |= EXTRA
                elif field not in event:
                    continue
                elif kind == "rename":
                    event[f"{field}_v2"] = event.pop(field)
                else:
                    old = event[field]
                    event[field] = str(old) if isinstance(old, int | float) else [old]
                values[row] = msgspec.json.encode(event)
                counts["changed"] += 1
                counts["refused"] += not accepted(values[row], int(records.kinds[row]))
            yield Records(records.kinds, records.keys, values, records.times)

    return Faulty(make, ("changed", "refused"))


def accepted(value: bytes, kind: int) -> bool:
    """Whether the event contract accepts a JSON record of a kind (an index in ``contracts.events.KINDS``)."""
    try:
        msgspec.json.decode(value, type=EVENTS[kind])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def _without_id(value: bytes) -> bytes:
    event: dict[str, Any] = msgspec.json.decode(value)
    event.pop("type" if "type" in event else "impression_id")
    return msgspec.json.encode(event)


def _wrong_time(value: bytes) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(value) | {"event_time": "soon"})


_DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda value: value[: len(value) // 2],
    "binary": lambda value: b"\xff" + value,
    "not_an_object": lambda value: b"[" + value + b"]",
    "missing_field": _without_id,
    "wrong_type": _wrong_time,
}
