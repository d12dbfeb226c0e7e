"""How far the engine is behind the replay: records sent minus records committed by its consumer group."""

from __future__ import annotations

import asyncio

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from stream.connection import Connection

EVERY_S = 2.0


class LagProbe:
    """Asks the broker every two seconds; ``value`` is ``None`` as long as the group committed nothing.

    ``ends``: (topic, partition) -> offset behind the last record that was sent, kept up to date by the
    sender. A broker that does not answer leaves the lag unknown: a progress line must not stop a replay.
    """

    def __init__(self, connection: Connection, group: str, ends: dict[tuple[str, int], int]) -> None:
        self.value: int | None = None
        self._connection = connection
        self._group = group
        self._ends = ends

    async def __aenter__(self) -> LagProbe:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        admin = AIOKafkaAdminClient(**self._connection.aiokafka(), client_id="surgeline-replay-lag")
        try:
            await admin.start()
            while True:
                await asyncio.sleep(EVERY_S)
                # The ends of the partitions that are asked for: the sender adds others meanwhile.
                ends = dict(self._ends)
                partitions = [TopicPartition(*key) for key in ends]
                committed = await admin.list_consumer_group_offsets(self._group, partitions=partitions)
                self.value = lag_of(ends, {tuple(tp): meta.offset for tp, meta in committed.items()})
        except (KafkaError, OSError):
            self.value = None
        finally:
            await admin.close()


def lag_of(ends: dict[tuple[str, int], int], committed: dict[tuple[str, int], int]) -> int | None:
    """Records between the committed and the sent offsets; ``None`` where nothing is committed.

    >>> lag_of({("t", 0): 10, ("t", 1): 5}, {("t", 0): 4, ("t", 1): -1})
    11
    """
    if not any(offset >= 0 for offset in committed.values()):
        return None
    return sum(max(0, end - max(0, committed.get(key, 0))) for key, end in ends.items())
