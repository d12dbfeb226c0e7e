"""Failure: a client that comes the wrong way tries for ever, or a broker that is only slow is given up.

Mechanism: ports that speak TLS, speak nothing, or are not there; what real brokers say is tested in
``tests/integration/test_refused.py``.
Required: one line for a port of the wrong kind; no refusal where one may yet be taken.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clients import refusal
from clients.connection import Connection
from clients.refusal import BrokerRefused, check

KEYS = Path(__file__).parents[2] / "keys"
Answer = Callable[[socket.socket], None]


@contextmanager
def port(answer: Answer | None) -> Iterator[str]:
    """A listener that gives each connection to ``answer``; with None nobody takes them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    client, _ = listener.accept()
                except TimeoutError:
                    continue
                with client:
                    client.settimeout(0.5)
                    try:
                        if answer is not None:
                            answer(client)
                    except OSError:
                        pass

        thread = threading.Thread(target=serve)
        if answer is not None:
            thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            if answer is not None:
                thread.join()


def tls(client: socket.socket) -> None:
    """A TLS server that is no Kafka: OpenSSL answers what is no TLS with an alert."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(KEYS / "client.pem", KEYS / "client.key")
    context.wrap_socket(client, server_side=True).recv(1)


def close(client: socket.socket) -> None:
    """What a broker does that goes down."""
    client.recv(1)


def plain_kafka(client: socket.socket) -> None:
    """Takes Kafka's greeting, and closes on what is too large to be one: TLS, read as a length, is that."""
    size = int.from_bytes(client.recv(4), "big")
    if size < 1000:
        correlation = client.recv(size)[4:8]
        client.sendall((10).to_bytes(4, "big") + correlation + bytes(6))


def untrusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(KEYS / "client.pem"))


def test_a_plaintext_client_on_a_tls_port_is_told() -> None:
    with port(tls) as server, pytest.raises(BrokerRefused) as caught:
        check(Connection(server))
    says = "speaks TLS on this port, not PLAINTEXT: set KAFKA_SECURITY_PROTOCOL to SSL or SASL_SSL"
    assert str(caught.value) == f"Kafka at {server} {says}"


def test_a_tls_client_on_a_plaintext_port_is_told() -> None:
    with port(plain_kafka) as server, pytest.raises(BrokerRefused) as caught:
        check(Connection(server, "SSL", ssl_context=untrusting()))
    says = "speaks no TLS on this port, so not SSL: set KAFKA_SECURITY_PROTOCOL to PLAINTEXT"
    assert str(caught.value) == f"Kafka at {server} {says}, or name its TLS port"


def test_an_unknown_certificate_is_told() -> None:
    context = ssl.create_default_context()
    with port(tls) as server, pytest.raises(BrokerRefused, match="certificate that is not trusted") as caught:
        check(Connection(server, "SSL", ssl_context=context))
    assert "KAFKA_SSL_CAFILE" in str(caught.value)


def test_a_name_that_is_not_in_the_certificate_is_told() -> None:
    with port(tls) as server, pytest.raises(BrokerRefused, match=r"not valid for '127\.0\.0\.1'") as caught:
        check(Connection(server, "SSL", ssl_context=untrusting()))
    assert "KAFKA_SSL_CHECK_HOSTNAME" in str(caught.value)


@pytest.mark.parametrize("answer", [close, None], ids=["goes down", "is paused"])
@pytest.mark.parametrize("encrypted", [False, True])
def test_a_broker_that_does_not_answer_is_no_refusal(
    monkeypatch: pytest.MonkeyPatch, answer: Answer | None, encrypted: bool
) -> None:
    """It may come back: whoever asked decides how long to wait."""
    monkeypatch.setattr(refusal, "ANSWER_S", 0.1)
    with port(answer) as server:
        check(Connection(server, "SSL", ssl_context=untrusting()) if encrypted else Connection(server))


def test_no_broker_is_no_refusal() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        check(Connection(f"127.0.0.1:{free.getsockname()[1]}"))
    check(Connection("no-such-host.invalid:9092"))
