"""Failure: a connection that is less secured than somebody thinks, or that cannot work and says so late.

Mechanism: a setting that is overlooked, wrong, or taken from the wrong place; a secret that is printed.
Required: the environment wins over the scenario, every client gets the same settings, nonsense is refused at
once with the setting's name, and no text that we or the clients make holds a secret.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from pathlib import Path
from typing import Any

import faust
import pytest
from aiokafka.protocol.admin import SaslAuthenticateRequest_v1
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from stream.connection import (
    VARIABLES,
    Connection,
    ConnectionSettingsError,
    Secret,
    connection,
    forget_security,
)
from stream.scenario import Kafka, Scenario, ScenarioError, load_scenario

KEYS = Path(__file__).parents[2] / "keys"
CERTIFICATE, KEY, LOCKED_KEY = (
    str(KEYS / name) for name in ("client.pem", "client.key", "client-encrypted.key")
)
PASSWORD = "hunter2, of=11"
SCRAM = {
    "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
    "KAFKA_SASL_USERNAME": "night",
    "KAFKA_SASL_PASSWORD": PASSWORD,
}
SSL = {"KAFKA_SECURITY_PROTOCOL": "SSL"}


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "KAFKA_BOOTSTRAP"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def setenv(monkeypatch: pytest.MonkeyPatch) -> Any:
    def put(settings: dict[str, str]) -> None:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)

    return put


def refused(kafka: Kafka | None = None) -> str:
    with pytest.raises(ConnectionSettingsError) as caught:
        connection(kafka)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- what clients get


def test_without_settings_connections_are_plaintext() -> None:
    found = connection(bootstrap="a:1,b:2")
    plain = {"bootstrap_servers": ["a:1", "b:2"], "security_protocol": "PLAINTEXT"}
    assert found.aiokafka() == found.kafka_python() == plain
    assert found == Connection("a:1,b:2")
    assert found.faust() is None


def test_every_client_gets_the_same_login(setenv: Any) -> None:
    setenv(SCRAM)
    found = connection()
    arguments = found.aiokafka()
    assert arguments == found.kafka_python()
    assert arguments.pop("ssl_context").verify_mode is ssl.CERT_REQUIRED
    assert arguments == {
        "bootstrap_servers": ["127.0.0.1:9092"],
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "night",
        "sasl_plain_password": PASSWORD,
    }


@pytest.mark.parametrize(
    "settings",
    [
        SSL,
        SCRAM,
        SCRAM | {"KAFKA_SASL_MECHANISM": "PLAIN", "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT"},
        {
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_MECHANISM": "OAUTHBEARER",
            "KAFKA_SASL_OAUTH_TOKEN_FILE": CERTIFICATE,
        },
    ],
)
def test_faust_connects_as_the_other_clients_do(setenv: Any, settings: dict[str, str]) -> None:
    """Failure: the worker's consumer has a setting that its publisher has not, or the reverse."""
    setenv(settings)
    found = connection()
    ours = {"ssl_context": None, **found.aiokafka()}
    del ours["bootstrap_servers"]
    theirs = dict(credentials_to_aiokafka_auth(found.faust()))
    tokens = [made.pop("sasl_oauth_token_provider", None) for made in (ours, theirs)]
    assert type(tokens[0]).__name__ == type(tokens[1]).__name__
    assert theirs == ours


def test_a_client_certificate_is_loaded(setenv: Any) -> None:
    setenv(SSL | {"KAFKA_SSL_CERTFILE": CERTIFICATE, "KAFKA_SSL_KEYFILE": KEY})
    assert connection().has_certificate
    locked = {"KAFKA_SSL_KEYFILE": LOCKED_KEY, "KAFKA_SSL_KEY_PASSWORD": "open sesame"}
    setenv(locked)
    assert connection().has_certificate


