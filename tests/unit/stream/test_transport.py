"""Fails when an offset is committed before everything below it is acknowledged, when a state that owns its
offsets has others committed for it, or when topics that did not ask for batches get them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import aiokafka.codec
import faust
import pytest
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.resume import Place
from stream.transport import ANSWER_S, FETCH_WAIT_MS, HELD_WAIT_S, Consumer, PartitionBatch, batch_topic

BATCHED, PLAIN = TP("batched", 0), TP("plain", 0)
OTHER = TP("batched", 1)
#: Of the state, and another worker has it.
ELSEWHERE = TP("batched", 2)


class Fetched(NamedTuple):
    offset: int
    key: bytes | None = None
    value: bytes | None = b""
    timestamp: int | None = 1500
    timestamp_type: int = 0
    headers: tuple[Any, ...] = ()
    checksum: int | None = None
    serialized_key_size: int = 0
    serialized_value_size: int = 0
    topic: str = "plain"
    partition: int = 0


class Owner:
    """A state that owns offsets."""

    def __init__(self) -> None:
        self.durable: dict[TP, int] = {}
        self.asked: list[tuple[dict[TP, Place], dict[TP, Place], int]] = []

    async def remembered(self) -> set[TP]:
        return {BATCHED, ELSEWHERE}

    async def resume(
        self, places: Mapping[TP, Place], elsewhere: Mapping[TP, Place], epoch: int
    ) -> Mapping[TP, int]:
        self.asked.append((dict(places), dict(elsewhere), epoch))
        return {BATCHED: 40, OTHER: 7}

    def commit_text(self, tp: TP) -> str:
        return f"done by us, {tp.partition}"

    def committable(self) -> Mapping[TP, int]:
        return self.durable

    def held_back(self) -> set[TP]:
        return {OTHER}


@pytest.fixture
async def consumer(tmp_path: Path) -> Consumer:
    """The transport's consumer with one batched and one plain topic, and no broker."""
    app = faust.App("unit", broker="batch://127.0.0.1:1", store="memory://", datadir=str(tmp_path / "faust"))
    app.topics.add(batch_topic(app, "batched"))
    app.topics.add(app.topic("plain", acks=True))
    one: Consumer = app.consumer
    assert isinstance(one, Consumer)
    return one


def records(first: int, last: int) -> list[Fetched]:
    return [Fetched(offset) for offset in range(first, last + 1)]


async def fetch(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch, fetched: dict[TP, list[Fetched]]
) -> dict[TP, list[Any]]:
    """What ``getmany`` makes of one answer of the broker."""

    async def answer(_: float) -> Any:
        return fetched, set(fetched)

    monkeypatch.setattr(consumer, "_wait_next_records", answer)
    monkeypatch.setattr(consumer, "highwater", lambda tp: 1000)
    consumer.flow_active = True
    got: dict[TP, list[Any]] = {}
    async for tp, message in consumer.getmany(0.1):
        got.setdefault(tp, []).append(message)
    return got


async def deliver(consumer: Consumer, monkeypatch: pytest.MonkeyPatch, *ends: int) -> list[Any]:
    """Batches of the batched topic that end at these offsets, one fetch each."""
    messages, first = [], 0
    for last in ends:
        got = await fetch(consumer, monkeypatch, {BATCHED: records(first, last)})
        messages += got[BATCHED]
        first = last + 1
    return messages


# -- which topics


async def test_only_topics_that_ask_for_batches_get_them(consumer: Consumer) -> None:
    assert consumer.is_batched("batched")
    assert not consumer.is_batched("plain")
    assert not consumer.is_batched("never heard of")


