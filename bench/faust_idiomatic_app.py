"""The peer: the same job as the engine's, written as a good Faust user would write it, an event at a time.

What it does an event: decode and validate; drop duplicates; join actions to impressions through a Table
keyed by impression id; keep decayed counts of item, user, category and position (six counts at three
half-lives) in RocksDB Tables; compute the engine's real-time features as they stand before the
impression; predict with River's ``LogisticRegression`` and, when the label window is over, learn one.
Weights go to a topic every second. Recovery is Faust's own: changelog topics and committed offsets.

Why it is fair, and where it is given an advantage:

* Decoding is msgspec into the engine's own structs, not ``faust.Record``, which validates in Python.
* Table rows are MessagePack by msgspec, not Faust's default JSON; ``rocksdict`` stores them.
* One table row an entity, read once and written once an event; no windowed tables, which cost more.
* Changelog records may linger for 50 ms and 10,000 of them may wait, so that they leave in batches;
  with Faust's defaults (no lingering, 100) this app spends most of its time on single requests.
* No ``group_by``: counts are kept for each partition apart, where a repartition topic an entity would
  send every event through Kafka several times more.
* Pending features, waiting actions and the global counts are plain memory. The engine writes them down.
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
from state.formulas import BASE_RATE, BASE_WEIGHT, COUNTS, TABLES, VOLUME_SCALE, feature_names

from clients.connection import connection
from contracts.events import ACTIONS, Action, Impression
from contracts.scenario import Features

NAME = os.environ.get("BENCH_APP", "bench-faust-idiomatic")
PARTITIONS = int(os.environ.get("BENCH_PARTITIONS", "4"))
LABEL_WINDOW_MS = float(os.environ.get("BENCH_LABEL_WINDOW_S", "0.5")) * 1000.0

_settings = Features()
HALF_LIVES_MS = [half_life * 1000.0 for half_life in _settings.half_lives_s]
SMOOTHING = _settings.smoothing
NAMES = feature_names(_settings.half_lives_s)
WIDTH = len(HALF_LIVES_MS)
COLUMN = {name: COUNTS.index(name) for name in ACTIONS}
CLICK = 1 << ACTIONS.index("click")
CART, PURCHASE = COUNTS.index("cart"), COUNTS.index("purchase")

#: [time in ms, then len(COUNTS) x half-lives decayed counts, row by row]
Row = list[float]


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
dead_letters = bytes_topic(f"{NAME}-dead-letter")
weights_topic = bytes_topic(f"{NAME}-weights")

shown = table("shown")
rows = {name: table(name) for name in TABLES}

everything: Row = [0.0] * (1 + len(COUNTS) * WIDTH)
model = linear_model.LogisticRegression(optim.AdaGrad(0.05), intercept_init=math.log(0.02 / 0.98))
pending: deque[tuple[float, bytes, dict[str, float], float]] = deque()
clicked: set[bytes] = set()
waiting: dict[bytes, list[Action]] = {}
counts: Counter[str] = Counter()
loss = 0.0

_pack = msgspec.msgpack.Encoder().encode
_unpack_row = msgspec.msgpack.Decoder(Row).decode
_unpack_shown = msgspec.msgpack.Decoder(list[Any]).decode
_decode_impression = msgspec.json.Decoder(Impression).decode
_decode_action = msgspec.json.Decoder(Action).decode


def row_of(name: str, entity: bytes, now: float) -> Row:
    """An entity's row as of ``now`` (ms); one that was never seen has zeros."""
    data = rows[name].get(entity)
    return [now, *([0.0] * (len(COUNTS) * WIDTH))] if data is None else decayed(_unpack_row(data), now)


def decayed(row: Row, now: float) -> Row:
    """``row`` as of ``now`` (ms)."""
    elapsed = now - row[0]
    if elapsed <= 0.0:
        return row
    factors = [2.0 ** (-elapsed / half_life) for half_life in HALF_LIVES_MS]
    return [now, *(value * factors[i % WIDTH] for i, value in enumerate(row[1:]))]


