"""Fails when a broker outage fills the log, or when quiet hides what it must not.

Failure: 110 ERROR lines a second while no broker answers; or a wrong password that waits unseen behind them.
Mechanism: the lines that aiokafka 0.14, Faust and serving really log, on their real loggers. Required: one
line when it begins, one each minute with age and count, one when it ends, everything else as it was.
"""

from __future__ import annotations

import inspect
import logging
import ssl
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import mode.utils.logging
import mode.utils.tracebacks
import pytest
from aiokafka.errors import (
    AuthenticationFailedError,
    KafkaConnectionError,
    NodeNotReadyError,
    NotLeaderForPartitionError,
    RequestTimedOutError,
    TopicAuthorizationFailedError,
)
from mode import get_logger

from clients.quiet import _CAUSES, _CONSEQUENCES, Outage
from stream.transport import Consumer

REFUSED = ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 9092)")
NOT_READY = NodeNotReadyError("Attempt to send a request to node which is not ready (node id 1).")
#: What a worker logged when its broker was killed: logger, text, arguments.
LINES: list[tuple[str, str, tuple[Any, ...]]] = [
    ("aiokafka.consumer.fetcher", "Failed fetch messages from %s: %s", (1, KafkaConnectionError("closed"))),
    ("aiokafka", "Unable to request metadata from node with id %s: %r", (1, KafkaConnectionError())),
    ("aiokafka", "Unable to update metadata from %s", ([1],)),
    ("aiokafka", "Unable connect to node with id %s: %s", (1, REFUSED)),
    ("aiokafka.producer.sender", "Got error produce response: %s", (RequestTimedOutError(),)),
    (
        "aiokafka.producer.sender",
        "Got error produce response on topic-partition %s, retrying. Error: %s",
        ("tp", NotLeaderForPartitionError),
    ),
    ("aiokafka.consumer.group_coordinator", "Group Coordinator Request failed: %s", (NOT_READY,)),
    ("aiokafka.consumer.group_coordinator", "Heartbeat session expired - marking coordinator dead", ()),
    ("aiokafka.consumer.group_coordinator", "Marking the coordinator dead (node %s)for group %s.", (1, "g")),
    (
        "aiokafka.consumer.group_coordinator",
        "OffsetCommit failed for group %s due to a coordinator error (%s), will find new coordinator",
        ("g", "NotCoordinatorForGroupError"),
    ),
    ("mode.timers", "Timer %s is overlapping (interval=%r runtime=%r)", ("tick", 1.0, 40.2)),
    (
        "faust.transport.drivers.aiokafka",
        "[^---AIOKafkaConsumerThread]: Aiokafka stopped fetching from %r (last done %s)",
        ("tp", "5 minutes ago"),
    ),
    ("stream.transport", "[^--Consumer]: Warning: Task timed out!", ()),
    ("stream.transport", "[^--Consumer]: [%s] -End of log-", ("Flight Recorder-21",)),
    ("stream.runtime", "Publishing version %d failed: %r; the next tick tries again", (7, NOT_READY)),
    ("serving.feed", "%s: lost %s (%r); trying again", ("weights", "b:9092", TimeoutError())),
]
#: What nobody may hold back, whatever else happens.
OTHERS: list[tuple[str, str, tuple[Any, ...]]] = [
    ("aiokafka", "Unable connect to node with id %s: %s", (1, ssl.SSLCertVerificationError("CA"))),
    ("aiokafka", "Unable connect to node with id %s: %s", (1, AuthenticationFailedError("no"))),
    ("aiokafka.producer.sender", "Got error produce response: %s", (TopicAuthorizationFailedError(),)),
    ("aiokafka.consumer.group_coordinator", "Heartbeat failed: %r", (NOT_READY,)),
    ("stream.runtime", "Publishing version %d failed: %r; the next tick tries again", (7, ValueError("NaN"))),
    ("stream.engine", "Unable connect to node with id %s: %s", (1, REFUSED)),
]


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Heard:
    """What gets through, and the filter under test on every logger that it knows."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.clock = Clock()
        self.outage = Outage(again_s=3600.0, clock=self.clock)
        self._caplog = caplog

    def emit(self, *lines: tuple[str, str, tuple[Any, ...]]) -> list[str]:
        self._caplog.clear()
        for name, text, arguments in lines:
            logging.getLogger(name).error(text, *arguments)
        return self.texts()

    def texts(self) -> list[str]:
        said = [record.getMessage() for record in self._caplog.records]
        self._caplog.clear()
        return said


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[Heard]:
    heard = Heard(caplog)
    loggers = [logging.getLogger(name) for name in {**_CAUSES, **_CONSEQUENCES}]
    # Another test of this process may have installed the process's own filter.
    before = [list(logger.filters) for logger in loggers]
    for logger in loggers:
        logger.filters[:] = [heard.outage]
    yield heard
    for logger, filters in zip(loggers, before, strict=True):
        logger.filters[:] = filters
    heard.clock.now += 60.0
    for _, _, arguments in LINES:
        heard.outage.answered(str(arguments[0]) if arguments else "")


def test_an_outage_is_three_kinds_of_lines(heard: Heard) -> None:
    """A thousand attempts; then a minute; then answers."""
    first = heard.emit(*LINES * 100)
    assert len(first) == 1
    assert "does not answer" in first[0] and "Failed fetch messages from 1" in first[0]
    heard.clock.now += 60.0
    heard.outage.still()
    (minute,) = heard.texts()
    assert "1 min 0 s" in minute and f"{len(LINES) * 100:,} lines" in minute
    heard.clock.now += 30.0
    heard.outage.answered("weights")
    (end,) = heard.texts()
    assert "again after 1 min 30 s" in end and f"{len(LINES) * 100:,} lines" in end
    heard.outage.still()
    heard.outage.answered()
    assert heard.texts() == []


@pytest.mark.parametrize("line", OTHERS)
def test_everything_else_passes(heard: Heard, line: tuple[str, str, tuple[Any, ...]]) -> None:
    """Before an outage and in one: errors that waiting does not heal, and other loggers' words."""
    said = line[1] % line[2]
    assert heard.emit(line) == [said]
    heard.emit(*LINES)
    assert heard.emit(line) == [said]