def test_one_file_may_hold_certificate_and_key(setenv: Any, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_text(Path(CERTIFICATE).read_text() + Path(KEY).read_text())
    setenv(SSL | {"KAFKA_SSL_CERTFILE": str(both)})
    assert connection().has_certificate


def test_a_ca_file_is_the_only_authority(setenv: Any) -> None:
    """Failure: any CA of the system may vouch for a broker whose own CA was named."""
    setenv(SSL | {"KAFKA_SSL_CAFILE": CERTIFICATE})
    context = connection().ssl_context
    assert context is not None
    assert [dict(name[0] for name in ca["subject"]) for ca in context.get_ca_certs()] == [
        {"commonName": "surgeline test client"}
    ]


@pytest.mark.parametrize(("text", "checked"), [("true", True), ("no", False), ("False", False)])
def test_the_host_name_is_checked_unless_told_otherwise(setenv: Any, text: str, checked: bool) -> None:
    setenv(SSL)
    context = connection().ssl_context
    assert context is not None and context.check_hostname
    setenv({"KAFKA_SSL_CHECK_HOSTNAME": text})
    context = connection().ssl_context
    # The certificate is: only the name in it is not looked at.
    assert context is not None and context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname is checked


# -- where settings come from


def test_the_environment_wins_over_the_scenario(setenv: Any) -> None:
    kafka = Kafka(security_protocol="SASL_PLAINTEXT", sasl_mechanism="PLAIN", sasl_username="of the scenario")
    setenv({"KAFKA_SASL_PASSWORD": PASSWORD})
    assert connection(kafka).username == "of the scenario"
    setenv({"KAFKA_SASL_USERNAME": "of the environment", "KAFKA_SASL_MECHANISM": "SCRAM-SHA-256"})
    found = connection(kafka)
    assert (found.username, found.mechanism) == ("of the environment", "SCRAM-SHA-256")
    assert found.protocol == "SASL_PLAINTEXT"


def test_an_environment_without_tls_overrules_a_scenario_with_it(setenv: Any) -> None:
    """One scenario for production and for a broker on this machine."""
    kafka = Kafka(security_protocol="SSL", ssl_cafile="/etc/kafka/ca.pem")
    setenv({"KAFKA_SECURITY_PROTOCOL": "PLAINTEXT"})
    assert connection(kafka) == Connection("127.0.0.1:9092")


def test_a_secret_may_stand_in_a_file(setenv: Any, tmp_path: Path) -> None:
    """As container platforms mount them; the last line break is the editor's."""
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    setenv(SCRAM)
    setenv({"KAFKA_SASL_PASSWORD": "", "KAFKA_SASL_PASSWORD_FILE": str(file)})
    assert connection().password == PASSWORD


def test_a_broker_of_our_own_takes_no_settings(setenv: Any) -> None:
    """Failure: `surgeline demo` beside production's variables speaks TLS to its embedded broker."""
    setenv(SCRAM)
    forget_security()
    assert connection() == Connection("127.0.0.1:9092")


def refusal(folder: Path, line: str) -> str:
    """What is said of a scenario with this line in its ``kafka`` table."""
    path = folder / "sale.toml"
    path.write_text(f"[kafka]\n{line}\n")
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("field", "variable"),
    [
        ("password", "KAFKA_SASL_PASSWORD"),
        ("sasl_plain_password", "KAFKA_SASL_PASSWORD"),
        ("ssl_key_password", "KAFKA_SSL_KEY_PASSWORD"),
        ("sasl_oauth_token", "KAFKA_SASL_OAUTH_TOKEN_FILE"),
    ],
)
def test_a_scenario_with_a_secret_is_refused(tmp_path: Path, field: str, variable: str) -> None:
    said = refusal(tmp_path, f'{field} = "{PASSWORD}"')
    assert re.search(rf"kafka\.{field}: .*no secrets.*{variable}", said)
    assert PASSWORD not in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('security_protocol = "TLS"', "'TLS'; allowed are PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"),
        ('sasl_mechanism = "GSSAPI"', "'GSSAPI'; allowed are PLAIN, SCRAM-SHA-256"),
        ('ssl_ca = "ca.pem"', "allowed are security_protocol, sasl_mechanism, sasl_username, ssl_cafile"),
        ("ssl_check_hostname = 1", "kafka.ssl_check_hostname"),
    ],
)
def test_a_wrong_scenario_says_what_is_allowed(tmp_path: Path, text: str, says: str) -> None:
    assert says in refusal(tmp_path, text)


def test_a_scenario_holds_what_is_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "sale.toml"
    path.write_text(
        '[kafka]\nsecurity_protocol = "SASL_SSL"\nsasl_mechanism = "PLAIN"\nssl_cafile = "ca.pem"\n'
    )
    wanted = Kafka(security_protocol="SASL_SSL", sasl_mechanism="PLAIN", ssl_cafile="ca.pem")
    assert load_scenario(path) == Scenario(kafka=wanted)


