"""A broker outage in the log: one line when it begins, one a minute while it lasts, one when it ends.

Kafka's clients log every attempt of every task, 150 lines a second in a worker. A filter on their loggers
knows the lines that say "no broker answers" by logger, text and error, holds them back and counts them.
Everything else passes, also in an outage: a wrong password or certificate is not waited for.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterable

from aiokafka.errors import KafkaError

logger = logging.getLogger(__name__)

#: Seconds between two lines while an outage lasts.
AGAIN_S = 60.0
#: An answer ends an outage only when nothing failed for so long: one of three brokers may be gone.
SETTLED_S = 5.0

#: Logger -> beginnings of what it says of a broker that does not answer. Held back only where the error that
#: the line names is one of the connection.
_CAUSES = {
    "aiokafka": ("Unable connect to", "Unable to request metadata from"),
    "aiokafka.consumer.fetcher": ("Failed fetch messages from", "Failed fetch offsets from"),
    "aiokafka.consumer.group_coordinator": (
        "Error sending %s to node",
        "Group Coordinator Request failed",
        "Heartbeat send request failed",
        "LeaveGroup request failed",
        "OffsetCommit failed before join",
        "Failed to commit on finallization",
    ),
    "aiokafka.producer.sender": (
        "Got error produce response",
        "Cannot send",
        "Could not send",
        "FindCoordinator Request failed",
    ),
    "serving.feed": ("%s: lost",),
    "stream.runtime": ("Publishing version", "%d dead letters cannot be written"),
}
#: What follows from an outage, without an error of its own: held back while one lasts, and only then.
_CONSEQUENCES = {
    "aiokafka": ("Unable to update metadata from",),
    "aiokafka.consumer.group_coordinator": (
        "Heartbeat session expired",
        "Marking the coordinator dead",
        # By a coordinator that ends in order, a line a partition.
        "OffsetCommit failed for group %s due to a",
    ),
    "mode.timers": ("Timer %s is overlapping",),
    # Faust's flight recorder, by the name of our consumer's module: a commit that waits for five minutes.
    "stream.transport": (
        "Warning: Task timed out!",
        "Please make sure it's hanging",
        "[%s] ",
        "Stack for ",
    ),
    "faust.transport.drivers.aiokafka": (
        "Aiokafka stopped fetching from",
        "Broker stopped responding to fetch requests",
        "Has not committed",
        "Stream stopped processing",
    ),
}


def is_lost_connection(error: object) -> bool:
    """Whether an error (or its class) says that a broker cannot be reached or is not ready now.

    >>> is_lost_connection(ConnectionRefusedError()), is_lost_connection(ssl.SSLError())
    (True, False)
    """
    kind = error if isinstance(error, type) else type(error)
    if issubclass(kind, KafkaError):
        return bool(getattr(kind, "retriable", False))
    return issubclass(kind, OSError | TimeoutError) and not issubclass(kind, ssl.SSLError)


class Outage(logging.Filter):
    """The filter, and the state of the connection that it sees. Any thread may use it."""

    def __init__(
        self,
        again_s: float = AGAIN_S,
        settled_s: float = SETTLED_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._again_s = again_s
        self._settled_s = settled_s
        self._clock = clock
        self._lock = threading.RLock()
        self._over: threading.Event | None = None
        self._began = self._failed_at = 0.0
        self._answered_at: float | None = None
        #: Who failed and has not had an answer since: feeds by topic, "" where a line names nobody.
        self._failing: set[str] = set()
        self._last = ""
        #: Lines held back in this outage.
        self.held_back = 0

    @property
    def lasts(self) -> bool:
        """Whether an outage has begun and not ended."""
        return self._over is not None

    def filter(self, record: logging.LogRecord) -> bool:
        """False for a line that is held back; the first of an outage is said in a line of our own."""
        text = str(record.msg)
        if _says(record, text, _CAUSES):
            if not _lost_connection_in(record):
                return True
            self._failed(record)
            return False
        if self.lasts and _says(record, text, _CONSEQUENCES):
            with self._lock:
                self.held_back += 1
            return False
        return True

    def answered(self, who: str = "") -> None:
        """A broker has answered (``who``: the topic, where several are followed): perhaps the end."""
        with self._lock:
            if self._over is None:
                return
            now = self._clock()
            if self._answered_at is None:
                self._answered_at = now
            self._failing.discard(who)
            if self._failing - {""} or now - self._failed_at < self._settled_s:
                return
            lasted, held_back = self._answered_at - self._began, self.held_back
            self._end()
        logger.warning("Kafka answers again after %s (%s)", _duration(lasted), _lines(held_back))

    def given_up(self, who: str = "") -> None:
        """``who`` waits for a broker no more: with nobody left that does, no line says that none answers."""
        with self._lock:
            self._failing.discard(who)
            if not self._failing - {""}:
                self._end()

    def _end(self) -> None:
        """No outage lasts any more; the caller has the lock."""
        if self._over is not None:
            self._over.set()
            self._over = None
        self._failing.clear()

    def still(self) -> None:
        """The line of every minute."""
        with self._lock:
            if self._over is None:
                return
            lasted, held_back, last = self._clock() - self._began, self.held_back, self._last
        logger.warning(
            "Kafka has not answered for %s (%s), the last: %s", _duration(lasted), _lines(held_back), last
        )

    def _failed(self, record: logging.LogRecord) -> None:
        with self._lock:
            self.held_back += 1
            self._last = record.getMessage()
            self._failed_at = self._clock()
            self._answered_at = None
            self._failing.add(_who(record))
            if self._over is not None:
                return
            self._began = self._failed_at
            self.held_back = 1
            self._over = threading.Event()
            threading.Thread(
                target=self._watch, args=(self._over,), name="surgeline-outage", daemon=True
            ).start()
        logger.warning(
            "Kafka does not answer: %s. Trying until it does; a line a minute says so", self._last.rstrip(".")
        )

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(self._again_s):
            self.still()


_outage = Outage()


def install() -> Outage:
    """Put this process's filter on the loggers that it knows. Safe to call again."""
    for name in {**_CAUSES, **_CONSEQUENCES}:
        logging.getLogger(name).addFilter(_outage)
    return _outage


