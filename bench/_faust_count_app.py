"""For orientation: the least that a Faust agent can do an event, decode and count. No state, no learning.

Settings come from the environment, as for ``bench.faust_idiomatic_app``. ``/counts`` tells the progress.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import faust
import msgspec
from aiohttp.web import Response

from clients.connection import connection
from contracts.events import Action, Impression

kafka = connection()
app = faust.App(
    os.environ.get("BENCH_APP", "bench-faust-count"),
    broker=[f"kafka://{server}" for server in kafka.servers],
    broker_credentials=kafka.faust(),
    store="memory://",
    datadir=os.environ.get("BENCH_DATADIR", "bench-faust-count-data"),
    topic_disable_leader=True,
    consumer_auto_offset_reset="earliest",
)
counts: Counter[str] = Counter()
_impression = msgspec.json.Decoder(Impression).decode
_action = msgspec.json.Decoder(Action).decode


def topic(name: str) -> Any:
    """A topic of bytes."""
    return app.topic(name, key_serializer="raw", value_serializer="raw")


@app.agent(topic(os.environ.get("BENCH_IMPRESSIONS", "surgeline-impressions")))
async def impressions(events: Any) -> None:
    async for value in events:
        try:
            _impression(value)
        except msgspec.MsgspecError:
            counts["refused"] += 1
        else:
            counts["impressions"] += 1


@app.agent(topic(os.environ.get("BENCH_ACTIONS", "surgeline-actions")))
async def actions(events: Any) -> None:
    async for value in events:
        try:
            _action(value)
        except msgspec.MsgspecError:
            counts["refused"] += 1
        else:
            counts["actions"] += 1


@app.page("/counts")
async def progress(self: Any, request: Any) -> Response:
    return Response(body=msgspec.json.encode(counts), content_type="application/json")