# -- nonsense


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"KAFKA_SECURITY_PROTOCOL": "TLS"}, ["KAFKA_SECURITY_PROTOCOL is 'TLS'", "PLAINTEXT, SSL"]),
        (SCRAM | {"KAFKA_SASL_MECHANISM": "GSSAPI"}, ["'GSSAPI'", "allowed are PLAIN, SCRAM-SHA-256"]),
        (SCRAM | {"KAFKA_SASL_MECHANISM": ""}, ["needs KAFKA_SASL_MECHANISM", "OAUTHBEARER"]),
        (SCRAM | {"KAFKA_SASL_PASSWORD": ""}, ["needs KAFKA_SASL_PASSWORD or KAFKA_SASL_PASSWORD_FILE"]),
        (SCRAM | {"KAFKA_SASL_USERNAME": ""}, ["needs KAFKA_SASL_USERNAME"]),
        (SCRAM | {"KAFKA_SASL_PASSWORD_FILE": CERTIFICATE}, ["both set", "KAFKA_SASL_PASSWORD_FILE"]),
        (SCRAM | {"KAFKA_SASL_MECHANISM": "OAUTHBEARER"}, ["KAFKA_SASL_USERNAME", "OAUTHBEARER"]),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_MECHANISM": "OAUTHBEARER"},
            ["needs KAFKA_SASL_OAUTH_TOKEN_FILE"],
        ),
        (SCRAM | {"KAFKA_SASL_OAUTH_TOKEN_FILE": CERTIFICATE}, ["KAFKA_SASL_OAUTH_TOKEN_FILE", "SCRAM"]),
        (
            {"KAFKA_SASL_PASSWORD": PASSWORD},
            ["KAFKA_SASL_PASSWORD", "PLAINTEXT", "SASL_PLAINTEXT or SASL_SSL"],
        ),
        ({"KAFKA_SSL_CAFILE": CERTIFICATE}, ["KAFKA_SSL_CAFILE", "PLAINTEXT", "SSL or SASL_SSL"]),
        (
            SSL | {"KAFKA_SSL_CAFILE": "/nonexistent/ca.pem"},
            ["KAFKA_SSL_CAFILE", "/nonexistent/ca.pem", "No such"],
        ),
        (SSL | {"KAFKA_SSL_CAFILE": __file__}, ["KAFKA_SSL_CAFILE", __file__, "no certificate in PEM"]),
        (SSL | {"KAFKA_SSL_CAFILE": str(KEYS)}, ["KAFKA_SSL_CAFILE", str(KEYS)]),
        (SSL | {"KAFKA_SSL_KEYFILE": KEY}, ["KAFKA_SSL_KEYFILE is set without KAFKA_SSL_CERTFILE"]),
        (SSL | {"KAFKA_SSL_CERTFILE": CERTIFICATE}, ["no private key", "set KAFKA_SSL_KEYFILE"]),
        (SSL | {"KAFKA_SSL_CERTFILE": "/nonexistent/c.pem"}, ["KAFKA_SSL_CERTFILE", "No such file"]),
        (
            SSL | {"KAFKA_SSL_CERTFILE": CERTIFICATE, "KAFKA_SSL_KEYFILE": __file__},
            ["KAFKA_SSL_KEYFILE", "no private key in PEM"],
        ),
        (
            SSL | {"KAFKA_SSL_CERTFILE": KEY, "KAFKA_SSL_KEYFILE": KEY},
            ["KAFKA_SSL_CERTFILE", "no certificate in PEM"],
        ),
        (
            SSL | {"KAFKA_SSL_CERTFILE": CERTIFICATE, "KAFKA_SSL_KEYFILE": LOCKED_KEY},
            [LOCKED_KEY, "encrypted", "KAFKA_SSL_KEY_PASSWORD"],
        ),
        (
            SSL
            | {
                "KAFKA_SSL_CERTFILE": CERTIFICATE,
                "KAFKA_SSL_KEYFILE": LOCKED_KEY,
                "KAFKA_SSL_KEY_PASSWORD": PASSWORD,
            },
            ["KAFKA_SSL_KEY_PASSWORD does not open", LOCKED_KEY],
        ),
        (SSL | {"KAFKA_SSL_CHECK_HOSTNAME": "perhaps"}, ["KAFKA_SSL_CHECK_HOSTNAME", "true, false"]),
    ],
)
def test_nonsense_is_refused_with_its_name(setenv: Any, settings: dict[str, str], says: list[str]) -> None:
    setenv(settings)
    message = refused()
    for part in says:
        assert part in message
    assert PASSWORD not in message


