"""Fails when a record that is handed out without a ``ConsumerRecord`` lacks what a batch's reader asks for,
and when those of other topics, which have other readers, come without one.
"""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import ConsumerRecord, TopicPartition

from stream.plain_records import hand_out_plain_records

BATCHED, SINGLE = TopicPartition("batched", 0), TopicPartition("single", 0)
WRITTEN = [(0, b"u1", b"{}"), (1, None, b"x" * 300), (2, b"u2", None)]


def modern() -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    for offset, key, value in WRITTEN:
        builder.append(offset, 1_700_000_000_000 + offset, key, value, [])
    return bytes(builder.build())


def legacy() -> bytes:
    builder = LegacyRecordBatchBuilder(1, 0, 1 << 20)
    for offset, key, value in WRITTEN:
        builder.append(offset, 1_700_000_000_000 + offset, key, value)
    return bytes(builder.build())


def fetched(tp: TopicPartition, data: bytes) -> Any:
    records = PartitionRecords(tp, MemoryRecords(data), [], 0, None, None, True, 0)
    return SimpleNamespace(_partition_records=records)


def fetcher() -> Any:
    made = SimpleNamespace(_records=OrderedDict())
    for _ in range(2):  # asked for before every fetch
        hand_out_plain_records(made, lambda topic: topic == "batched")
    return made


@pytest.mark.parametrize("written", [modern, legacy])
def test_a_plain_record_says_what_a_consumer_record_does(written: Any) -> None:
    made = fetcher()
    for tp in (BATCHED, SINGLE):
        made._records[tp] = fetched(tp, written())
    plain, usual = (list(made._records[tp]._partition_records) for tp in (BATCHED, SINGLE))
    assert all(isinstance(record, ConsumerRecord) for record in usual)
    assert not any(isinstance(record, ConsumerRecord) for record in plain)
    for one, other in zip(plain, usual, strict=True):
        for name in ("offset", "key", "value", "timestamp", "timestamp_type"):
            assert getattr(one, name) == getattr(other, name)
    assert [(record.offset, record.key, record.value) for record in plain] == WRITTEN


def test_an_error_takes_the_place_of_records() -> None:
    made = fetcher()
    made._records[BATCHED] = error = SimpleNamespace()
    assert list(made._records.items()) == [(BATCHED, error)]
