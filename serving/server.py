"""The HTTP server around a scorer: /score, /score/batch, /weights, /health, /ready, /metrics."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import numpy as np
from aiohttp import web

from clients.http_errors import GONE, JSON, BodyError, error, read_body, speak_json
from contracts.weights import LearnerMetrics, Watermarks
from serving.admission import TASK
from serving.errors import RequestError, ScoreNotFiniteError
from serving.follower import Follower
from serving.messages import BatchScores, Scores, decode_batch, decode_request, encode_scores
from serving.metrics import ServingMetrics
from serving.scorer import Scorer

log = logging.getLogger(__name__)

#: 1000 items with 100 logged features and long ids fit; more is refused before it is read.
MAX_BODY = 8 * 1024 * 1024
MSGPACK = "application/msgpack"
#: Seconds in which a body must be there, from its headers on.
BODY_S = 10.0
_MSGPACK_TYPES = frozenset({MSGPACK, "application/x-msgpack", "application/vnd.msgpack"})
_LARGEST = 10


class SourceSummary(msgspec.Struct, kw_only=True, frozen=True):
    """One source's part in what serves."""

    version: int
    parent: int
    created_at: int
    age_ms: int
    samples: int
    watermarks: Watermarks
    metrics: dict[str, LearnerMetrics]


class HeadSummary(msgspec.Struct, kw_only=True, frozen=True):
    """The merged head at a glance; ``largest`` are the weights furthest from zero, by feature."""

    task: str
    size: int
    norm: float
    bias: float
    largest: dict[str, float]


class WeightsSummary(msgspec.Struct, kw_only=True, frozen=True):
    """What GET /weights answers; ``head``, watermarks and age are null at version 0."""

    version: int
    sources: dict[str, SourceSummary]
    trunk_hash: str
    feature_names: list[str]
    watermarks: Watermarks | None
    weights_age_ms: int | None
    head: HeadSummary | None


def summarise(scorer: Scorer) -> WeightsSummary:
    """What serves now."""
    snapshot, now = scorer.snapshot, scorer.clock_ms()
    head = None
    if snapshot.mean is not None:
        order = np.argsort(-np.abs(snapshot.mean))[:_LARGEST].tolist()
        head = HeadSummary(
            task=TASK,
            size=len(snapshot.mean),
            norm=float(np.linalg.norm(snapshot.mean)),
            bias=float(snapshot.mean[0]),
            largest={scorer.feature_names[i]: float(snapshot.mean[i]) for i in order},
        )
    return WeightsSummary(
        version=snapshot.version,
        sources={
            name: SourceSummary(
                version=weights.version,
                parent=weights.parent,
                created_at=weights.created_at,
                age_ms=max(0, now - weights.created_at),
                samples=weights.samples,
                watermarks=weights.watermarks,
                metrics=weights.metrics,
            )
            for name, weights in sorted(snapshot.sources.items())
        },
        trunk_hash=scorer.identity.trunk_hash,
        feature_names=scorer.feature_names,
        watermarks=snapshot.watermarks,
        weights_age_ms=None if snapshot.created_at is None else max(0, now - snapshot.created_at),
        head=head,
    )


class _Server:
    def __init__(self, scorer: Scorer, follower: Follower | None) -> None:
        self.scorer = scorer
        self.follower = follower
        self.metrics = ServingMetrics(scorer, follower)

    async def score(self, request: web.Request) -> web.Response:
        return await self._measured(request, self._one)

    async def score_batch(self, request: web.Request) -> web.Response:
        return await self._measured(request, self._batch)

    def _one(self, body: bytes, msgpack: bool) -> Scores:
        return self.scorer.score(decode_request(body, msgpack=msgpack))

    def _batch(self, body: bytes, msgpack: bool) -> BatchScores:
        batch = decode_batch(body, msgpack=msgpack)
        return BatchScores(answers=self.scorer.score_batch(batch.requests))

    async def _measured(
        self, request: web.Request, answer: Callable[[bytes, bool], Scores | BatchScores]
    ) -> web.Response:
        began = time.perf_counter()
        try:
            response = await self._score(request, answer)
        except ConnectionError:
            # The caller went away while its body came. Nobody reads this; the count remains.
            response = error(GONE, "the connection was closed before the body was there")
        except Exception:
            # A bug is an answer too: counted by its status, JSON as all others.
            log.exception("a score request failed")
            response = error(500, "the request failed inside the server; its log says why")
        self.metrics.latency.observe(time.perf_counter() - began)
        self.metrics.requests.labels(str(response.status)).inc()
        return response

    async def _score(
        self, request: web.Request, answer: Callable[[bytes, bool], Scores | BatchScores]
    ) -> web.Response:
        msgpack = request.content_type in _MSGPACK_TYPES
        try:
            body = await read_body(request, MAX_BODY, BODY_S)
            # On the loop: a request of 1000 items takes a few milliseconds, a thread's hand-over is not free.
            scores = answer(body, msgpack)
        except BodyError as problem:
            return problem.answer()
        except RequestError as problem:
            return error(400, problem.message, problem.field)
        except ScoreNotFiniteError as problem:
            log.error("%s", problem)
            return error(500, str(problem))
        answers = scores.answers if isinstance(scores, BatchScores) else [scores]
        self.metrics.items.inc(sum(len(one.scores) for one in answers))
        return web.Response(
            body=encode_scores(scores, msgpack=msgpack), content_type=MSGPACK if msgpack else JSON
        )

    async def weights(self, _: web.Request) -> web.Response:
        return _json(200, summarise(self.scorer))

    async def health(self, _: web.Request) -> web.Response:
        return _json(200, {"status": "ok"})

    async def ready(self, _: web.Request) -> web.Response:
        feeds = self.follower.feeds if self.follower is not None else ()
        waiting = [feed.topic for feed in feeds if not feed.ready.is_set()]
        if waiting:
            return _json(503, {"status": "reading", "topics": waiting})
        # Topics that hold nothing are read at once: a trunk that reads features knows nothing without rows.
        rows = sum(self.scorer.view.rows().values())
        version = self.scorer.snapshot.version
        return _json(200, {"status": "ready", "version": version, "feature_rows": rows})

    async def prometheus(self, _: web.Request) -> web.Response:
        return web.Response(body=self.metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def follow(self, _: web.Application) -> AsyncIterator[None]:
        if self.follower is None:
            yield
            return
        task = asyncio.create_task(self.follower.run(), name="follower")
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def create_app(scorer: Scorer, follower: Follower | None = None) -> web.Application:
    """The application; with a ``follower`` it is started and stopped with the application."""
    server = _Server(scorer, follower)
    app = web.Application(client_max_size=MAX_BODY)
    speak_json(app, lambda status: server.metrics.requests.labels(str(status)).inc())
    app.add_routes(
        [
            web.post("/score", server.score),
            web.post("/score/batch", server.score_batch),
            web.get("/weights", server.weights),
            web.get("/health", server.health),
            web.get("/ready", server.ready),
            web.get("/metrics", server.prometheus),
        ]
    )
    app.cleanup_ctx.append(server.follow)
    return app


def _json(status: int, value: Any) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), content_type=JSON)