async def test_a_batched_partition_gives_one_message_and_a_plain_one_gives_one_a_record(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    got = await fetch(
        consumer, monkeypatch, {BATCHED: records(5, 9), PLAIN: records(0, 2), OTHER: records(0, 0)}
    )
    assert {tp: len(messages) for tp, messages in got.items()} == {BATCHED: 1, OTHER: 1, PLAIN: 3}
    (message,) = got[BATCHED]
    assert message.value == PartitionBatch("batched", 0, records(5, 9), consumer.epoch)
    assert (message.offset, message.timestamp, message.key) == (9, 1.5, None)
    assert [message.offset for message in got[PLAIN]] == [0, 1, 2]


async def test_partitions_that_are_not_active_are_left_out(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(_: float) -> Any:
        return {BATCHED: records(0, 1), OTHER: records(0, 1)}, {OTHER}

    monkeypatch.setattr(consumer, "highwater", lambda tp: 2)
    monkeypatch.setattr(consumer, "_wait_next_records", answer)
    consumer.flow_active = True
    assert [tp async for tp, _ in consumer.getmany(0.1)] == [OTHER]


async def test_a_seek_while_a_batch_is_handed_over_ends_what_was_fetched_with_it(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failure: records from before a seek pass for records after it, and those between are skipped.

    Mechanism: an agent's full queue holds the first batch of a fetch back until a rebalance is over.
    Required: the other batches of that fetch are not given: the seek reads them again.
    """

    async def answer(_: float) -> Any:
        return {BATCHED: records(90, 99), OTHER: records(90, 99)}, {BATCHED, OTHER}

    monkeypatch.setattr(consumer, "highwater", lambda tp: 100)
    monkeypatch.setattr(consumer, "_wait_next_records", answer)
    consumer.flow_active = True
    got = []
    async for tp, message in consumer.getmany(0.1):
        got.append((tp, message.value.epoch))
        consumer.epoch += 1
    assert got == [(BATCHED, 0)]


async def test_what_was_fetched_across_a_seek_is_read_again(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeks = []

    async def answer(_: float) -> Any:
        consumer.epoch += 1
        return {BATCHED: records(0, 1)}, {BATCHED}

    async def seek() -> None:
        seeks.append(consumer.epoch)

    monkeypatch.setattr(consumer, "_wait_next_records", answer)
    monkeypatch.setattr(consumer, "perform_seek", seek)
    consumer.flow_active = True
    assert [tp async for tp, _ in consumer.getmany(0.1)] == []
    assert seeks == [1]


# -- commits by acknowledgement


async def test_nothing_is_committed_before_the_first_batch_is_acknowledged(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = await deliver(consumer, monkeypatch, 9, 19, 29)
    consumer.ack(third)
    consumer.ack(second)
    assert consumer._new_offset(BATCHED) is None
    consumer.ack(first)
    assert consumer._new_offset(BATCHED) == 30


async def test_a_commit_stops_before_the_first_batch_that_is_not_acknowledged(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = await deliver(consumer, monkeypatch, 9, 19, 29)
    consumer.ack(first)
    consumer.ack(third)
    assert consumer._new_offset(BATCHED) == 10
    # Committed once: nothing new until the second comes.
    assert consumer._new_offset(BATCHED) is None
    consumer.ack(second)
    assert consumer._new_offset(BATCHED) == 30


async def test_a_second_acknowledgement_of_a_batch_is_none(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = await deliver(consumer, monkeypatch, 9)
    assert consumer.ack(first) is True
    assert consumer.ack(first) is False


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6), data=st.data())
async def test_in_any_order_of_acknowledgement_only_what_is_complete_is_committed(
    consumer: Consumer, sizes: list[int], data: st.DataObject
) -> None:
    consumer._delivered.clear()
    with pytest.MonkeyPatch.context() as patch:
        ends = [sum(sizes[: i + 1]) - 1 for i in range(len(sizes))]
        messages = await deliver(consumer, patch, *ends)
    acknowledged: set[int] = set()
    for i in data.draw(st.permutations(range(len(sizes)))):
        consumer.ack(messages[i])
        acknowledged.add(i)
        complete = next((k for k in range(len(sizes)) if k not in acknowledged), len(sizes))
        offset = consumer._new_offset(BATCHED)
        if offset is not None:
            assert offset == sum(sizes[:complete])
    assert not consumer._delivered[BATCHED]


async def test_gaps_between_batches_hold_nothing_back(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offsets that compaction or transactions left out never come."""
    messages = []
    for first, last in ((0, 3), (10, 12)):
        got = await fetch(consumer, monkeypatch, {BATCHED: records(first, last)})
        messages += got[BATCHED]
        await consumer._add_gap(BATCHED, last + 1, last + 5)
    for message in messages:
        consumer.ack(message)
    assert consumer._new_offset(BATCHED) == 13


async def test_partitions_with_something_to_commit(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deliver(consumer, monkeypatch, 9)
    assert list(consumer._filter_tps_with_pending_acks()) == [BATCHED]
    assert list(consumer._filter_tps_with_pending_acks({"plain"})) == []
    assert list(consumer._filter_tps_with_pending_acks({BATCHED})) == [BATCHED]


async def test_an_old_batch_does_not_stand_for_one_that_was_fetched_again(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, old = await deliver(consumer, monkeypatch, 9, 19)
    consumer.epoch += 1
    consumer._delivered.clear()
    again = (await fetch(consumer, monkeypatch, {BATCHED: records(0, 19)}))[BATCHED]
    consumer.ack(old)
    assert consumer._new_offset(BATCHED) is None
    consumer.ack(again[0])
    assert consumer._new_offset(BATCHED) == 20


async def test_a_revoked_partition_is_forgotten(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = await deliver(consumer, monkeypatch, 9)
    await consumer.on_partitions_revoked({BATCHED})
    consumer.ack(first)
    assert consumer._new_offset(BATCHED) is None


# -- a state that owns the offsets


async def test_an_owner_commits_what_is_durable_and_not_what_is_acknowledged(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer.app.offsets = owner = Owner()
    first, second = await deliver(consumer, monkeypatch, 9, 19)
    consumer.ack(first)
    consumer.ack(second)
    assert consumer._new_offset(BATCHED) is None
    owner.durable = {BATCHED: 12}
    assert consumer._new_offset(BATCHED) == 12
    assert BATCHED in set(consumer._filter_tps_with_pending_acks())


def seekable(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch, batched: int | None = 30, other: int | None = 7
) -> list[dict[TP, int]]:
    """Let the consumer seek without a broker; where to is added to what this returns.

    ``batched``, ``other``: what the group has committed of these partitions.
    """
    sought: list[dict[TP, int]] = []

    async def to_committed() -> dict[TP, int]:
        return {BATCHED: 30, OTHER: 7, PLAIN: 3}

    async def seek_wait(offsets: dict[TP, int]) -> None:
        sought.append(offsets)

    monkeypatch.setattr(consumer, "seek_to_committed", to_committed)
    monkeypatch.setattr(consumer, "assignment", lambda: {BATCHED, OTHER, PLAIN})

    async def highwaters(*tps: TP) -> dict[TP, int]:
        return dict.fromkeys(tps, 99)

    async def earliest(*tps: TP) -> dict[TP, int]:
        return dict.fromkeys(tps, 5)

    async def committed(tps: list[TP]) -> dict[TP, tuple[int | None, str]]:
        assert ELSEWHERE in tps and len(tps) == len(set(tps))
        return {BATCHED: (batched, "of another client"), OTHER: (other, ""), ELSEWHERE: (12, "")}

    monkeypatch.setattr(consumer, "seek_wait", seek_wait)
    monkeypatch.setattr(consumer, "highwaters", highwaters)
    monkeypatch.setattr(consumer, "earliest_offsets", earliest)
    monkeypatch.setattr(consumer._thread, "committed", committed)
    return sought


async def test_a_seek_begins_an_epoch_and_goes_where_the_owner_says(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer.app.offsets = owner = Owner()
    await deliver(consumer, monkeypatch, 9)
    sought = seekable(consumer, monkeypatch)
    before = consumer.epoch
    await consumer.perform_seek()
    assert consumer.epoch == before + 1
    # Plain topics are Faust's own; where owner and group agree, no second seek is needed.
    places = {BATCHED: Place(30, None, 5, 99), OTHER: Place(7, None, 5, 99)}
    assert owner.asked == [(places, {ELSEWHERE: Place(12)}, consumer.epoch)]
    assert sought == [{BATCHED: 40}]
    assert not consumer._delivered
    (message,) = (await fetch(consumer, monkeypatch, {BATCHED: records(40, 41)}))[BATCHED]
    assert message.value.epoch == consumer.epoch


async def test_what_was_thrown_away_before_anything_was_committed_is_read_again(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failure: the first records of a partition are lost in silence, because a seek to the committed offset
    does nothing where that is 0 or none, and a fetch across a rebalance had moved the position on.
    """

    class Beginning(Owner):
        async def resume(
            self, places: Mapping[TP, Place], elsewhere: Mapping[TP, Place], epoch: int
        ) -> Mapping[TP, int]:
            return {BATCHED: 0}

    consumer.app.offsets = Beginning()
    sought = seekable(consumer, monkeypatch, batched=0, other=None)
    await consumer.perform_seek()
    assert sought == [{BATCHED: 0, OTHER: 5}], "OTHER begins at 5"


async def test_of_two_seeks_at_once_the_owner_hears_the_newest_last(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failure: a worker reads for ever and learns nothing, because its state waits for batches of an epoch
    that is over.

    Mechanism: after an outage a rebalance seeks, and so does a fetch that ended across it; the first one's
    owner takes longer (it asks a broker for the topics' ids). What is fetched meanwhile is of no known place.
    """
    heard: list[int] = []

    class Slow(Owner):
        async def resume(
            self, places: Mapping[TP, Place], elsewhere: Mapping[TP, Place], epoch: int
        ) -> Mapping[TP, int]:
            asked = await super().resume(places, elsewhere, epoch)
            await asyncio.sleep(0.05 if len(self.asked) == 1 else 0.0)
            heard.append(epoch)
            return asked

    consumer.app.offsets = Slow()
    seekable(consumer, monkeypatch)
    before = consumer.epoch
    first = asyncio.create_task(consumer.perform_seek())
    await asyncio.sleep(0.01)
    second = asyncio.create_task(consumer.perform_seek())
    assert await fetch(consumer, monkeypatch, {BATCHED: records(30, 39)}) == {}
    await asyncio.gather(first, second)
    assert heard == [before + 1, before + 2, before + 3]
    assert consumer.epoch == heard[-1]


async def test_what_is_committed_bears_the_owners_note(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failure: the next worker knows the lowest open offset and nothing else, and does the rest again."""
    sent: list[dict[Any, Any]] = []

    class Client:
        _isolation_level = "read_uncommitted"

        async def commit(self, offsets: dict[Any, Any]) -> None:
            sent.append(offsets)

    client = Client()
    monkeypatch.setattr(
        driver.AIOKafkaConsumerThread, "_create_worker_consumer", lambda self, transport: client
    )
    consumer.app.offsets = Owner()
    made = consumer._thread._create_worker_consumer(None)
    assert made._isolation_level == "read_committed"
    assert made._fetch_max_wait_ms == FETCH_WAIT_MS
    await made.commit({TopicPartition("batched", 2): OffsetAndMetadata(7, "")})
    assert sent == [{TopicPartition("batched", 2): (7, "done by us, 2")}]
    # The same offset again: its note may say more.
    assert consumer._should_commit(BATCHED, 7)


async def test_partitions_that_the_owner_holds_back_are_not_fetched(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[TP]] = []

    async def getmany(active_partitions: set[TP], **_: Any) -> dict[TP, list[Fetched]]:
        asked.append(active_partitions)
        return {}

    monkeypatch.setattr(consumer, "_get_active_partitions", lambda: {BATCHED, OTHER})
    monkeypatch.setattr(consumer, "_getmany", getmany)
    consumer.flow_active = True
    await consumer._wait_next_records(0.1)
    consumer.app.offsets = Owner()
    await consumer._wait_next_records(0.1)
    assert asked == [{BATCHED, OTHER}, {BATCHED}]


async def test_a_wait_for_some_partitions_is_short_while_others_may_be_wanted_again(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failure: a second's wait for partitions that are at their end, while the engine has run out of the
    others' events, which lie fetched: a backlog of three topics took half as long again."""
    waited: list[float] = []

    async def getmany(**asked: Any) -> dict[TP, list[Fetched]]:
        waited.append(asked["timeout"])
        return {}

    monkeypatch.setattr(consumer, "_get_active_partitions", lambda: {BATCHED, OTHER})
    monkeypatch.setattr(consumer, "_getmany", getmany)
    consumer.flow_active = True
    await consumer._wait_next_records(1.0)
    consumer.on_buffer_full(OTHER)
    await consumer._wait_next_records(1.0)
    consumer.on_buffer_drop(OTHER)
    await consumer._wait_next_records(1.0)
    consumer.app.offsets = Owner()
    await consumer._wait_next_records(1.0)
    assert waited == [1.0, HELD_WAIT_S, 1.0, HELD_WAIT_S]


# -- the end of a partition


async def test_no_partition_is_at_its_end_while_a_batch_of_the_same_fetch_is_handed_over(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failure: events that wait for an agent's full queue are taken for silence, and come late.

    Mechanism: one fetch brings two partitions to their ends; the first batch is handed over. Required: the
    other one is not at its end until its agent is done, too.
    """
    state = SimpleNamespace(position=2, highwater=2, lso=2, timestamp=time.time() * 1000.0)
    monkeypatch.setattr(consumer, "_fetch_state", lambda tp: state)
    monkeypatch.setattr(consumer, "highwater", lambda tp: 2)

    async def answer(_: float) -> Any:
        assert consumer.ended_at(BATCHED) is None, "the fetcher has it, and it is on its way"
        return {BATCHED: records(0, 1), OTHER: records(0, 1)}, {BATCHED, OTHER}

    monkeypatch.setattr(consumer, "_wait_next_records", answer)
    consumer.flow_active = True
    async for tp, message in consumer.getmany(0.1):
        if tp == BATCHED:
            consumer.ack(message)
            assert consumer.ended_at(BATCHED) and not consumer.ended_at(OTHER)
        else:
            consumer.ack(message)
            assert consumer.ended_at(OTHER)


async def test_an_end_is_known_while_the_broker_answers(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failure: an outage counts as silence, time runs on, and the backlog comes late."""
    now = time.time() * 1000.0
    state = SimpleNamespace(position=5, highwater=5, lso=5, timestamp=now)
    monkeypatch.setattr(consumer, "_fetch_state", lambda tp: state)
    assert consumer.ended_at(BATCHED) is None, "what was fetched up to there is still on its way here"
    consumer._taken[BATCHED] = 5
    assert consumer.ended_at(BATCHED)
    # What came since the answer is not known: it says when it was.
    state.timestamp = now - 1000.0
    said = consumer.ended_at(BATCHED)
    assert said is not None and said <= time.monotonic() - 1.0
    state.timestamp = now - 2000.0 * ANSWER_S
    assert not consumer.ended_at(BATCHED)
    state.timestamp, state.highwater, state.lso = now, 6, 6
    assert not consumer.ended_at(BATCHED)
    # An open transaction: what is in it and behind it cannot be read yet, and nothing waits for it.
    state.lso = 5
    assert consumer.ended_at(BATCHED)
    assert consumer.lag(BATCHED) == 0


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_every_compression_that_a_producer_may_choose_can_be_read(codec: str) -> None:
    """Failure: a producer sets ``compression.type`` and every worker stops at its first batch."""
    assert getattr(aiokafka.codec, f"has_{codec}")()
