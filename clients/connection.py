"""How to reach Kafka: addresses, TLS and SASL from scenario and environment, for every client that we use.

Each field of the scenario's ``[kafka]`` table has a variable of the same name (``KAFKA_SSL_CAFILE`` for
``ssl_cafile``), which wins. Secrets come from the environment or from files that it names, and from nowhere
else: ``KAFKA_SASL_PASSWORD``, ``KAFKA_SSL_KEY_PASSWORD`` (each also with ``_FILE``) and
``KAFKA_SASL_OAUTH_TOKEN_FILE``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from contracts.scenario import MECHANISMS, PROTOCOLS, Kafka, ScenarioError, bootstrap_servers

#: Every variable that says how connections are secured, not where to.
VARIABLES = (
    *(f"KAFKA_{name.upper()}" for name in Kafka.__struct_fields__),
    *(f"KAFKA_{name}{how}" for name in ("SASL_PASSWORD", "SSL_KEY_PASSWORD") for how in ("", "_FILE")),
    "KAFKA_SASL_OAUTH_TOKEN_FILE",
)


class ConnectionSettingsError(ScenarioError):
    """TLS or SASL cannot be set up like this; the message names the setting, and never a secret."""


class Secret(str):
    """A text that does not show where it is printed or logged; its bytes are the secret's."""

    __slots__ = ()

    def reveal(self) -> str:
        """The text as an ordinary one."""
        return "".join(self)

    def __repr__(self) -> str:
        return "'***'"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format("***", spec)


@dataclass(frozen=True, slots=True)
class Connection:
    """Where Kafka is (``bootstrap``: host:port, several with commas) and how connections are secured.

    The same for every client: aiokafka's, kafka-python's, Faust's. ``token_file`` is read again for each
    token, so that a token may be replaced while programs run; all else is read when this is made.
    """

    bootstrap: str
    protocol: str = "PLAINTEXT"
    mechanism: str = ""
    username: str = ""
    password: Secret = field(default_factory=Secret, repr=False)
    token_file: Path | None = None
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False)
    #: Whether we show a certificate of our own.
    has_certificate: bool = False

    @property
    def servers(self) -> list[str]:
        """``bootstrap`` as a list."""
        return self.bootstrap.split(",")

    def aiokafka(self) -> dict[str, Any]:
        """Arguments for a client of aiokafka, ``bootstrap_servers`` among them."""
        return self._arguments(_aiokafka_tokens)

    def kafka_python(self) -> dict[str, Any]:
        """Arguments for a client of kafka-python, ``bootstrap_servers`` among them."""
        return self._arguments(_kafka_python_tokens)

    def faust(self) -> Any:
        """What ``broker_credentials`` of a Faust app takes; its broker URLs hold the addresses."""
        # Serving and replay use this module too, and have no need of Faust.
        import faust

        if not self.mechanism:
            return None if self.ssl_context is None else faust.SSLCredentials(self.ssl_context)
        if self.token_file is not None:
            tokens = _aiokafka_tokens(self.token_file)
            return faust.auth.OAuthCredentials(oauth_cb=tokens, ssl_context=self.ssl_context)
        return faust.SASLCredentials(
            username=self.username,
            password=self.password,
            mechanism=self.mechanism,
            ssl_context=self.ssl_context,
        )

    def _arguments(self, tokens: Any) -> dict[str, Any]:
        found: dict[str, Any] = {"bootstrap_servers": self.servers, "security_protocol": self.protocol}
        if self.ssl_context is not None:
            found["ssl_context"] = self.ssl_context
        if self.mechanism:
            found["sasl_mechanism"] = self.mechanism
            if self.token_file is not None:
                found["sasl_oauth_token_provider"] = tokens(self.token_file)
            else:
                found |= {"sasl_plain_username": self.username, "sasl_plain_password": self.password}
        return found


def connection(kafka: Kafka | None = None, bootstrap: str | None = None) -> Connection:
    """The connection that environment and ``kafka``, a scenario's table, ask for; the environment wins.

    ``bootstrap``: as `bootstrap_servers` takes it. Raises ``ScenarioError`` (``ConnectionSettingsError``)
    for what cannot work: an unknown protocol, a login without its password, a file that is no certificate,
    a setting that nothing would use.
    """
    servers = bootstrap_servers(bootstrap)
    found = _found(kafka or Kafka())
    protocol = _one_of(found, "security_protocol", PROTOCOLS) or "PLAINTEXT"
    mechanism, login, secret, token_file = "", "", Secret(), None
    if protocol.startswith("SASL_"):
        mechanism = _one_of(found, "sasl_mechanism", MECHANISMS)
        if not mechanism:
            raise ConnectionSettingsError(
                f"{protocol} needs KAFKA_SASL_MECHANISM: one of {', '.join(MECHANISMS)}"
            )
    _refuse_unused(found, protocol, mechanism)
    if mechanism == "OAUTHBEARER":
        token_file = _token_file(found)
    elif mechanism:
        login, secret = _login(found, mechanism)
    context = _ssl_context(found) if protocol.endswith("SSL") else None
    if mechanism:
        _keep_secrets_out_of_logs()
    has_certificate = "ssl_certfile" in found
    return Connection(servers, protocol, mechanism, login, secret, token_file, context, has_certificate)


