"""Whether producers put a user's events where they meet: a sample of keys against their partitions.

A worker joins what its own partitions bring. With Kafka's default partitioner (murmur2 of the key, the user
id) a user's events of every kind are in partitions of one number, which one worker has. With another one
they may not be, and nothing fails: clicks find no impression, that is all. So a few keys a second are hashed.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
from aiokafka.partitioner import murmur2

from contracts.scenario import Topics
from stream.decode import Record, is_msgpack
from stream.metrics import WorkerMetrics
from stream.notices import Notices
from stream.transport import PartitionBatch

#: Keys of one topic that are looked at between two reports: so many, one more for so many records, and no
#: more than. One takes 10 to 30 us, which is what a record costs, so this is 0.4 % of a full load and less.
KEYS_AT_LEAST = 8
RECORDS_A_KEY = 256
KEYS_AT_MOST = 64
#: Of one batch, so that every partition has its turn.
KEYS_A_BATCH = 8
#: Seconds between the first misplaced key and the verdict; until then the other topics' keys come, too. The
#: second: while so few have come that all topics may well agree on another rule.
SETTLE_S, AT_LAST_S = 5.0, 15.0
#: Seconds after which evidence is forgotten: a producer that was mended is not held against anybody.
WINDOW_S = 60.0
#: Keys that a pattern must explain without an exception: with four partitions chance explains 1 of 65,536.
ENOUGH = 8
#: Earlier partition counts that are tried, a topic's own and those below.
COUNTS_TRIED = 64

PARTITIONER, NO_KEY, OTHER_KEY, AGREED = "partitioner", "no_key", "other_key", "agreed"
REASONS = (PARTITIONER, NO_KEY, OTHER_KEY, AGREED)
CRC32, FNV1A = "crc32 of the user id", "FNV-1a of the user id"

_MEND = (
    "Set murmur2 in every producer (librdkafka: partitioner=murmur2_random, "
    "kcat: -X partitioner=murmur2_random)"
)
_HARM = "A user's impressions, actions and behaviours then meet only where one worker has all the partitions."


class _Owner(msgspec.Struct):
    user_id: str


_json = msgspec.json.Decoder(_Owner)
_msgpack = msgspec.msgpack.Decoder(_Owner)


def right_partition(user: bytes, partitions: int) -> int:
    """Where Kafka's default partitioner puts a key.

    >>> right_partition(b"user-1", 4), right_partition(b"user-1", 1)
    (0, 0)
    """
    return int((murmur2(user) & 0x7FFFFFFF) % partitions)


def other_places(user: bytes, partitions: int) -> dict[str, int]:
    """Where other rules put a user: what they are called, and the partition.

    librdkafka's ``consistent`` is crc32, and so is its default for records with a key; its ``fnv1a`` is that
    of Sarama. Records from before a topic grew lie where fewer partitions put them.
    """
    places = {CRC32: zlib.crc32(user) % partitions, FNV1A: _fnv1a(user) % partitions}
    murmur = murmur2(user) & 0x7FFFFFFF
    for count in range(partitions - 1, max(partitions - COUNTS_TRIED, 0), -1):
        places[f"murmur2 over {count} partition{'s' if count > 1 else ''}"] = int(murmur % count)
    return places


def _fnv1a(key: bytes) -> int:
    value = 0x811C9DC5
    for byte in key:
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value if value < 1 << 31 else (1 << 32) - value


@dataclass
class _Evidence:
    """What was seen in a topic since the first misplaced key of either."""

    since: float
    #: Keys looked at, and those of them in another partition, by reason.
    checked: int = 0
    misplaced: Counter[str] = field(default_factory=Counter)
    #: Rules that explain every key, and those that explain every misplaced one with the user id as its key.
    explain_all: dict[str, None] | None = None
    explain_misplaced: dict[str, None] | None = None
    #: (partition, offset, partition where it belongs) of a record, by reason.
    example: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    partitions: int = 0


class KeyCheck:
    """Looks at keys in ``look``; counts, and says what is wrong, in ``report``. One thread uses it."""

    def __init__(
        self,
        topics: Topics,
        metrics: WorkerMetrics,
        clock: Callable[[], float] = time.monotonic,
        at_least: int = KEYS_AT_LEAST,
    ) -> None:
        self._topics = topics.sources
        self._joined = (topics.impressions, topics.actions)
        self._metrics = metrics
        self._clock = clock
        self._at_least = at_least
        #: Since the last report, by topic: records that came, and keys that were looked at.
        self._records: Counter[str] = Counter()
        self._looked: Counter[str] = Counter()
        self._turn = 0
        self._checked: Counter[str] = Counter()
        self._uncounted: dict[str, Counter[str]] = {topic: Counter() for topic in self._topics}
        self._evidence: dict[str, _Evidence] = {}
        self._partitions: dict[str, int] = {}
        self._rule: str | None = None
        for topic in self._topics:
            metrics.checked_keys.labels(topic)
            for reason in REASONS:
                metrics.misplaced_keys.labels(topic, reason)

    def look(self, batch: PartitionBatch) -> None:
        """Compare some of a batch's keys with its partition."""
        if not batch.partitions:
            return
        self._partitions[batch.topic] = batch.partitions
        topic, records = batch.topic, batch.records
        self._records[topic] += len(records)
        allowed = min(self._at_least + self._records[topic] // RECORDS_A_KEY, KEYS_AT_MOST)
        wanted = min(KEYS_A_BATCH, allowed - self._looked[topic], len(records))
        for record in _spread(records, wanted, self._turn):
            self._look(batch, record)
        self._looked[topic] += wanted
        self._turn += 1

    def _look(self, batch: PartitionBatch, record: Record) -> None:
        user = _user_of(record.value)
        if not user:
            return  # a watermark, or garbage that the decoder refuses
        topic, partitions = batch.topic, batch.partitions
        right = right_partition(user, partitions)
        self._checked[topic] += 1
        if right != batch.partition and not self._evidence:
            self._evidence = {name: _Evidence(self._clock()) for name in self._topics}
        evidence = self._evidence.get(topic)
        if evidence is None:
            return
        evidence.checked += 1
        evidence.partitions = partitions
        rules = [name for name, at in other_places(user, partitions).items() if at == batch.partition]
        evidence.explain_all = _both(evidence.explain_all, rules)
        if right == batch.partition:
            return
        reason = NO_KEY if record.key is None else PARTITIONER if record.key == user else OTHER_KEY
        evidence.misplaced[reason] += 1
        evidence.example.setdefault(reason, (batch.partition, record.offset, right))
        self._uncounted[topic][reason] += 1
        if reason == PARTITIONER:
            evidence.explain_misplaced = _both(evidence.explain_misplaced, rules)

    def report(self, notices: Notices) -> None:
        """Once a tick: bring the counters up to date, and say what a person should put right."""
        for topic, count in self._checked.items():
            self._metrics.checked_keys.labels(topic).inc(count)
        self._checked.clear()
        self._records.clear()
        self._looked.clear()
        self._compare_counts(notices)
        now = self._clock()
        agreed, enough = self._agreed()
        settled_after = SETTLE_S if enough else AT_LAST_S
        for topic, evidence in self._evidence.items():
            if now - evidence.since < settled_after:
                continue
            for reason, count in self._uncounted[topic].items():
                label = AGREED if agreed and reason == PARTITIONER else reason
                self._metrics.misplaced_keys.labels(topic, label).inc(count)
            self._uncounted[topic].clear()
            for reason, count in evidence.misplaced.items():
                if reason == PARTITIONER and agreed:
                    self._say_agreed(notices, agreed)
                else:
                    notices.say("misplaced_keys", _words(topic, evidence, reason, count), f"{topic} {reason}")
        if any(now - evidence.since >= WINDOW_S for evidence in self._evidence.values()):
            self._evidence.clear()

    def _agreed(self) -> tuple[str | None, bool]:
        """The rule that explains every key of all topics: then a user's events meet all the same.

        One that was found stays as long as no key contradicts it: evidence is forgotten now and then. The
        second: whether enough was seen to say that there is one, or that there is none.
        """
        common: dict[str, None] | None = None
        for evidence in self._evidence.values():
            if evidence.explain_all is not None:
                common = _both(common, list(evidence.explain_all))
        if common is None:
            return self._rule, True
        # There may be no behaviours: a topic without records contradicts nobody.
        asked = [one for topic, one in self._evidence.items() if one.checked or topic in self._joined]
        enough = all(one.checked >= ENOUGH for one in asked)
        if self._rule not in common:
            self._rule = next(iter(common), None) if enough else None
        return self._rule, enough or not common or self._rule is not None

    def _say_agreed(self, notices: Notices, rule: str) -> None:
        topics = " and ".join(topic for topic in self._topics if topic in self._evidence)
        notices.say(
            "keys_agree",
            f"{topics} are all partitioned by {rule}, not by murmur2 as it would be now. A "
            "user's events meet all the same as long as every producer of them does so. "
            f"{_MEND} before others write",
            level=logging.INFO,
        )

    def _compare_counts(self, notices: Notices) -> None:
        counts = {topic: self._partitions[topic] for topic in self._topics if topic in self._partitions}
        if len(set(counts.values())) > 1:
            have = " and ".join(f"{topic} has {count}" for topic, count in counts.items())
            notices.say(
                "partition_counts",
                f"Partitions now: {have}. A user's events no longer meet. Give all the same number",
            )


def _words(topic: str, evidence: _Evidence, reason: str, count: int) -> str:
    partition, offset, right = evidence.example[reason]
    found = (
        f"{count} of {evidence.checked} keys looked at in {topic} lie in another partition than murmur2 of "
        f"the user id gives, for example offset {offset} of partition {partition}, which belongs in {right}"
    )
    if reason == NO_KEY:
        return f"{found}: these records have no key. {_HARM} Make the user id the key"
    if reason == OTHER_KEY:
        return (
            f"{found}: their key is not the user id as plain text. {_HARM} Make the user id the key of "
            "every event"
        )
    rules = evidence.explain_misplaced or {}
    rule = next(iter(rules), None) if count >= ENOUGH else None
    if rule == CRC32:
        return f"{found}; they lie where crc32 puts them, librdkafka's default. {_HARM} {_MEND}"
    if rule == FNV1A:
        return f"{found}; they lie where FNV-1a puts them, Sarama's default. {_HARM} {_MEND}"
    if rule is not None:
        return (
            f"{found}; they lie where {rule} puts them: the topic has grown to {evidence.partitions} since, "
            "and users have moved. What was written before and after meets only where one worker has both "
            "partitions. It passes with the old records; do not add partitions during a sale"
        )
    return (
        f"{found}. {_HARM} {_MEND}; a producer that chooses partitions itself must choose the same number "
        "for a user in every topic"
    )


def _spread(records: Sequence[Record], wanted: int, turn: int) -> Sequence[Record]:
    """``wanted`` records at equal distances, from a place that moves from batch to batch."""
    if wanted <= 0:
        return ()
    step = len(records) // wanted or 1
    return records[turn % step :: step][:wanted]


def _user_of(value: bytes | None) -> bytes | None:
    if not value:
        return None
    try:
        owner = (_msgpack if is_msgpack(value) else _json).decode(value)
        return owner.user_id.encode()
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def _both(left: dict[str, None] | None, right: Sequence[str]) -> dict[str, None]:
    """What is in both, in the order of ``right``; ``left`` None stands for everything."""
    return {name: None for name in right if left is None or name in left}