def test_consequences_alone_are_no_outage(heard: Heard) -> None:
    """A slow tick or a coordinator that moved is news of its own while the broker answers."""
    alone = [line for line in LINES if line[0] in _CONSEQUENCES and not _names_an_error(line)]
    assert len(alone) == 8
    assert len(heard.emit(*alone)) == 8


def _names_an_error(line: tuple[str, str, tuple[Any, ...]]) -> bool:
    return any(isinstance(argument, BaseException | type) for argument in line[2])


def test_one_broker_of_three_does_not_flap(heard: Heard) -> None:
    """While one still fails, answers of the others end nothing; silence after an answer does."""
    assert len(heard.emit(LINES[0])) == 1
    for _ in range(20):
        heard.clock.now += 1.0
        assert heard.emit(LINES[0]) == []
        heard.outage.answered()
    assert heard.texts() == []
    heard.clock.now += 4.0
    heard.outage.answered()
    heard.clock.now += 4.0
    heard.outage.answered()
    (end,) = heard.texts()
    assert "again after 20 s" in end, "the age ends with the first answer that lasted"


def test_an_answer_for_one_topic_is_not_one_for_the_other(heard: Heard) -> None:
    """Serving follows two topics; the slower retries of one outlast the settling time."""
    lost = [("serving.feed", "%s: lost %s (%r); trying again", (t, "b", TimeoutError())) for t in "ab"]
    assert len(heard.emit(*lost)) == 1
    heard.clock.now += 20.0
    heard.outage.answered("a")
    assert heard.texts() == []
    heard.outage.answered("b")
    assert len(heard.texts()) == 1


def test_who_gives_up_says_no_more(heard: Heard) -> None:
    """A replay that ends without its broker must not go on, in the same process, to say that none answers."""
    heard.emit(LINES[0])
    heard.outage.given_up()
    heard.outage.still()
    heard.outage.answered()
    assert heard.texts() == [] and not heard.outage.lasts
    assert len(heard.emit(LINES[0])) == 1


def test_a_feed_that_ends_leaves_the_others_waiting(heard: Heard) -> None:
    """A scorer that is stopped in an outage must not leave a line a minute, nor end another feed's outage."""
    lost = [("serving.feed", "%s: lost %s (%r); trying again", (t, "b:9092", TimeoutError())) for t in "ab"]
    heard.emit(*lost)
    heard.outage.given_up("a")
    assert heard.outage.lasts
    heard.outage.given_up("b")
    heard.outage.still()
    assert heard.texts() == [] and not heard.outage.lasts


def test_a_second_outage_is_said_again(heard: Heard) -> None:
    """And counts from nothing."""
    heard.emit(LINES[0])
    heard.clock.now += 10.0
    heard.outage.answered()
    assert len(heard.emit(LINES[3], LINES[0])) == 1
    assert heard.outage.held_back == 2


def test_faust_s_flight_recorder_is_a_consequence() -> None:
    """A commit that waits for five minutes is fifty lines with a stack; its texts are Faust's."""
    source = inspect.getsource(mode.utils.logging) + inspect.getsource(mode.utils.tracebacks)
    for beginning in _CONSEQUENCES["stream.transport"]:
        assert beginning in source
    assert get_logger(Consumer.__module__).name == "stream.transport"


@pytest.mark.parametrize("name", sorted({**_CAUSES, **_CONSEQUENCES}.keys() - {"stream.transport"}))
def test_every_line_that_is_known_is_said_by_its_logger(name: str) -> None:
    """A new version of a client that words a line anew would fill the log again: fails here."""
    module = import_module({"aiokafka": "aiokafka.client"}.get(name, name))
    log = getattr(module, "log", None) or module.logger
    assert log.name == name
    source = inspect.getsource(module)
    for beginning in (*_CAUSES.get(name, ()), *_CONSEQUENCES.get(name, ())):
        assert beginning in source, f"{name} says nothing that begins with {beginning!r}"
