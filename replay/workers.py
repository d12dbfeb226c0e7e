"""What the workers say of themselves: the newest weights of each, read from the end of the weights topic.

A replay looks there before it begins and when it is over. Nothing here may stop a replay: where the broker
does not answer in time, nothing is known.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import msgspec
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from clients.connection import Connection

#: Records that are read from the end of each partition: the last seconds of any number of workers.
TAIL = 64
#: How long one look may take.
WITHIN_S = 5.0
#: A worker whose newest weights are older than another's by this much has stopped.
STOPPED_MS = 10_000


class _Watermarks(msgspec.Struct):
    features: int
    labels: int


class WorkerReport(msgspec.Struct):
    """The part of a weights message that is not weights (``contracts.weights`` has all of it)."""

    source: str
    version: int
    watermarks: _Watermarks
    created_at: int
    late: int = 0
    older_logs: int = 0
    duplicates: int = 0


Reports = Mapping[str, WorkerReport]
_decoder = msgspec.json.Decoder(WorkerReport)


async def newest(connection: Connection, topic: str, within_s: float = WITHIN_S) -> dict[str, WorkerReport]:
    """The newest report of each worker that runs, by its name; empty where none can be had in time."""
    reading = asyncio.create_task(_read(connection, topic, time.monotonic() + within_s))
    # Not `wait_for`: that waits for a client which can swallow its cancellation.
    await asyncio.wait({reading}, timeout=within_s)
    if not reading.done():
        reading.cancel()
        reading.add_done_callback(lambda task: task.cancelled() or task.exception())
        return {}
    try:
        return running(reading.result())
    except (KafkaError, OSError):
        return {}


def running(reports: Reports) -> dict[str, WorkerReport]:
    """Without those that stopped long before the newest was made."""
    latest = max((report.created_at for report in reports.values()), default=0)
    return {name: one for name, one in reports.items() if one.created_at >= latest - STOPPED_MS}


async def _read(connection: Connection, topic: str, deadline: float) -> dict[str, WorkerReport]:
    consumer = AIOKafkaConsumer(
        topic, **connection.aiokafka(), client_id="surgeline-replay", enable_auto_commit=False
    )
    try:
        await consumer.start()
        # Without a group all partitions are its own from the start; none where there is no such topic.
        partitions = sorted(consumer.assignment())
        if not partitions:
            return {}
        begins, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
        for tp in partitions:
            consumer.seek(tp, max(begins[tp], ends[tp] - TAIL))
        found: dict[str, WorkerReport] = {}
        while time.monotonic() < deadline and any(
            [await consumer.position(tp) < ends[tp] for tp in partitions]
        ):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    _take(found, record.key, record.value)
        return found
    finally:
        await consumer.stop()


def _take(found: dict[str, WorkerReport], key: bytes | None, value: bytes | None) -> None:
    """One record, in topic order; an empty one retires its worker."""
    if not value:
        found.pop((key or b"").decode(errors="replace").partition("/")[2], None)
        return
    try:
        report = _decoder.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return
    found[report.source] = report
