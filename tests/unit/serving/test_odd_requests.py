"""Fails when a request that is none is answered in anything but one line of JSON, or blamed on the server.

Failure: 45 lines of traceback for a body that is not what Content-Encoding says, plain text where a caller
wants JSON, an error that no count has, a small body that stands for 200 MB. Mechanism: a server as
`surgeline serve` runs it, and raw sockets. Required: status and words for each, one count each,
nothing above INFO in the log.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import zlib
from collections.abc import AsyncIterator, Iterator

import pytest
from aiohttp import web

import serving.server
from clients.http_errors import BodyError, unpack
from serving.scorer import Scorer
from serving.server import MAX_BODY, create_app

GOOD = b'{"user_id":"u","items":[{"item_id":"a"}]}'
TYPE = "Content-Type: application/json"


def request(
    *headers: str, body: bytes = GOOD, line: str = "POST /score HTTP/1.1", length: bool = True
) -> bytes:
    lines = [line, "Host: x", "Connection: close", TYPE, *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


ANSWERED = {
    "gzip": request("Content-Encoding: gzip", body=gzip.compress(GOOD)),
    "GZIP": request("Content-Encoding: GZIP", body=gzip.compress(GOOD)),
    "deflate": request("Content-Encoding: deflate", body=zlib.compress(GOOD)),
    "deflate without its header": request("Content-Encoding: deflate", body=raw_deflate(GOOD)),
    "identity": request("Content-Encoding: identity"),
    "chunks": request(
        "Transfer-Encoding: chunked",
        body=f"{len(GOOD):x}\r\n".encode() + GOOD + b"\r\n0\r\n\r\n",
        length=False,
    ),
    "charset": request().replace(TYPE.encode(), b"Content-Type: application/json; charset=UTF-8"),
    "an upgrade to what we do not speak": request("Upgrade: websocket"),
}
PACKED = gzip.compress(GOOD)
#: What is sent, the status, and a word of the answer.
REFUSED: dict[str, tuple[bytes, int, str]] = {
    "no gzip": (request("Content-Encoding: gzip", body=b"no gzip"), 400, "not gzip"),
    "no deflate": (request("Content-Encoding: deflate", body=b"\xff\xfe no"), 400, "not deflate"),
    "half of a gzip": (request("Content-Encoding: gzip", body=PACKED[:25]), 400, "middle of its gzip"),
    "two gzips": (request("Content-Encoding: gzip", body=PACKED * 2), 400, "goes on after"),
    "an empty gzip": (request("Content-Encoding: gzip", body=b""), 400, "truncated"),
    "brotli": (request("Content-Encoding: br"), 415, "'br'"),
    "zstd": (request("Content-Encoding: zstd"), 415, "'zstd'"),
    "a coding of nobody": (request("Content-Encoding: nonsense"), 415, "'nonsense'"),
    "two codings": (request("Content-Encoding: gzip, gzip", body=gzip.compress(PACKED)), 415, "'gzip, gzip'"),
    "200 MB in 200 KB": (
        request("Content-Encoding: gzip", body=gzip.compress(b" " * 200_000_000, 1)),
        413,
        str(MAX_BODY),
    ),
    "UTF-16": (
        request().replace(TYPE.encode(), b"Content-Type: application/json; charset=utf-16"),
        415,
        "'utf-16'",
    ),
    "too long": (request(body=b" " * (MAX_BODY + 1)), 413, str(MAX_BODY)),
    "too long, it says": (request("Content-Length: 99999999999", length=False), 413, str(MAX_BODY)),
    "a negative length": (request("Content-Length: -5", length=False), 400, "Content-Length"),
    "two lengths": (request("Content-Length: 5", "Content-Length: 41", length=False), 400, "Content-Length"),
    "length and chunks": (request("Transfer-Encoding: chunked"), 400, "Transfer-Encoding"),
    "a transfer of nobody": (request("Transfer-Encoding: nonsense", length=False), 400, "Transfer-Encoding"),
    "no chunk": (request("Transfer-Encoding: chunked", body=b"zz\r\nabc", length=False), 400, "chunk size"),
    "a chunk that never comes": (
        request("Transfer-Encoding: chunked", body=b"ffffff\r\nabc", length=False),
        408,
        "not there",
    ),
    "half a body": (request("Content-Length: 1000", length=False), 408, "not there"),
    "a flood of headers": (request(*(f"X-{k}: y" for k in range(5000))), 400, "headers"),
    "a long header": (request("X: " + "y" * 100_000), 431, "8190"),
    "a long address": (request(line=f"POST /score?{'q' * 100_000} HTTP/1.1"), 431, "8190"),
    "no header": (request("no colon"), 400, "header"),
    "no method": (request(line="BREW /score HTTP/1.1"), 400, "method"),
    "no version": (request(line="POST /score HTTP/9.9"), 400, "version"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 99 + b"\r\n", 400, "HTTPS"),
    "no host": (b"POST /score HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 400, "Host"),
    "expectations": (request("Expect: nonsense"), 417, "Expectation"),
    "another method": (request(line="PUT /score HTTP/1.1"), 405, "Method"),
    "another place": (request(line="POST /scores%ff HTTP/1.1"), 404, "Not Found"),
}


@pytest.fixture
async def port(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(serving.server, "BODY_S", 0.2)
    runner = web.AppRunner(create_app(scorer), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=0.1).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


@pytest.fixture(autouse=True)
def _quiet_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that a caller does is our error: not a line."""
    yield
    said = [record.getMessage() for record in caplog.get_records("call") if record.levelno > logging.INFO]
    assert said == []


