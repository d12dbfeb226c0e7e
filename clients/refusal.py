"""Why a broker that is there does not take us: one line, at once.

Clients meet a wrong password, an unknown CA or a plaintext connection to a TLS port as a connection that
broke, and try again for ever. Here one connection is made as they make it; where that fails the port is
asked which language it speaks.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct

from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from clients.connection import Connection
from contracts.errors import SurgelineError

#: How long an answer is waited for. A broker that needs longer is slow, not unwilling.
ANSWER_S = 3.0
#: A broker that comes up, or goes down, may break one connection: what nobody explained must happen twice.
AGAIN_S = 0.3
#: ApiVersions 0, correlation 7, no client id: what every Kafka broker answers before anything else.
_HELLO = struct.pack(">ihhih", 10, 18, 0, 7, -1)


class BrokerRefused(SurgelineError, RuntimeError):  # noqa: N818 - what the broker did
    """A broker answers, and does not take us as we come; the message says what to change."""


def check(connection: Connection) -> None:
    """Raise ``BrokerRefused`` where brokers answer and each turns us away for a reason that stays.

    Returns where one takes us, and also where none answers (yet): that is for the caller to wait for. Call
    it outside an event loop, or in a thread.
    """
    reason = asyncio.run(refusal(connection))
    if reason:
        raise BrokerRefused(reason)


async def refusal(connection: Connection) -> str:
    """Why every broker that answers turns us away; empty where one takes us, or none answers."""
    answers = await asyncio.gather(*(_ask(connection, server) for server in connection.servers))
    return "" if None in answers else next((answer for answer in answers if answer), "")


async def _ask(connection: Connection, server: str) -> str | None:
    """None where ``server`` takes us, "" where that cannot be known, else why it does not."""
    host, _, number = server.rpartition(":")
    host, port = host.strip("[]"), int(number)
    guess = ""
    for _ in range(2):
        welcomed, error = await _greet(connection, host, port)
        if error is None:
            return None
        said = _said(connection, error) or await _language(connection, host, port)
        if said:
            return f"Kafka at {server} {said}"
        guess = await _guess(connection, host, port, welcomed)
        if not guess:
            return ""
        await asyncio.sleep(AGAIN_S)
    return f"Kafka at {server} {guess}"


async def _greet(connection: Connection, host: str, port: int) -> tuple[bool, BaseException | None]:
    """Connect, log in and ask for metadata; whether it came to the last, and what broke it."""
    arguments = connection.aiokafka()
    del arguments["bootstrap_servers"]
    made: AIOKafkaConnection | None = None
    try:
        # Within a second limit: a TLS handshake may hang on its own.
        async with asyncio.timeout(2 * ANSWER_S):
            made = await create_conn(host, port, request_timeout_ms=round(ANSWER_S * 1000), **arguments)
            answer = await made.send(MetadataRequest([]))
            if connection.token_file is not None and not answer.brokers:
                # The client takes every token for accepted; a broker that does not names no brokers.
                raise SaslAuthenticationFailed
    except (KafkaError, OSError, TimeoutError, ValueError) as error:
        return made is not None, error
    finally:
        if made is not None:
            made.close()
    return True, None


def _said(connection: Connection, error: BaseException) -> str:
    """What the broker, or our own TLS, said in so many words."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            hint = "KAFKA_SSL_CAFILE must name the CA that signed it"
            if "not valid for" in cause.verify_message:
                hint = "use a name that it has, or set KAFKA_SSL_CHECK_HOSTNAME to false"
            return f"shows a certificate that is not trusted ({cause.verify_message}): {hint}"
        if isinstance(cause, ssl.SSLError) and "CERTIFICATE" in (cause.reason or ""):
            return _certificate_wanted(connection)
        if isinstance(cause, UnsupportedSaslMechanismError):
            return f"does not offer {connection.mechanism}: set KAFKA_SASL_MECHANISM to what it offers"
        if isinstance(cause, IllegalSaslStateError):
            plain = connection.protocol.removeprefix("SASL_")
            return f"takes no logins on this port: set KAFKA_SECURITY_PROTOCOL to {plain}"
        if isinstance(cause, SaslAuthenticationFailed):
            return f"refuses the login {_who(connection)}"
    return ""


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _who(connection: Connection) -> str:
    if connection.token_file is not None:
        return f"with the token in {connection.token_file} (OAUTHBEARER)"
    return (
        f"of {connection.username!r} ({connection.mechanism}): check KAFKA_SASL_USERNAME and "
        "KAFKA_SASL_PASSWORD"
    )


def _certificate_wanted(connection: Connection) -> str:
    if connection.has_certificate:
        return "does not accept the certificate in KAFKA_SSL_CERTFILE"
    return "asks for a client certificate: set KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE"


async def _language(connection: Connection, host: str, port: int) -> str:
    """Whether a port that broke the connection without a word speaks TLS where we do not, or the reverse."""
    protocol = connection.protocol
    if connection.ssl_context is None and await _speaks_tls(host, port):
        return f"speaks TLS on this port, not {protocol}: set KAFKA_SECURITY_PROTOCOL to SSL or SASL_SSL"
    if connection.ssl_context is not None and await _speaks_plainly(host, port):
        plain = "SASL_PLAINTEXT" if connection.mechanism else "PLAINTEXT"
        return (
            f"speaks no TLS on this port, so not {protocol}: set KAFKA_SECURITY_PROTOCOL to {plain}, or name "
            "its TLS port"
        )
    return ""


async def _guess(connection: Connection, host: str, port: int, welcomed: bool) -> str:
    """What a broken connection means that nobody explained; ``welcomed``: after the greeting was taken."""
    if welcomed and not connection.mechanism:
        wanted = "SASL_PLAINTEXT" if connection.ssl_context is None else "SASL_SSL"
        return f"closes the connection at the first request: it may want a login ({wanted})"
    if connection.ssl_context is not None and not welcomed and await _speaks_tls(host, port):
        return _certificate_wanted(connection)
    return ""


async def _speaks_tls(host: str, port: int) -> bool:
    """Whether a port answers a TLS greeting with TLS, be it an alert."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=host).do_handshake()
    answer = await _answer(host, port, outgoing.read(), 2)
    # A record's type (21 alert, 22 handshake) and the major version, which is 3 for all of TLS.
    return answer in (b"\x15\x03", b"\x16\x03")


async def _speaks_plainly(host: str, port: int) -> bool:
    """Whether a port answers Kafka's own greeting without TLS."""
    return (await _answer(host, port, _HELLO, 8))[4:] == struct.pack(">i", 7)


async def _answer(host: str, port: int, greeting: bytes, size: int) -> bytes:
    """The first ``size`` bytes that a port answers; empty where it answers less in time."""
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(greeting)
                return await reader.readexactly(size)
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return b""
