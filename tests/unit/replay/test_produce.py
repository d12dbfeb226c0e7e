"""Fails when a user's events go to another partition than Kafka's own partitioner chooses."""

from __future__ import annotations

import socket

import polars as pl
import pytest
from aiokafka.partitioner import murmur2 as reference
from hypothesis import given
from hypothesis import strategies as st

from replay.errors import BrokerError
from replay.lag import lag_of
from replay.produce import check_broker, murmur2, partitions_of


@given(st.lists(st.binary(max_size=40), max_size=30))
def test_murmur2_is_kafkas(keys: list[bytes]) -> None:
    assert murmur2(keys).tolist() == [reference(key) for key in keys]


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=30), st.integers(1, 64)
)
def test_partitions_are_those_of_the_default_partitioner(users: list[str], count: int) -> None:
    got = partitions_of(pl.Series("user_id", users, dtype=pl.String), count)
    assert got.tolist() == [(reference(user.encode()) & 0x7FFFFFFF) % count for user in users]


def test_no_broker_says_how_to_get_one() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(BrokerError, match=f"127.0.0.1:{port}.*surgeline broker.*KAFKA_BOOTSTRAP"):
        check_broker(f"127.0.0.1:{port}")
    with pytest.raises(BrokerError, match="'nonsense' is not host:port"):
        check_broker("nonsense")


def test_lag_counts_partitions_that_were_never_committed() -> None:
    ends = {("a", 0): 10, ("a", 1): 7}
    assert lag_of(ends, {}) is None
    assert lag_of(ends, {("a", 0): -1}) is None
    assert lag_of(ends, {("a", 0): 4}) == 13
    assert lag_of(ends, {("a", 0): 12, ("a", 1): 7}) == 0
