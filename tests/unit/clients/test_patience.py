"""Failure: a worker, serving or a broker that is started while the one before still closes ends with an
error, or one whose port is really taken waits for ever.

Required: what is held is waited for a little, said in one line, and then the holder's name is the error.
"""

from __future__ import annotations

import socket
import threading

import pytest

from clients.patience import PortInUseError, patiently, wait_for_port


def test_a_port_that_becomes_free_is_waited_for_and_that_is_said_once() -> None:
    said: list[str] = []
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    closing = threading.Timer(0.7, server.close)
    closing.start()
    try:
        wait_for_port("127.0.0.1", port, said.append)
    finally:
        closing.join()
    (line,) = said
    assert f"127.0.0.1:{port} is still in use" in line and "waiting" in line
    socket.create_server(("127.0.0.1", port)).close()


def test_what_stays_held_is_the_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match="another process listens there"):
            wait_for_port("127.0.0.1", port, lambda line: None, wait_s=0.5)


def test_an_address_that_is_not_of_this_machine_is_not_waited_for() -> None:
    said: list[str] = []
    with pytest.raises(OSError) as caught:
        wait_for_port("192.0.2.1", 6066, said.append)
    assert not isinstance(caught.value, PortInUseError)
    assert said == []


def test_another_error_is_raised_at_once() -> None:
    def broken() -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        patiently(broken, OSError, "it", pytest.fail)
