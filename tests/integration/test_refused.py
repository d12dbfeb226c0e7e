"""Failure: a wrong password, an unknown CA or the wrong port ends in retries without a word, or a traceback.

Mechanism: an Apache Kafka with TLS and logins, and each program started with one mistake.
Required: worker, serving, replay and topics alike end with a status that is not 0 and one line that says what
is wrong and which setting changes it; no traceback, no secret. A client knows within ten seconds.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from clients.connection import VARIABLES, Connection, connection
from clients.refusal import BrokerRefused, check
from contracts.scenario import Scenario
from replay.files import write_log
from tests.integration.harness import Process, Sale, to_toml
from tests.integration.secured import KEYS, PASSWORD, Secured

pytestmark = pytest.mark.kafka
#: Never the true one: what is searched for in the output.
WRONG_PASSWORD = "hunter2"


def mistakes(secured: Secured) -> dict[str, tuple[dict[str, str], str]]:
    """Environments that cannot work, each with what must be said about it."""
    ways = secured.ways()
    tls, scram, mutual = (
        ways[name] for name in ("SSL", "SASL_SSL SCRAM-SHA-256", "SSL with a client certificate")
    )
    plain, bearer = ways["SASL_PLAINTEXT PLAIN"], ways["SASL_SSL OAUTHBEARER"]
    token = secured.folder / "wrong-token"
    token.write_text("no.token.")
    at = "KAFKA_BOOTSTRAP"
    bare = {at: tls[at]}
    login = r"KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD$"
    return {
        "wrong password": (
            scram | {"KAFKA_SASL_PASSWORD": WRONG_PASSWORD},
            rf"refuses the login of 'surgeline' \(SCRAM-SHA-256\): check {login}",
        ),
        "wrong CA": (
            tls | {"KAFKA_SSL_CAFILE": str(KEYS / "client.pem")},
            r"certificate that is not trusted \(self-signed .*\): KAFKA_SSL_CAFILE must name the CA",
        ),
        "plaintext on TLS": (
            bare,
            r"speaks TLS on this port, not PLAINTEXT: set KAFKA_SECURITY_PROTOCOL to SSL",
        ),
        "TLS on plaintext": (
            tls | {at: secured.plaintext},
            r"speaks no TLS on this port, so not SSL: set KAFKA_SECURITY_PROTOCOL to PLAINTEXT",
        ),
        "wrong password, PLAIN": (
            plain | {"KAFKA_SASL_PASSWORD": WRONG_PASSWORD},
            rf"refuses the login of 'surgeline' \(PLAIN\): check {login}",
        ),
        "wrong token": (
            bearer | {"KAFKA_SASL_OAUTH_TOKEN_FILE": str(token)},
            r"refuses the login with the token in .*wrong-token \(OAUTHBEARER\)",
        ),
        "no CA": (
            {name: value for name, value in tls.items() if name != "KAFKA_SSL_CAFILE"},
            r"certificate that is not trusted",
        ),
        "another host name": (
            tls | {at: tls[at].replace("127.0.0.1", "localhost")},
            r"not valid for 'localhost'.*KAFKA_SSL_CHECK_HOSTNAME",
        ),
        "no client certificate": (
            {name: value for name, value in mutual.items() if "CERT" not in name and "KEY" not in name},
            r"asks for a client certificate: set KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE",
        ),
        "no login over TLS": (tls | {at: scram[at]}, r"may want a login \(SASL_SSL\)"),
        "no login in the open": ({at: plain[at]}, r"may want a login \(SASL_PLAINTEXT\)"),
        "login over TLS on TLS alone": (
            scram | {at: tls[at]},
            r"takes no logins .* KAFKA_SECURITY_PROTOCOL to SSL",
        ),
        "login on plaintext": (plain | {at: secured.plaintext}, r"takes no logins .* to PLAINTEXT$"),
        "login over TLS without TLS": (scram | {at: plain[at]}, r"speaks no TLS .* to SASL_PLAINTEXT"),
        "login without TLS over TLS": (
            plain | {at: scram[at]},
            r"speaks TLS on this port, not SASL_PLAINTEXT",
        ),
        "plaintext on mutual TLS": ({at: mutual[at]}, r"speaks TLS on this port, not PLAINTEXT"),
    }


def environment(monkeypatch: pytest.MonkeyPatch, settings: Mapping[str, str]) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("mistake", ["wrong password", "wrong CA", "plaintext on TLS", "TLS on plaintext"])
def test_every_program_says_it_in_one_line(
    mistake: str,
    secured: Secured,
    monkeypatch: pytest.MonkeyPatch,
    scenario_factory: Callable[..., Scenario],
    tmp_path: Path,
    free_port: Callable[[], int],
) -> None:
    settings, says = mistakes(secured)[mistake]
    environment(monkeypatch, settings)
    scenario, log = tmp_path / "sale.toml", tmp_path / "log.parquet"
    scenario.write_text(to_toml(scenario_factory()))
    write_log(Sale(10, 1.0).chunks(), log)
    programs = {
        "topics": ["topics", "show"],
        "replay": ["replay", str(log)],
        "serving": ["serve", "--port", str(free_port())],
        "worker": ["worker", "--", "--web-port", str(free_port())],
    }
    env = {"SURGELINE_SCENARIO": str(scenario), "SURGELINE_HOME": str(tmp_path / "home")}
    # All at once: they do not meet each other.
    started = {
        name: Process([sys.executable, "-m", "surgeline.cli", *arguments], tmp_path / f"{name}.log", env)
        for name, arguments in programs.items()
    }
    try:
        for name, process in started.items():
            assert process.ended() != 0, name
            text = process.text()
            assert "Traceback" not in text, text
            assert re.search(rf"^Error: Kafka at {settings['KAFKA_BOOTSTRAP']} .*{says}", last(text)), text
            # Not buried either: nobody tried in vain before it.
            assert "yet; trying" not in text and " ERROR " not in text and "[ERROR]" not in text, text
            assert text.count("Error: ") == 1, text
            assert WRONG_PASSWORD not in text and PASSWORD not in text, text
    finally:
        for process in started.values():
            process.end()


def last(text: str) -> str:
    return text.strip().splitlines()[-1]


def test_every_mistake_is_known_within_ten_seconds(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    for mistake, (settings, says) in mistakes(secured).items():
        environment(monkeypatch, settings)
        kafka = connection()
        began = time.monotonic()
        with pytest.raises(BrokerRefused) as caught:
            check(kafka)
        assert time.monotonic() - began < 10.0, mistake
        assert re.search(says, str(caught.value)), mistake
        assert "\n" not in str(caught.value)
        assert WRONG_PASSWORD not in str(caught.value) and PASSWORD not in str(caught.value)


def test_one_good_address_is_enough(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Brokers that are down, or that have other ports, do not keep anybody from those that work."""
    way = secured.ways()["SSL"]
    environment(monkeypatch, way | {"KAFKA_BOOTSTRAP": f"127.0.0.1:1,{way['KAFKA_BOOTSTRAP']}"})
    check(connection())
    environment(monkeypatch, way | {"KAFKA_BOOTSTRAP": f"{secured.plaintext},{way['KAFKA_BOOTSTRAP']}"})
    check(connection())


def test_a_name_that_is_not_in_the_certificate_can_be_allowed(
    secured: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = secured.ways()["SSL"]
    elsewhere = way["KAFKA_BOOTSTRAP"].replace("127.0.0.1", "localhost")
    environment(monkeypatch, way | {"KAFKA_BOOTSTRAP": elsewhere, "KAFKA_SSL_CHECK_HOSTNAME": "false"})
    check(connection())


def test_a_plaintext_broker_takes_us_and_no_tls(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the embedded broker too, which waits for the rest of what it takes for a very long request."""
    environment(monkeypatch, {"KAFKA_SECURITY_PROTOCOL": "SSL"})
    check(Connection(broker))
    with pytest.raises(BrokerRefused, match=f"Kafka at {broker} speaks no TLS on this port, so not SSL"):
        check(connection(bootstrap=broker))