def forget_security(environment: MutableMapping[str, str] = os.environ) -> None:
    """Take TLS and SASL out of ``environment``: a broker that we start ourselves has neither."""
    for name in VARIABLES:
        environment.pop(name, None)


# -- settings


class _Setting(NamedTuple):
    """A value, and what a person calls the place where it stands."""

    value: str
    name: str
    from_environment: bool


def _found(kafka: Kafka) -> dict[str, _Setting]:
    """Every setting that is set, by its field's name; secrets of files are read here."""
    found = {}
    defaults = Kafka()
    for name in Kafka.__struct_fields__:
        variable, value = f"KAFKA_{name.upper()}", getattr(kafka, name)
        if os.environ.get(variable):
            found[name] = _Setting(os.environ[variable], variable, True)
        elif value != getattr(defaults, name):
            found[name] = _Setting(str(value).lower() if value is False else value, f"kafka.{name}", False)
    tokens = os.environ.get("KAFKA_SASL_OAUTH_TOKEN_FILE")
    if tokens:
        found["sasl_oauth_token_file"] = _Setting(tokens, "KAFKA_SASL_OAUTH_TOKEN_FILE", True)
    for name in ("sasl_password", "ssl_key_password"):
        variable = f"KAFKA_{name.upper()}"
        if os.environ.get(variable):
            found[name] = _Setting(Secret(os.environ[variable]), variable, True)
        file = os.environ.get(f"{variable}_FILE")
        if file:
            if name in found:
                raise ConnectionSettingsError(f"{variable} and {variable}_FILE are both set: keep one")
            found[name] = _Setting(_read_secret(file, f"{variable}_FILE"), f"{variable}_FILE", True)
    return found


