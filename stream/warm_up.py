"""Loads what a worker needs for its first events before it has any.

Compiled kernels are loaded, or compiled on a machine's first start, when they are called first: half a second
in which the stream would wait, or half a minute.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time

from contracts.events import KINDS
from contracts.scenario import Scenario
from models.deep.trunk import Trunk
from state.errors import StateError
from state.store import Store
from stream.decode import Record
from stream.engine import Engine
from stream.publish import named_rows
from stream.resume import Place
from stream.timeline import Source

#: Three events of each kind: a list of two, and one beside it.
_COUNT = 3


def warm_up(scenario: Scenario, trunk: Trunk) -> None:
    """Run a few events through an engine of this scenario and trunk, over a state that is thrown away.

    What goes wrong here is left to the worker's own engine, which meets it in its own folder.
    """
    with (
        contextlib.suppress(StateError, OSError),
        tempfile.TemporaryDirectory(prefix="surgeline-warm-", ignore_cleanup_errors=True) as folder,
        Store(folder) as store,
    ):
        engine = Engine(scenario, store, trunk)
        now_ms, closing_ms = round(time.time() * 1000), scenario.times.closing_ms
        for kind, records in enumerate(_records(now_ms - closing_ms - 60_000, closing_ms)):
            source = Source(kind, 0)
            engine.assign(source, Place())
            engine.ingest(source, records, now_ms)
        engine.advance()
        named_rows(engine.features.take_changed(), engine.source)
        engine.weights(now_ms)
        engine.checkpoint()


def _records(at_ms: int, closing_ms: int) -> list[list[Record]]:
    """A few events of each kind, and a watermark ``closing_ms`` behind them that closes them."""
    found: list[list[Record]] = []
    for _ in KINDS:
        events = [
            {
                "event_time": at_ms + k,
                "user_id": "u",
                "impression_id": f"i{k}",
                "item_id": f"x{k}",
                "category_id": "c",
                "shop_id": "s",
                "request_id": f"r{k // 2}",
                "position": k,
                "price": 9.99,
                "stock": 5.0,
                "context": {"page": "p"},
                "action": "click",
                "type": "look",
            }
            for k in range(_COUNT)
        ]
        values = [json.dumps(event).encode() for event in events]
        values.append(json.dumps({"watermark": at_ms + closing_ms}).encode())
        found.append([Record(offset, b"u", value) for offset, value in enumerate(values)])
    return found
