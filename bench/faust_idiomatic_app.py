"""The peer: the same job as the engine's, written as a good Faust user would write it, an event at a time.

What it does an event: decode and validate; drop duplicates; join actions to impressions through a Table
keyed by impression id; keep the default features' rows (decayed sums, sessions, prices, what a user did with
an item) in eleven RocksDB Tables; compute the engine's default features, the same columns, as they stand
before the impression (``bench._faust_features``); predict with River's ``LogisticRegression`` and, when the
label window is over, learn one. Weights go to a topic every second. Recovery is Faust's own: changelog topics
and committed offsets.

Why it is fair, and where it is given an advantage:

* Decoding is msgspec into the engine's own structs, not ``faust.Record``, which validates in Python.
* Table rows are MessagePack by msgspec, not Faust's default JSON; ``rocksdict`` stores them.
* One table row an entity; no windowed tables, which cost more. A list's rows are read once and written once
  for all of its impressions.
* Changelog records may linger for 50 ms and 10,000 of them may wait, so that they leave in batches;
  with Faust's defaults (no lingering, 100) this app spends most of its time on single requests.
* No ``group_by``: rows are kept for each partition apart, where a repartition topic an entity would
  send every event through Kafka several times more.
* A list is complete when the partition goes on with another one, or with a watermark; nothing waits for
  what is late, and topics are read without regard to each other's event time.
* Pending features, open lists, waiting actions and the sums of everything are plain memory. The engine
  writes them down.
* No trunk and no second learner: the engine runs a deep trunk, three learners of its own and River.
* The label window is short (``BENCH_LABEL_WINDOW_S``), so that learning runs at full rate within the
  events that it is given; each sample is learned once, as in the engine.
* One process with one worker, as the engine, on the same broker and the same events; no standbys; no
  Prometheus sensor, which costs a stream of single events more than one of batches.

The engine caps River's samples a tick (its other learners take all); this app gives River all, because it
is the one learner it has.

Settings come from the environment; ``/counts`` tells the progress.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter, deque
from typing import Any

import faust
import msgspec
from aiohttp.web import Response
from faust.transport.producer import ProducerBuffer
from river import linear_model, optim

from bench._faust_features import Features
from bench._faust_rows import TABLES, Shown
from clients.connection import connection
from contracts.events import ACTIONS, Action, Behaviour, Impression, Watermark

NAME = os.environ.get("BENCH_APP", "bench-faust-idiomatic")
PARTITIONS = int(os.environ.get("BENCH_PARTITIONS", "4"))
LABEL_WINDOW_MS = float(os.environ.get("BENCH_LABEL_WINDOW_S", "0.15")) * 1000.0

CLICK = 1 << ACTIONS.index("click")

kafka = connection()
app = faust.App(
    NAME,
    broker=[f"kafka://{server}" for server in kafka.servers],
    broker_credentials=kafka.faust(),
    store="rocksdb://",
    datadir=os.environ.get("BENCH_DATADIR", "bench-faust-data"),
    topic_partitions=PARTITIONS,
    topic_replication_factor=1,
    topic_disable_leader=True,
    table_standby_replicas=0,
    consumer_auto_offset_reset="earliest",
    producer_linger=0.05,
    producer_max_batch_size=1 << 18,
)
# Faust's own bound of 100 changelog records makes streams wait for the producer all the time.
ProducerBuffer.max_messages = 10_000


def bytes_topic(name: str) -> Any:
    """A topic whose values the agent decodes itself, so that a bad one cannot stop it."""
    return app.topic(name, key_serializer="raw", value_serializer="raw")


def table(name: str) -> Any:
    """A RocksDB table of bytes; rows are MessagePack."""
    return app.Table(
        name, partitions=PARTITIONS, key_type=bytes, value_type=bytes, options={"driver": "rocksdict"}
    )


impressions_topic = bytes_topic(os.environ.get("BENCH_IMPRESSIONS", "surgeline-impressions"))
actions_topic = bytes_topic(os.environ.get("BENCH_ACTIONS", "surgeline-actions"))
behaviours_topic = bytes_topic(os.environ.get("BENCH_BEHAVIOURS", "surgeline-behaviours"))
dead_letters = bytes_topic(f"{NAME}-dead-letter")
weights_topic = bytes_topic(f"{NAME}-weights")

shown = table("shown")
features = Features({name: table(name) for name in TABLES})
#: By partition, the impressions of the list that comes now.
open_lists: dict[int, list[Impression]] = {}

model = linear_model.LogisticRegression(optim.AdaGrad(0.05), intercept_init=math.log(0.02 / 0.98))
pending: deque[tuple[float, bytes, dict[str, float], float]] = deque()
clicked: set[bytes] = set()
waiting: dict[bytes, list[Action]] = {}
counts: Counter[str] = Counter()
loss = 0.0

_pack = msgspec.msgpack.Encoder().encode
_unpack_shown = msgspec.msgpack.Decoder(Shown).decode
_decode_impression = msgspec.json.Decoder(Impression).decode
_decode_action = msgspec.json.Decoder(Action).decode
_decode_behaviour = msgspec.json.Decoder(Behaviour).decode
_decode_watermark = msgspec.json.Decoder(Watermark).decode


def close(now: float) -> None:
    """Learn every sample whose label window is over."""
    global loss
    while pending and pending[0][0] <= now:
        _, key, x, p = pending.popleft()
        y = key in clicked
        clicked.discard(key)
        loss -= math.log(p if y else 1.0 - p)
        model.learn_one(x, y)
        counts["samples"] += 1
        counts["positives"] += y


def take_action(event: Action, memory: Shown) -> bool:
    """Count an action whose impression is known; False for a duplicate."""
    bit = 1 << ACTIONS.index(event.action)
    if memory.actions & bit:
        return False
    memory.actions |= bit
    features.act(memory, event.action, float(event.event_time))
    if bit == CLICK:
        clicked.add(event.impression_id.encode())
    return True


def take_list(partition: int) -> None:
    """Features, predictions and counts of the impressions of a list that is complete."""
    events = {event.impression_id: event for event in open_lists.pop(partition, ())}
    if not events:
        return
    for name, x, memory in features.show(list(events.values())):
        key = name.encode()
        p = min(max(model.predict_proba_one(x)[True], 1e-7), 1.0 - 1e-7)
        for action in waiting.pop(key, ()):
            counts["actions"] += take_action(action, memory)
        shown[key] = _pack(memory)
        pending.append((memory.time + LABEL_WINDOW_MS, key, x, p))
        counts["impressions"] += 1
        close(memory.time)


async def refuse(value: bytes) -> None:
    """A record that is no event: a watermark, or a dead letter."""
    try:
        _decode_watermark(value)
    except msgspec.MsgspecError:
        counts["refused"] += 1
        await dead_letters.send(value=value)


@app.agent(impressions_topic)
async def take_impressions(stream: Any) -> None:
    async for record in stream.events():
        partition = record.message.partition
        try:
            event = _decode_impression(record.value)
        except msgspec.MsgspecError:
            take_list(partition)
            await refuse(record.value)
            continue
        members = open_lists.setdefault(partition, [])
        if members and (members[0].user_id, members[0].request_id) != (event.user_id, event.request_id):
            take_list(partition)
            members = open_lists.setdefault(partition, [])
        if shown.get(event.impression_id.encode()) is None:
            members.append(event)
        else:
            counts["duplicates"] += 1


@app.agent(actions_topic)
async def take_actions(stream: Any) -> None:
    async for value in stream:
        try:
            event = _decode_action(value)
        except msgspec.MsgspecError:
            await refuse(value)
            continue
        key = event.impression_id.encode()
        data = shown.get(key)
        if data is None:
            waiting.setdefault(key, []).append(event)
            counts["waited"] += 1
            continue
        memory = _unpack_shown(data)
        if take_action(event, memory):
            shown[key] = _pack(memory)
            counts["actions"] += 1
        else:
            counts["duplicates"] += 1


@app.agent(behaviours_topic)
async def take_behaviours(stream: Any) -> None:
    async for value in stream:
        try:
            event = _decode_behaviour(value)
        except msgspec.MsgspecError:
            await refuse(value)
            continue
        features.behave(event)
        counts["behaviours"] += 1


@app.timer(1.0)
async def publish() -> None:
    message = {
        "created_at": round(time.time() * 1000),
        "samples": counts["samples"],
        "intercept": float(model.intercept),
        "weights": dict(model.weights),
    }
    await weights_topic.send(key=b"ctr", value=msgspec.json.encode(message))
    counts["published"] += 1


@app.page("/counts")
async def progress(self: Any, request: Any) -> Response:
    said = {**counts, "log_loss": loss / max(counts["samples"], 1)}
    return Response(body=msgspec.json.encode(said), content_type="application/json")
