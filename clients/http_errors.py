"""What a request that is none gets: one line of JSON, counted, and no traceback in the log.

aiohttp answers such requests in plain text and logs each with a traceback of up to 45 lines, as if the server
were at fault. Workers and serving speak JSON here, too, and what a caller did wrong is the caller's to read.
"""

from __future__ import annotations

import asyncio
import logging
import re
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.web_protocol import RequestHandler, RequestPayloadError
from aiohttp.web_request import BaseRequest
from aiohttp.web_server import Server

from contracts.errors import SurgelineError

logger = logging.getLogger(__name__)

JSON = "application/json"
#: Codings of a body that are undone; brotli and zstd need libraries that we do not bring.
CODINGS = ("gzip", "deflate")
_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
#: The caller went away: nobody reads this status, it is for the count. nginx has the same.
GONE = 499
#: An answer quotes at most this much of the request.
_QUOTED = 200

Count = Callable[[int], None]


def error(status: int, message: str, field: str = "") -> web.Response:
    """An error as all of our servers give it."""
    told = {"error": message, "field": field} if field else {"error": message}
    return web.Response(status=status, body=msgspec.json.encode(told), content_type=JSON)


class BodyError(SurgelineError):
    """A body that cannot be had; ``status`` and ``str`` are for the caller."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    def answer(self) -> web.Response:
        """What the caller gets. The connection ends with it: what is left of the body is nobody's."""
        answer = error(self.status, str(self))
        if self.status == 415:
            answer.headers["Accept-Encoding"] = ", ".join(CODINGS)
        answer.force_close()
        return answer


async def read_body(request: web.Request, largest: int, seconds: float) -> bytes:
    """The body of a request, unpacked: at most ``largest`` bytes, there within ``seconds``.

    Raises ``BodyError``, and ``ConnectionError`` where the caller went away.
    """
    coding = ",".join(request.headers.getall("Content-Encoding", [])).strip().lower()
    if coding not in (*CODINGS, "identity", ""):
        raise BodyError(415, f"the content encoding {coding[:_QUOTED]!r} is not known; send gzip or deflate")
    charset = (request.charset or "utf-8").strip().lower()
    if charset not in _CHARSETS:
        raise BodyError(415, f"the charset {charset[:_QUOTED]!r} is not known; send UTF-8")
    if (request.content_length or 0) > largest:
        raise BodyError(413, f"the body is larger than {largest} bytes")
    try:
        async with asyncio.timeout(seconds):
            body = await request.read()
    except TimeoutError:
        raise BodyError(408, f"the body was not there within {seconds:g} s") from None
    except web.HTTPRequestEntityTooLarge:
        raise BodyError(413, f"the body is larger than {largest} bytes") from None
    except web.RequestPayloadError as problem:
        raise BodyError(400, f"the body cannot be read: {in_words(problem)}") from problem
    return unpack(body, coding, largest) if coding in CODINGS and body else body


def unpack(body: bytes, coding: str, largest: int) -> bytes:
    """Undo gzip or deflate, and no further than ``largest`` bytes: 200 KB can stand for 200 MB.

    Raises ``BodyError``.

    >>> unpack(zlib.compress(b"abc"), "deflate", 3)
    b'abc'
    """
    # Some send deflate without its own header, as RFC 9110 notes.
    wbits = 31 if coding == "gzip" else 15 if body[0] & 0x0F == 8 else -15
    unpacker = zlib.decompressobj(wbits)
    try:
        whole = unpacker.decompress(body, largest + 1)
    except zlib.error as problem:
        raise BodyError(400, f"the body is not {coding}, which Content-Encoding says") from problem
    if len(whole) > largest:
        raise BodyError(413, f"the body is larger than {largest} bytes")
    if not unpacker.eof:
        raise BodyError(400, f"the body ends in the middle of its {coding} data")
    if unpacker.unused_data:
        raise BodyError(400, f"the body goes on after its {coding} data")
    return whole


def in_words(problem: BaseException) -> str:
    """A parser's complaint in one line, without its drawing of where it stands.

    >>> in_words(HttpProcessingError(message="Invalid length:\\n\\n  b'-5'\\n    ^"))
    "Invalid length: b'-5'"
    """
    text = problem.message if isinstance(problem, HttpProcessingError) else str(problem)
    text = " ".join(re.sub(r"\n\s*\^\s*$", "", text).split())
    return text.removeprefix("400, message: ")[:_QUOTED] or type(problem).__name__


def is_no_request(problem: BaseException | None) -> bool:
    """Whether a caller sent what cannot be parsed, or a body that is not what it says."""
    return isinstance(problem, HttpProcessingError | RequestPayloadError)


class _Protocol(RequestHandler):
    """One connection."""

    __slots__ = ()

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what could not be parsed, or what no handler answered."""
        gone = request.transport is None or request.transport.is_closing()
        if exc is not None and is_no_request(exc):
            if request.writer.output_size > 0:
                raise ConnectionError("the answer had begun") from exc
            status = 431 if isinstance(exc, LineTooLong) else 400
            answer = error(status, f"this is no request: {in_words(exc)}")
        elif isinstance(exc, ConnectionError) and gone:
            status = GONE
            answer = error(status, "the connection was closed")
        else:
            # For its log, and for what it raises where an answer has begun.
            super().handle_error(request, status, exc, message)
            answer = error(status, "the request failed inside the server; its log says why")
        self._manager.count(status)  # type: ignore[union-attr]
        answer.force_close()
        return answer

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """aiohttp's, except for what is no request."""
        problem = kwargs.get("exc_info")
        if isinstance(problem, BaseException) and is_no_request(problem):
            logger.debug("A request could not be answered: %s", in_words(problem))
            return
        super().log_exception(*args, **kwargs)


class _Server(Server):
    """aiohttp's server, with our protocol."""

    def __init__(self, *args: Any, count: Count, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.count = count

    def __call__(self) -> RequestHandler:
        """The protocol of a new connection."""
        return _Protocol(self, loop=self._loop, **self._kwargs)


def speak_json(app: web.Application, count: Count) -> None:
    """Let every error of ``app`` be JSON and counted by status. Call before the application is started."""
    make = app._make_handler

    def make_handler(**options: Any) -> Server:
        made = make(**options)
        return _Server(
            _json_errors(made.request_handler, count),
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=made._loop,
            count=count,
            # Who wants a body unpacks it, with a limit; aiohttp would do it to bodies that nobody reads.
            **(made._kwargs | {"auto_decompress": False}),
        )

    # aiohttp has no public way to choose the protocol; a subclass of Application is what it warns of.
    object.__setattr__(app, "_make_handler", make_handler)


def _json_errors(
    handler: Callable[[BaseRequest], Awaitable[web.StreamResponse]], count: Count
) -> Callable[[BaseRequest], Awaitable[web.StreamResponse]]:
    async def handle(request: BaseRequest) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as problem:
            if problem.status < 400:
                raise
            count(problem.status)
            answer = error(problem.status, problem.reason or "")
            if "Allow" in problem.headers:
                answer.headers["Allow"] = problem.headers["Allow"]
            return answer

    return handle
