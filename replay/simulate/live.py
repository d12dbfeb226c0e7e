"""A live scorer as the policy of a simulated night: candidates over HTTP, scores back, nothing latent out.

The messages are those of serving's ``/score/batch``, MessagePack over one keep-alive connection. What is
sent of a candidate is what `Double11.candidate_frame` has: the columns of an impression.
"""

from __future__ import annotations

import http.client
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import urlsplit

import msgspec
import numpy as np
import polars as pl

from replay.errors import ReplayError
from replay.simulate.generate import Double11
from replay.simulate.policy import Objective, slates
from replay.simulate.world import Rank, Requests

#: Items a call: a few milliseconds of the server's time.
BATCH_ITEMS = 2_000
_HEADERS = {"Content-Type": "application/msgpack", "Connection": "keep-alive"}


class LiveScorerError(ReplayError):
    """The scorer did not answer, or answered something else; the message has its URL and words."""


class _Item(msgspec.Struct):
    item_id: str
    category_id: str
    shop_id: str
    position: int
    price: float


class _Request(msgspec.Struct):
    user_id: str
    items: list[_Item]
    context: dict[str, str] | None
    event_time: int


class _Stamp(msgspec.Struct):
    version: int
    weights_age_ms: int | None


class _Scores(msgspec.Struct):
    scores: list[float]
    stamp: _Stamp


class _Answers(msgspec.Struct):
    answers: list[_Scores]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Answers).decode


class ScorerClient:
    """One connection to a scorer. ``versions`` counts requests by the version of the weights that scored
    them, ``ages_ms`` holds the weights' age and ``seconds`` the duration of each call."""

    def __init__(self, url: str, timeout_s: float = 20.0) -> None:
        self.url = url.rstrip("/")
        place = urlsplit(self.url)
        self._connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=timeout_s)
        self.versions: Counter[int] = Counter()
        self.ages_ms: list[int] = []
        self.seconds: list[float] = []
        self.items = 0

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def score(self, requests: Sequence[_Request]) -> list[list[float]]:
        """Click probabilities of each request's items. Raises ``LiveScorerError``."""
        scores: list[list[float]] = []
        for batch in _batches(requests):
            began = time.perf_counter()
            answers = self._post(_encode({"requests": batch})).answers
            self.seconds.append(time.perf_counter() - began)
            if [len(a.scores) for a in answers] != [len(r.items) for r in batch]:
                raise LiveScorerError(f"{self.url}: the answers do not fit the requests")
            self.items += sum(len(request.items) for request in batch)
            self.versions.update(answer.stamp.version for answer in answers)
            age = answers[0].stamp.weights_age_ms
            if age is not None:
                self.ages_ms.append(age)
            scores += [answer.scores for answer in answers]
        return scores

    def _post(self, body: bytes) -> _Answers:
        try:
            status, data = self._exchange(body)
        except (http.client.HTTPException, OSError):
            # The server may have closed a connection that was idle; scoring twice harms nobody.
            self._connection.close()
            try:
                status, data = self._exchange(body)
            except (http.client.HTTPException, OSError) as error:
                self._connection.close()
                raise LiveScorerError(f"{self.url}: no answer ({error!r})") from error
        if status != 200:
            raise LiveScorerError(f"{self.url}: status {status}: {data[:300].decode(errors='replace')}")
        try:
            return _decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise LiveScorerError(f"{self.url}: not an answer: {error}") from error

    def _exchange(self, body: bytes) -> tuple[int, bytes]:
        self._connection.request("POST", "/score/batch", body, _HEADERS)
        response = self._connection.getresponse()
        return response.status, response.read()


class LiveRank:
    """Ranks by a live scorer, then asks it for the slates that are shown, at their positions.

    Candidates are compared at one position, as they have none yet; what is asked again is what the scorer
    predicts for the impressions: ``predicted`` has one array (float64) a block, in the log's order.
    ``event_time`` maps seconds after the stream's start to ms UTC, as the events are sent.

    ``objective`` "revenue" ranks by what the shop expects of a candidate with what it knows: the scorer's
    click probability times the price shown.
    """

    def __init__(
        self,
        client: ScorerClient,
        event_time: Callable[[np.ndarray], np.ndarray],
        objective: Objective = "clicks",
    ) -> None:
        self.client = client
        self._objective = objective
        self.predicted: list[np.ndarray] = []
        self._event_time = event_time
        self._sim: Double11 | None = None

    def bind(self, sim: Double11) -> None:
        """Take the night whose candidates are ranked."""
        self._sim = sim

    def __call__(self, requests: Requests) -> np.ndarray:
        """Scores (R, C)."""
        if self._sim is None:
            raise LiveScorerError("LiveRank ranks for a night: call bind first")
        width = requests.items.shape[1]
        frame = self._sim.candidate_frame(requests)
        candidates = to_requests(frame, width, self._event_time(requests.t))
        scores = np.array(self.client.score(candidates), dtype=np.float64).reshape(-1, width)
        if self._objective == "revenue":
            scores = scores * frame["price"].to_numpy().reshape(-1, width)
        order = slates(requests, scores)
        shown = []
        for request, best, length in zip(candidates, order.tolist(), requests.length.tolist(), strict=True):
            items = [
                msgspec.structs.replace(request.items[k], position=p) for p, k in enumerate(best[:length])
            ]
            if items:
                shown.append(msgspec.structs.replace(request, items=items))
        flat = [score for scores_ in self.client.score(shown) for score in scores_]
        self.predicted.append(np.array(flat, dtype=np.float64))
        return scores


class Watched:
    """Any rank, with a checksum of the requests that it was given: two arms must have had the same."""

    def __init__(self, rank: Rank, before: Callable[[Requests], None] | None = None) -> None:
        self.checksum = 0
        self.requests = 0
        self._rank = rank
        self._before = before

    def __call__(self, requests: Requests) -> np.ndarray:
        """Scores (R, C); ``before`` may wait."""
        if self._before is not None:
            self._before(requests)
        for part in (requests.t, requests.user, requests.items, requests.length, requests.channel):
            self.checksum = zlib.crc32(np.ascontiguousarray(part).tobytes(), self.checksum)
        self.requests += requests.user.size
        return self._rank(requests)


def to_requests(frame: pl.DataFrame, width: int, event_ms: np.ndarray) -> list[_Request]:
    """The rows of a candidate frame, ``width`` a request, as requests of times ``event_ms`` (R,)."""
    columns = ("item_id", "category_id", "shop_id", "position", "price")
    items = [_Item(*row) for row in frame.select(columns).iter_rows()]
    first = frame.gather_every(width)
    users, contexts = first["user_id"].to_list(), first["context"].to_list()
    return [
        _Request(user, items[k * width : (k + 1) * width], context, at)
        for k, (user, context, at) in enumerate(zip(users, contexts, event_ms.tolist(), strict=True))
    ]


def _batches(requests: Sequence[_Request]) -> Iterator[list[_Request]]:
    batch: list[_Request] = []
    items = 0
    for request in requests:
        if batch and items + len(request.items) > BATCH_ITEMS:
            yield batch
            batch, items = [], 0
        batch.append(request)
        items += len(request.items)
    if batch:
        yield batch
