"""Failure: a scorer that is turned away by its broker logs a lost connection, for ever.

Mechanism: a port that speaks TLS, and a feed that does not.
Required: the warning says what is wrong and which setting changes it.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

import pytest

from clients.connection import Connection
from serving.feed import Feed, FeedSettings

KEYS = Path(__file__).parents[2] / "keys"


async def test_a_refusal_is_named(caplog: pytest.LogCaptureFixture) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(KEYS / "client.pem", KEYS / "client.key")

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def handle(_records: object) -> None:
        raise AssertionError("nothing can be read")

    server = await asyncio.start_server(silent, "127.0.0.1", 0, ssl=context)
    async with server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        feed = Feed(
            "weights", Connection(address), handle, FeedSettings(first_retry_s=60.0, last_retry_s=60.0)
        )
        task = asyncio.create_task(feed.run())
        async with asyncio.timeout(60.0):
            while "trying again" not in caplog.text:  # noqa: ASYNC110 - a log has no event
                await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
    warnings = [
        r.getMessage() for r in caplog.records if r.name == "serving.feed" and r.levelno >= logging.WARNING
    ]
    says = "speaks TLS on this port, not PLAINTEXT: set KAFKA_SECURITY_PROTOCOL to SSL or SASL_SSL"
    assert warnings == [f"weights: Kafka at {address} {says}; trying again"]
