"""The limit from above: aiokafka's ``getmany`` to the topics' end, and nothing done with what it brings.

Run as a process of its own: ``python -m bench._raw_fetch BOOTSTRAP RECORDS TOPIC...`` prints one JSON
object with the records, the seconds by the clock and the CPU seconds of this process (all its threads),
from before the first fetch to after the last. Connecting and assignment come before that.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition

from bench._watch import machine_cpu
from clients.connection import connection


async def fetch(bootstrap: str, expected: int, topics: Sequence[str]) -> dict[str, float]:
    """Read ``topics`` from their beginning until ``expected`` records have come."""
    consumer = AIOKafkaConsumer(**connection(bootstrap=bootstrap).aiokafka(), enable_auto_commit=False)
    await consumer.start()
    try:
        await consumer._client.force_metadata_update()
        partitions = [
            TopicPartition(topic, partition)
            for topic in topics
            for partition in sorted(await _partitions(consumer, topic))
        ]
        begin, cpu, machine = time.perf_counter(), time.process_time(), machine_cpu()
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        seen = 0
        while seen < expected:
            fetched = await consumer.getmany(timeout_ms=5_000)
            if not fetched:
                break
            seen += sum(map(len, fetched.values()))
        wall_s, cpu_s = time.perf_counter() - begin, time.process_time() - cpu
        elsewhere_s = max(machine_cpu() - machine - cpu_s, 0.0)
        return {"events": seen, "wall_s": wall_s, "cpu_s": cpu_s, "elsewhere_s": elsewhere_s}
    finally:
        await consumer.stop()


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
    for _ in range(100):
        await consumer._client.add_topic(topic)
        known = consumer.partitions_for_topic(topic)
        if known:
            return set(known)
        await asyncio.sleep(0.1)
    raise SystemExit(f"topic {topic} is not there")


if __name__ == "__main__":
    print(json.dumps(asyncio.run(fetch(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))))