def test_a_scenario_that_is_nonsense_names_its_field() -> None:
    assert "kafka.ssl_cafile is set, but connections are PLAINTEXT" in refused(Kafka(ssl_cafile=CERTIFICATE))
    assert "kafka.ssl_cafile" in refused(Kafka(security_protocol="SSL", ssl_cafile="/nonexistent.pem"))


@pytest.mark.parametrize("content", ["", "\n", b"\xff\xfe"])
def test_a_secrets_file_without_a_secret_is_refused(setenv: Any, tmp_path: Path, content: Any) -> None:
    file = tmp_path / "password"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    setenv(SCRAM | {"KAFKA_SASL_PASSWORD": "", "KAFKA_SASL_PASSWORD_FILE": str(file)})
    assert f"KAFKA_SASL_PASSWORD_FILE: {file}" in refused()


# -- tokens


def test_a_token_is_read_again_each_time(setenv: Any, tmp_path: Path) -> None:
    """Failure: after an hour the token that was read at the start has run out, and nobody gets in again."""
    file = tmp_path / "token"
    file.write_text("first\n")
    setenv(
        {
            "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "KAFKA_SASL_MECHANISM": "OAUTHBEARER",
            "KAFKA_SASL_OAUTH_TOKEN_FILE": str(file),
        }
    )
    found = connection()
    ours = found.aiokafka()["sasl_oauth_token_provider"]
    others = found.kafka_python()["sasl_oauth_token_provider"]
    fausts = found.faust().oauth_cb

    def tokens() -> set[str]:
        return {asyncio.run(ours.token()), others.token(), asyncio.run(fausts.token())}

    assert tokens() == {"first"}
    file.write_text("second\n")
    assert tokens() == {"second"}
    # As it goes on the wire.
    assert f"auth=Bearer {others.token()}" == "auth=Bearer second"
    file.unlink()
    with pytest.raises(OSError, match="KAFKA_SASL_OAUTH_TOKEN_FILE"):
        others.token()


# -- secrets


def test_a_secret_does_not_show(setenv: Any) -> None:
    setenv(SCRAM)
    found = connection()
    app_settings = found.faust()
    for text in (
        repr(found),
        str(found),
        f"{found.password} {found.password!r} {found.password:>10}",
        "%s %r" % (found.password, found.password),  # noqa: UP031 - as logging does it
        str(found.aiokafka()),
        repr(app_settings),
        str(vars(app_settings)),
    ):
        assert PASSWORD not in text
    assert found.password.encode() == PASSWORD.encode() and "\0".join(["", found.password])[1:] == PASSWORD
    assert Secret("x") == "x"


@pytest.mark.parametrize("name", ["aiokafka.conn", "kafka.net.connection", "kafka.protocol.parser"])
def test_clients_do_not_log_what_logs_in(setenv: Any, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """Failure: `-l debug` writes the password into the log. Mechanism: clients print whole requests there."""
    setenv(SCRAM)
    connection()
    request = SaslAuthenticateRequest_v1(b"\0night\0" + PASSWORD.encode())
    with caplog.at_level(logging.DEBUG, logger=name):
        logging.getLogger(name).debug("Request to %s:%d %d: %s", "kafka", 9092, 1, request)
        logging.getLogger(name).debug("%s Send: %r", "kafka", bytearray(b"\0night\0" + PASSWORD.encode()))
        logging.getLogger(name).debug("Request to %s:%d %d: %s", "kafka", 9092, 2, "something else")
    assert [record.getMessage() for record in caplog.records] == ["Request to kafka:9092 2: something else"]


def test_faust_takes_what_we_give_it(setenv: Any, tmp_path: Path) -> None:
    """Failure: Faust refuses our credentials when the app is made, in production only."""
    setenv(SCRAM)
    app = faust.App(
        "unit",
        broker="kafka://127.0.0.1:1",
        broker_credentials=connection().faust(),
        store="memory://",
        datadir=str(tmp_path),
    )
    assert app.conf.broker_credentials.protocol.value == "SASL_SSL"
