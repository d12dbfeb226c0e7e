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
from contracts.events import Action, Behaviour, Impression, Watermark

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
KINDS = {"impressions": Impression, "actions": Action, "behaviours": Behaviour}


def count(name: str, kind: type) -> None:
    """An agent that decodes the events of a topic and counts them."""
    decode: Any = msgspec.json.Decoder(kind).decode
    decode_watermark = msgspec.json.Decoder(Watermark).decode
    setting, default = f"BENCH_{name.upper()}", f"surgeline-{name}"
    topic: Any = app.topic(os.environ.get(setting, default), key_serializer="raw", value_serializer="raw")

    async def take(events: Any) -> None:
        async for value in events:
            try:
                decode(value)
            except msgspec.MsgspecError:
                try:
                    decode_watermark(value)
                except msgspec.MsgspecError:
                    counts["refused"] += 1
            else:
                counts[name] += 1

    app.agent(topic, name=f"count-{name}")(take)


for name, kind in KINDS.items():
    count(name, kind)


@app.page("/counts")
async def progress(self: Any, request: Any) -> Response:
    return Response(body=msgspec.json.encode(counts), content_type="application/json")