def answered(who: str = "") -> None:
    """Tell this process's filter that a broker has answered."""
    _outage.answered(who)


def given_up(who: str = "") -> None:
    """Tell this process's filter that its client (``who``: the topic it followed) has stopped trying."""
    _outage.given_up(who)


def _says(record: logging.LogRecord, text: str, known: dict[str, tuple[str, ...]]) -> bool:
    beginnings = known.get(record.name, ())
    # Faust's services put their own name before what they say: "[^---AIOKafkaConsumerThread]: ".
    said = text.partition("]: ")[2] if text.startswith("[^") else text
    return said.startswith(beginnings)


def _lost_connection_in(record: logging.LogRecord) -> bool:
    named = [argument for argument in _arguments(record) if _is_error(argument)]
    return bool(named) and all(is_lost_connection(error) for error in named)


def _is_error(argument: object) -> bool:
    return isinstance(argument, BaseException) or (
        isinstance(argument, type) and issubclass(argument, BaseException)
    )


def _arguments(record: logging.LogRecord) -> Iterable[object]:
    return record.args if isinstance(record.args, tuple) else ()


def _who(record: logging.LogRecord) -> str:
    return str(next(iter(_arguments(record)), "")) if record.name == "serving.feed" else ""


def _lines(count: int) -> str:
    return f"{count:,} line{'s' if count != 1 else ''} of its clients held back"


def _duration(seconds: float) -> str:
    """
    >>> _duration(9.6), _duration(130), _duration(7260)
    ('10 s', '2 min 10 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