def _read_secret(path: str | Path, variable: str) -> Secret:
    try:
        # A file that an editor or `echo` wrote ends with a line break, which no secret does.
        text = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConnectionSettingsError(f"{variable}: {path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError:
        # Not chained: that error holds the bytes.
        raise ConnectionSettingsError(f"{variable}: {path} is no UTF-8 text") from None
    if not text:
        raise ConnectionSettingsError(f"{variable}: {path} is empty")
    return Secret(text)


def _one_of(found: dict[str, _Setting], name: str, allowed: tuple[str, ...]) -> str:
    if name not in found:
        return ""
    value = found[name].value.upper()
    if value not in allowed:
        raise ConnectionSettingsError(
            f"{found[name].name} is {found[name].value!r}; allowed are {', '.join(allowed)}"
        )
    return value


def _refuse_unused(found: dict[str, _Setting], protocol: str, mechanism: str) -> None:
    """A setting that nothing uses is a connection that is less secured than somebody thinks.

    A scenario's settings may stay where the environment has another protocol: it was told to win.
    """
    used = {"security_protocol"}
    if protocol.endswith("SSL"):
        used |= {name for name in found if name.startswith("ssl_")}
    if mechanism == "OAUTHBEARER":
        used |= {"sasl_mechanism", "sasl_oauth_token_file"}
    elif mechanism:
        used |= {"sasl_mechanism", "sasl_username", "sasl_password"}
    overruled = any(
        found[name].from_environment for name in ("security_protocol", "sasl_mechanism") if name in found
    )
    for name, setting in found.items():
        if name in used or (overruled and not setting.from_environment):
            continue
        if mechanism and name.startswith("sasl_"):
            raise ConnectionSettingsError(f"{setting.name} is set, but {mechanism} does not use it")
        kind = "SSL" if name.startswith("ssl_") else "SASL"
        raise ConnectionSettingsError(
            f"{setting.name} is set, but connections are {protocol}, which has no {kind}: set "
            f"KAFKA_SECURITY_PROTOCOL to {' or '.join(p for p in PROTOCOLS if kind in p.split('_'))}"
        )


def _login(found: dict[str, _Setting], mechanism: str) -> tuple[str, Secret]:
    if "sasl_username" not in found:
        raise ConnectionSettingsError(f"{mechanism} needs KAFKA_SASL_USERNAME, or kafka.sasl_username")
    if "sasl_password" not in found:
        raise ConnectionSettingsError(f"{mechanism} needs KAFKA_SASL_PASSWORD or KAFKA_SASL_PASSWORD_FILE")
    password = found["sasl_password"].value
    assert isinstance(password, Secret)
    return found["sasl_username"].value, password


# -- TLS


def _ssl_context(found: dict[str, _Setting]) -> ssl.SSLContext:
    authorities = found.get("ssl_cafile")
    if authorities is None:
        context = ssl.create_default_context()
    else:
        try:
            # These and no others: not every CA that the system knows may vouch for a broker.
            context = ssl.create_default_context(cafile=authorities.value)
        except ssl.SSLError as error:
            raise ConnectionSettingsError(
                f"{authorities.name}: {authorities.value} holds no certificate in PEM"
            ) from error
        except OSError as error:
            raise ConnectionSettingsError(
                f"{authorities.name}: {authorities.value} cannot be read ({error.strerror})"
            ) from error
    context.check_hostname = _true(found.get("ssl_check_hostname"))
    _load_certificate(context, found)
    return context


def _true(setting: _Setting | None) -> bool:
    if setting is None or setting.value.lower() in ("true", "1", "yes"):
        return True
    if setting.value.lower() in ("false", "0", "no"):
        return False
    raise ConnectionSettingsError(f"{setting.name} is {setting.value!r}; allowed are true, false")


def _load_certificate(context: ssl.SSLContext, found: dict[str, _Setting]) -> None:
    """Our own certificate, for brokers that ask for one; its file may hold the key as well."""
    certificate, key = found.get("ssl_certfile"), found.get("ssl_keyfile")
    password = found.get("ssl_key_password")
    if certificate is None:
        for setting in (key, password):
            if setting is not None:
                raise ConnectionSettingsError(f"{setting.name} is set without KAFKA_SSL_CERTFILE")
        return
    for setting in (certificate, key):
        if setting is not None:
            try:
                Path(setting.value).read_bytes()
            except OSError as error:
                raise ConnectionSettingsError(
                    f"{setting.name}: {setting.value} cannot be read ({error.strerror})"
                ) from error
    asked = False

    def give() -> str:
        # OpenSSL would ask at the terminal.
        nonlocal asked
        asked = True
        return "" if password is None else password.value

    try:
        context.load_cert_chain(certificate.value, None if key is None else key.value, give)
    except (ssl.SSLError, ValueError) as error:
        raise ConnectionSettingsError(_bad_certificate(certificate, key, password, asked, error)) from None


def _bad_certificate(
    certificate: _Setting, key: _Setting | None, password: _Setting | None, asked: bool, error: Exception
) -> str:
    if asked and password is None:
        return f"{(key or certificate).value} is encrypted: set KAFKA_SSL_KEY_PASSWORD"
    if asked and password is not None:
        return f"{password.name} does not open {(key or certificate).value}"
    if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
        return f"{certificate.value} and {(key or certificate).value} do not belong together"
    if "PRIVATE KEY-----" not in Path((key or certificate).value).read_text(errors="replace"):
        if key is None:
            return f"{certificate.name}: {certificate.value} holds no private key: set KAFKA_SSL_KEYFILE"
        return f"{key.name}: {key.value} holds no private key in PEM"
    return f"{certificate.name}: {certificate.value} holds no certificate in PEM"


# -- tokens


def _token_file(found: dict[str, _Setting]) -> Path:
    setting = found.get("sasl_oauth_token_file")
    if setting is None:
        raise ConnectionSettingsError("OAUTHBEARER needs KAFKA_SASL_OAUTH_TOKEN_FILE")
    path = Path(setting.value)
    _read_secret(path, setting.name)
    return path


def _token(path: Path) -> str:
    """The token as the file has it now. Raises ``OSError``, which clients take as a failed connection."""
    try:
        # Clients put it on the wire through `format`.
        return _read_secret(path, "KAFKA_SASL_OAUTH_TOKEN_FILE").reveal()
    except ConnectionSettingsError as error:
        raise OSError(str(error)) from error


def _aiokafka_tokens(path: Path) -> Any:
    from aiokafka.abc import AbstractTokenProvider

    class Tokens(AbstractTokenProvider):
        async def token(self) -> str:
            return await asyncio.to_thread(_token, path)

    return Tokens()


def _kafka_python_tokens(path: Path) -> Any:
    from kafka.net.sasl.oauth import AbstractTokenProvider

    class Tokens(AbstractTokenProvider):
        def token(self) -> str:
            return _token(path)

    return Tokens()


# -- logs


class _NoSecrets(logging.Filter):
    """Drops records of both clients that hold what is sent to log in: they print whole requests, also raw."""

    def filter(self, record: logging.LogRecord) -> bool:
        args = record.args if isinstance(record.args, tuple) else (record.args,)
        return not any(isinstance(arg, bytes | bytearray) or "Sasl" in type(arg).__name__ for arg in args)


_NO_SECRETS = _NoSecrets()


def _keep_secrets_out_of_logs() -> None:
    for name in ("aiokafka.conn", "kafka.net.connection", "kafka.protocol.parser"):
        logging.getLogger(name).addFilter(_NO_SECRETS)
