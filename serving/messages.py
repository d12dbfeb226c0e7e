"""What a caller sends and gets: score requests, scores, and the stamp on every answer."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from contracts.events import Amount, EventTime, Id, OptionalId, Place
from contracts.weights import Watermarks
from serving.errors import RequestError

MAX_ITEMS = 1000
#: Of a batch together: some 20 ms of scoring, for which the server answers nobody else.
MAX_BATCH_ITEMS = 5000
#: Features are of order one; far beyond it a float32 would overflow in the dot product's inputs.
MAX_FEATURE = 1e9


class Item(msgspec.Struct, kw_only=True, gc=False):
    """One candidate. ``features`` are real-time features by name; they win over computed ones.

    ``stock``: the units that are left, null where that is not known.
    """

    item_id: Id
    category_id: OptionalId = ""
    shop_id: OptionalId = ""
    position: Place = 0
    price: Amount = 0.0
    stock: Amount | None = None
    features: dict[str, float] | None = None


class ScoreRequest(msgspec.Struct, kw_only=True):
    """The candidates of one user. ``event_time`` (ms UTC) is what counts are decayed to; default now.

    ``with_features`` asks for the real-time features that were used, to be logged with the impressions:
    the learner then learns from exactly what was scored.
    """

    user_id: Id
    items: Annotated[list[Item], msgspec.Meta(min_length=1, max_length=MAX_ITEMS)]
    context: dict[str, OptionalId] | None = None
    event_time: EventTime | None = None
    with_features: bool = False


class BatchRequest(msgspec.Struct, kw_only=True):
    """Requests that are scored together, with one snapshot and one pass through the trunk."""

    requests: Annotated[list[ScoreRequest], msgspec.Meta(min_length=1, max_length=MAX_BATCH_ITEMS)]


class Stamp(msgspec.Struct, kw_only=True, frozen=True):
    """What an answer was computed with.

    ``version`` is the sum of the ``sources``' versions; 0 is the frozen head, before any weights came.
    ``watermarks`` are the smallest of the sources', ``weights_age_ms`` counts from the newest source's
    creation; both are null at version 0. ``absent`` is the number of feature rows that were asked for
    and not known, by table (a table without absent rows is left out).
    """

    version: int
    sources: dict[str, int]
    trunk_hash: str
    watermarks: Watermarks | None
    weights_age_ms: int | None
    event_time: int
    absent: dict[str, int]


class Scores(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """Click probabilities in the order of the request's items, and the stamp.

    ``features`` (only if asked for) is one list an item in the order of ``feature_names``.
    """

    scores: list[float]
    stamp: Stamp
    feature_names: list[str] | None = None
    features: list[list[float]] | None = None


class BatchScores(msgspec.Struct, kw_only=True, frozen=True):
    """One answer a request, in their order; all stamps name the same weights."""

    answers: list[Scores]


#: What a decoder raises on bad input: besides msgspec's own, text that is not UTF-8 and deep nesting.
_BAD = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_from_json = msgspec.json.Decoder(ScoreRequest)
_from_msgpack = msgspec.msgpack.Decoder(ScoreRequest)
_batch_from_json = msgspec.json.Decoder(BatchRequest)
_batch_from_msgpack = msgspec.msgpack.Decoder(BatchRequest)
_to_json = msgspec.json.Encoder()
_to_msgpack = msgspec.msgpack.Encoder()
_PATH = re.compile(r" - at `\$\.?(.*)`$")
_MISSING = re.compile(r"missing required field `([^`]+)`")


def decode_request(data: bytes, *, msgpack: bool = False) -> ScoreRequest:
    """Read a request from JSON or MessagePack. Raises ``RequestError`` that names the field.

    >>> decode_request(b'{"user_id": "u", "items": [{"item_id": 3}]}')
    Traceback (most recent call last):
    serving.errors.RequestError: items[0].item_id: Expected `str`, got `int`
    """
    try:
        return (_from_msgpack if msgpack else _from_json).decode(data)
    except _BAD as error:
        raise _named(error) from error


def decode_batch(data: bytes, *, msgpack: bool = False) -> BatchRequest:
    """Read a batch from JSON or MessagePack. Raises ``RequestError`` that names the field."""
    try:
        batch = (_batch_from_msgpack if msgpack else _batch_from_json).decode(data)
    except _BAD as error:
        raise _named(error) from error
    items = sum(len(request.items) for request in batch.requests)
    if items > MAX_BATCH_ITEMS:
        raise RequestError("requests", f"a batch has at most {MAX_BATCH_ITEMS} items together, not {items}")
    return batch


def encode_scores(scores: Scores | BatchScores, *, msgpack: bool = False) -> bytes:
    """The answer's bytes, in the format of the question."""
    return (_to_msgpack if msgpack else _to_json).encode(scores)


def _named(error: Exception) -> RequestError:
    if isinstance(error, RecursionError):
        return RequestError("", "the body is nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return RequestError("", f"the body has text that is not UTF-8: {error.reason}")
    text = str(error)
    path = _PATH.search(text)
    field = path.group(1) if path else ""
    if path:
        text = text[: path.start()]
    missing = _MISSING.search(text)
    if missing:
        field = f"{field}.{missing.group(1)}" if field else missing.group(1)
    return RequestError(field, text)
