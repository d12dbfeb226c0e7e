"""Failure: two processes are given the same port, because what the first one starts does not listen yet.

Mechanism: everybody draws the same number. Required: a port that was given out is given to nobody else while
the process lives that asked for it, and to the next one after that.
"""

from __future__ import annotations

import random
import sys

import pytest

import surgeline.local.broker as brokers
from clients.launch import finish

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ports are promised on Linux only")


def elsewhere(port: int) -> str:
    """What another process that draws ``port`` gets."""
    code = f"import random; random.randrange = lambda *_: {port}; import surgeline.local.broker as brokers\n"
    return finish([sys.executable, "-c", code + "print(brokers.free_port())"]).stdout.strip()


def test_a_port_is_given_to_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    port = brokers.free_port()
    monkeypatch.setattr(random, "randrange", lambda *_: port)
    with pytest.raises(brokers.BrokerError, match="no free port"):
        brokers.free_port()
    assert elsewhere(port) == ""


def test_it_is_free_again_when_that_process_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    port = brokers.free_port()
    brokers._promised.pop().close()
    assert elsewhere(port) == str(port)
    monkeypatch.setattr(random, "randrange", lambda *_: port)
    assert brokers.free_port() == port