def add(row: Row, column: int) -> None:
    """Count one event."""
    for i in range(1 + column * WIDTH, 1 + (column + 1) * WIDTH):
        row[i] += 1.0


def features(found: dict[str, Row], total: Row, price: float) -> dict[str, float]:
    """The real-time features of ``state.formulas``, one impression at a time."""
    log, log1p = math.log, math.log1p
    values: list[float] = []
    rates = [
        (total[1 + WIDTH + k] + BASE_WEIGHT * BASE_RATE) / (total[1 + k] + BASE_WEIGHT) for k in range(WIDTH)
    ]
    for name in TABLES:
        row = found[name]
        for k in range(WIDTH):
            seen = row[1 + k]
            rate = (row[1 + WIDTH + k] + SMOOTHING * rates[k]) / (seen + SMOOTHING)
            values.append(log(rate / rates[k]))
            values.append(log1p(seen) / VOLUME_SCALE)
    item, last = found["item"], WIDTH - 1
    for column in (CART, PURCHASE):
        at = 1 + column * WIDTH + last
        base = (total[at] + BASE_WEIGHT * BASE_RATE) / (total[1 + last] + BASE_WEIGHT)
        values.append(log((item[at] + SMOOTHING * base) / (item[1 + last] + SMOOTHING) / base))
    values += [log(rate / BASE_RATE) for rate in rates]
    values.append(log1p(price) / 10.0)
    return dict(zip(NAMES, values, strict=True))


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


def count_action(event: Action, memory: list[Any]) -> bool:
    """Count an action whose impression is known; False for a duplicate."""
    bit = 1 << ACTIONS.index(event.action)
    if memory[5] & bit:
        return False
    memory[5] |= bit
    now, column = float(event.event_time), COLUMN[event.action]
    for name, entity in zip(TABLES, memory[1:5], strict=True):
        row = row_of(name, entity, now)
        add(row, column)
        rows[name][entity] = _pack(row)
    everything[:] = decayed(everything, now)
    add(everything, column)
    if bit == CLICK:
        clicked.add(event.impression_id.encode())
    return True


@app.agent(impressions_topic)
async def take_impressions(events: Any) -> None:
    async for value in events:
        try:
            event = _decode_impression(value)
        except msgspec.MsgspecError:
            counts["refused"] += 1
            await dead_letters.send(value=value)
            continue
        key, now = event.impression_id.encode(), float(event.event_time)
        if shown.get(key) is not None:
            counts["duplicates"] += 1
            continue
        position = str(event.position)
        entities = [event.item_id, event.user_id, event.category_id, position]
        memory: list[Any] = [event.event_time, *(entity.encode() for entity in entities), 0]
        everything[:] = decayed(everything, now)
        found = {}
        for name, entity in zip(TABLES, memory[1:5], strict=True):
            found[name] = row_of(name, entity, now)
        x = features(found, everything, event.price)
        p = min(max(model.predict_proba_one(x)[True], 1e-7), 1.0 - 1e-7)
        for name, entity in zip(TABLES, memory[1:5], strict=True):
            add(found[name], 0)
            rows[name][entity] = _pack(found[name])
        add(everything, 0)
        for action in waiting.pop(key, ()):
            counts["actions"] += count_action(action, memory)
        shown[key] = _pack(memory)
        pending.append((now + LABEL_WINDOW_MS, key, x, p))
        counts["impressions"] += 1
        close(now)


@app.agent(actions_topic)
async def take_actions(events: Any) -> None:
    async for value in events:
        try:
            event = _decode_action(value)
        except msgspec.MsgspecError:
            counts["refused"] += 1
            await dead_letters.send(value=value)
            continue
        key = event.impression_id.encode()
        data = shown.get(key)
        memory = None if data is None else _unpack_shown(data)
        if memory is None:
            waiting.setdefault(key, []).append(event)
            counts["waited"] += 1
        elif count_action(event, memory):
            shown[key] = _pack(memory)
            counts["actions"] += 1
        else:
            counts["duplicates"] += 1


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