async def exchange(port: int, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to these bytes; the sending side stays open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20.0)
        first, *lines = head.decode().strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await asyncio.wait_for(reader.readexactly(int(headers["content-length"])), 20.0)
        return int(first.split()[1]), headers, body
    finally:
        writer.close()


async def counts(port: int) -> dict[str, float]:
    """Requests by status."""
    _, _, text = await exchange(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    begins = "surgeline_serving_requests_total{"
    lines = [line for line in text.decode().splitlines() if line.startswith(begins)]
    return {line.split('"')[1]: float(line.split()[-1]) for line in lines}


@pytest.mark.parametrize("name", ANSWERED)
async def test_what_can_be_read_is_scored(port: int, name: str) -> None:
    """Each way to send the same body."""
    status, _, body = await exchange(port, ANSWERED[name])
    assert status == 200 and len(json.loads(body)["scores"]) == 1
    assert await counts(port) == {"200": 1.0}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_is_one_line_of_json(port: int, name: str) -> None:
    """With the status that says whose fault it is, counted once."""
    data, wanted, word = REFUSED[name]
    status, headers, body = await exchange(port, data)
    assert (status, headers["content-type"]) == (wanted, "application/json"), body
    assert word in json.loads(body)["error"]
    assert b"\n" not in body and len(body) < 400
    assert ("accept-encoding" in headers) == (
        word in ("'br'", "'zstd'", "'nonsense'", "'gzip, gzip'", "'utf-16'")
    )
    assert await counts(port) == {str(wanted): 1.0}


async def test_a_caller_that_goes_away_is_counted_apart(port: int) -> None:
    """Nobody reads the answer; a traceback for each would be the callers' to cause."""
    for _ in range(3):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("Content-Length: 1000", length=False))
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.close()
        await writer.wait_closed()
    for _ in range(200):
        if (counted := await counts(port)) == {"499": 3.0}:
            break
        await asyncio.sleep(0.05)
    assert counted == {"499": 3.0}


async def test_a_body_that_nobody_asked_for_costs_nothing(port: int) -> None:
    """A page that takes no body gets a broken one, and a bomb: answered, and not unpacked."""
    for body in (b"no gzip", gzip.compress(b" " * 50_000_000, 1)):
        line = "GET /health HTTP/1.1"
        status, _, said = await exchange(port, request("Content-Encoding: gzip", body=body, line=line))
        assert (status, json.loads(said)) == (200, {"status": "ok"})
    assert await counts(port) == {}


async def test_a_failure_inside_is_json_on_every_page(
    port: int, scorer: Scorer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug is ours: JSON as everything, counted, and with its traceback in the log. So is a connection of
    our own that fails while the caller waits."""
    for bug in (RuntimeError("a bug"), ConnectionResetError("not the caller's")):

        def fail(_scorer: Scorer, bug: Exception = bug) -> None:
            raise bug

        monkeypatch.setattr(serving.server, "summarise", fail)
        status, _, body = await exchange(port, b"GET /weights HTTP/1.1\r\nHost: x\r\n\r\n")
        assert status == 500 and "log" in json.loads(body)["error"]
        (record,) = caplog.get_records("call")
        assert record.exc_info is not None and record.exc_info[1] is bug
        caplog.clear()
    assert await counts(port) == {"500": 2.0}


def test_unpacking_stops_at_the_limit() -> None:
    """At the limit it fits, one byte more does not."""
    assert unpack(gzip.compress(b"x" * 100), "gzip", 100) == b"x" * 100
    with pytest.raises(BodyError, match="99 bytes"):
        unpack(gzip.compress(b"x" * 100), "gzip", 99)
