"""Keeps a scorer up to date from the weights and features topics, and nothing else."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from aiokafka import ConsumerRecord

from clients.connection import Connection
from serving.admission import Refused, read
from serving.feature_view import FeatureView
from serving.feed import DEFAULTS, Feed, FeedSettings
from serving.scorer import Scorer

log = logging.getLogger(__name__)

#: Rows that are decoded in one go: about a millisecond, what a request may have to wait for.
CHUNK = 250
#: Seconds before a refusal of the same reason is said again: a worker on another trunk publishes each second.
AGAIN_S = 60.0


class Follower:
    """Two feeds, so that a long features topic never delays new weights."""

    def __init__(
        self,
        scorer: Scorer,
        connection: Connection,
        weights_topic: str,
        features_topic: str,
        settings: FeedSettings = DEFAULTS,
    ) -> None:
        self.scorer = scorer
        self._said: dict[str, float] = {}
        self.weights = Feed(weights_topic, connection, self._take_weights, settings)
        self.features = Feed(features_topic, connection, self._take_features, settings)

    @property
    def feeds(self) -> tuple[Feed, Feed]:
        """Weights, features."""
        return self.weights, self.features

    @property
    def ready(self) -> bool:
        """Whether both topics have been read to the end that they had at the start."""
        return all(feed.ready.is_set() for feed in self.feeds)

    async def wait_ready(self) -> None:
        """Until ``ready``."""
        for feed in self.feeds:
            await feed.ready.wait()

    async def run(self) -> None:
        """Follow both topics until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for feed in self.feeds:
                tasks.create_task(feed.run(), name=f"feed {feed.topic}")

    async def _take_weights(self, records: Sequence[ConsumerRecord]) -> None:
        # Decoding and merging takes milliseconds a message; requests go on meanwhile.
        await asyncio.to_thread(take_weights, self.scorer, [(r.key, r.value) for r in records], self._said)

    async def _take_features(self, records: Sequence[ConsumerRecord]) -> None:
        for start in range(0, len(records), CHUNK):
            take_features(self.scorer.view, records[start : start + CHUNK])
            await asyncio.sleep(0)


def take_weights(
    scorer: Scorer,
    messages: Sequence[tuple[bytes | None, bytes | None]],
    said: dict[str, float] | None = None,
) -> None:
    """Offer (key, value) messages in topic order; an empty value retires its key's source.

    ``said``: when a refusal was said last (monotonic seconds), by its reason; all of them are counted.
    """
    said = {} if said is None else said
    for key, value in messages:
        if not value:
            source = (key or b"").decode(errors="replace").partition("/")[2]
            if scorer.retire(source):
                log.warning("weights of source %r were retired", source)
            continue
        weights = read(value, key)
        result = scorer.refuse(weights) if isinstance(weights, Refused) else scorer.offer(weights)
        if isinstance(result, Refused):
            _say(result, scorer.refused[result.reason], said)


def _say(refused: Refused, count: int, said: dict[str, float]) -> None:
    # Stale ones are ordinary while a topic that is not compacted yet is read again.
    level = logging.DEBUG if refused.reason == "stale" else logging.WARNING
    now = time.monotonic()
    if now - said.get(refused.reason, float("-inf")) >= AGAIN_S:
        said[refused.reason] = now
        log.log(level, "refused weights (%s, %d so far): %s", refused.reason, count, refused.detail)


def take_features(view: FeatureView, records: Sequence[ConsumerRecord]) -> None:
    """Apply feature rows in topic order."""
    view.apply([(record.key, record.value) for record in records])
