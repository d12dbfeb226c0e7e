"""How far the engine is behind the replay: records sent minus records committed by its consumer group."""

from __future__ import annotations

import asyncio
import contextlib

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from clients.connection import Connection

EVERY_S = 2.0


class LagProbe:
    """Asks the broker every two seconds; ``value`` is ``None`` as long as the group committed nothing.

    ``ends``: (topic, partition) -> offset behind the last record that was sent, kept up to date by the
    sender. A broker that does not answer leaves the lag unknown (``answered`` is false): a progress line must
    not stop a replay.
    """

    def __init__(self, connection: Connection, group: str, ends: dict[tuple[str, int], int]) -> None:
        self.value: int | None = None
        self.answered = False
        self._connection = connection
        self._group = group
        self._ends = ends
        self._closed = False
        self._wanted = asyncio.Event()
        self._looked = asyncio.Event()

    async def __aenter__(self) -> LagProbe:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        # The client can swallow a cancellation while it waits for a broker: then it is said again.
        self._closed = True
        while not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=0.5)

    async def now(self) -> int | None:
        """A value that is asked for now and not up to two seconds ago."""
        self._looked.clear()
        self._wanted.set()
        await self._looked.wait()
        return self.value

    async def _run(self) -> None:
        while not self._closed:
            admin = AIOKafkaAdminClient(**self._connection.aiokafka(), client_id="surgeline-replay-lag")
            try:
                await admin.start()
                while not self._closed:
                    await self._pause()
                    self.value, self.answered = await self._look(admin), True
                    self._looked.set()
            except (KafkaError, OSError):
                self.value, self.answered = None, False
                await self._pause()
                self._looked.set()
            finally:
                await admin.close()

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wanted.wait(), EVERY_S)
        self._wanted.clear()

    async def _look(self, admin: AIOKafkaAdminClient) -> int | None:
        # The ends of the partitions that are asked for: the sender adds others meanwhile.
        ends = dict(self._ends)
        partitions = [TopicPartition(*key) for key in ends]
        committed = await admin.list_consumer_group_offsets(self._group, partitions=partitions)
        return lag_of(ends, {tuple(tp): meta.offset for tp, meta in committed.items()})


def lag_of(ends: dict[tuple[str, int], int], committed: dict[tuple[str, int], int]) -> int | None:
    """Records between the committed and the sent offsets; ``None`` where nothing is committed.

    >>> lag_of({("t", 0): 10, ("t", 1): 5}, {("t", 0): 4, ("t", 1): -1})
    11
    """
    if not any(offset >= 0 for offset in committed.values()):
        return None
    return sum(max(0, end - max(0, committed.get(key, 0))) for key, end in ends.items())
