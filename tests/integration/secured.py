"""An Apache Kafka with a listener of each kind: plaintext, SSL, SSL with client certificates, SASL, SASL_SSL.

Keys are made by the JDK's keytool when the broker is. The client's own key stands in ``tests/keys``: it was
made for these tests and opens nothing else.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from kafka.admin import KafkaAdminClient, ScramMechanism, UserScramCredentialUpsertion

import surgeline.local.broker as brokers

KEYS = Path(__file__).parents[1] / "keys"
USER, PASSWORD = "surgeline", "night, of=11 November"
STORE_PASSWORD = "of-this-test"
#: Listeners beside the plaintext one that every broker has, in the order of their ports.
LISTENERS = {"TLS": "SSL", "MUTUAL": "SSL", "LOGIN": "SASL_PLAINTEXT", "BOTH": "SASL_SSL"}
JAAS = "org.apache.kafka.common.security"


def missing() -> str:
    """Why this machine cannot run it; empty where it can."""
    if brokers.kafka_home() is None:
        return "needs Apache Kafka (KAFKA_HOME) and Java"
    return "" if shutil.which("keytool") else "needs the JDK's keytool on PATH"


class Secured:
    """The running broker: where each listener is, and what a client needs for it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = brokers.free_port(2 + len(LISTENERS))
        self.ca = folder / "ca.pem"
        self._make_keys()
        self.broker = brokers.Broker("kafka", self.port, folder / "broker", settings=self._settings())

    def __enter__(self) -> Secured:
        self.broker.start()
        admin = KafkaAdminClient(bootstrap_servers=self.plaintext)
        try:
            for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
                added = UserScramCredentialUpsertion(USER, mechanism, PASSWORD)
                answer = admin.alter_user_scram_credentials([added])
                assert answer == {USER: None}, answer
        finally:
            admin.close()
        return self

    def __exit__(self, *_: object) -> None:
        self.broker.stop()

    @property
    def plaintext(self) -> str:
        """The listener without TLS and login, for the tests' own clients."""
        return self.broker.bootstrap

    def at(self, listener: str) -> str:
        """``host:port`` of one of ``LISTENERS``."""
        return f"{brokers.HOST}:{self.port + 2 + list(LISTENERS).index(listener)}"

    def ways(self) -> dict[str, dict[str, str]]:
        """Environments of clients that each reach their listener, by what they show."""
        tls = {"KAFKA_SSL_CAFILE": str(self.ca)}
        certificate = {
            "KAFKA_SSL_CERTFILE": str(KEYS / "client.pem"),
            "KAFKA_SSL_KEYFILE": str(KEYS / "client-encrypted.key"),
            "KAFKA_SSL_KEY_PASSWORD": "open sesame",
        }
        login = {"KAFKA_SASL_USERNAME": USER, "KAFKA_SASL_PASSWORD": PASSWORD}
        token = self.folder / "token"
        token.write_text(f"{unsecured_token(USER)}\n")
        bearer = {"KAFKA_SASL_OAUTH_TOKEN_FILE": str(token)}
        return {
            "SSL": self._way("TLS", tls),
            "SSL with a client certificate": self._way("MUTUAL", tls | certificate),
            "SASL_PLAINTEXT PLAIN": self._way("LOGIN", login, "PLAIN"),
            "SASL_PLAINTEXT OAUTHBEARER": self._way("LOGIN", bearer, "OAUTHBEARER"),
            "SASL_SSL PLAIN": self._way("BOTH", tls | login, "PLAIN"),
            "SASL_SSL SCRAM-SHA-256": self._way("BOTH", tls | login, "SCRAM-SHA-256"),
            "SASL_SSL SCRAM-SHA-512": self._way("BOTH", tls | login, "SCRAM-SHA-512"),
            "SASL_SSL OAUTHBEARER": self._way("BOTH", tls | bearer, "OAUTHBEARER"),
        }

    def _way(self, listener: str, more: Mapping[str, str], mechanism: str = "") -> dict[str, str]:
        way = {"KAFKA_BOOTSTRAP": self.at(listener), "KAFKA_SECURITY_PROTOCOL": LISTENERS[listener]}
        return way | ({"KAFKA_SASL_MECHANISM": mechanism} if mechanism else {}) | dict(more)

    def _make_keys(self) -> None:
        """A CA, and a server's key that it signed for this machine."""
        server = self.folder / "server.p12"
        ca = self.folder / "ca.p12"
        self._keytool(ca, "-genkeypair", "-alias", "ca", "-dname", "CN=test CA", "-ext", "bc:c")
        self._keytool(ca, "-exportcert", "-alias", "ca", "-rfc", "-file", str(self.ca))
        self._keytool(server, "-genkeypair", "-alias", "server", "-dname", "CN=server")
        request, signed = self.folder / "server.csr", self.folder / "server.pem"
        self._keytool(server, "-certreq", "-alias", "server", "-file", str(request))
        names = f"SAN=IP:{brokers.HOST}"
        files = ["-infile", str(request), "-outfile", str(signed)]
        self._keytool(ca, "-gencert", "-alias", "ca", "-rfc", "-ext", names, *files)
        with signed.open("a") as chain:
            chain.write(self.ca.read_text())
        self._keytool(server, "-importcert", "-noprompt", "-alias", "server", "-file", str(signed))

    def _keytool(self, store: Path, *arguments: str) -> None:
        argv = ["keytool", *arguments, "-keystore", str(store), "-storetype", "PKCS12"]
        # As fast as a JVM starts: it is six of them.
        argv += ["-storepass", STORE_PASSWORD, "-J-XX:TieredStopAtLevel=1", "-J-XX:+UseSerialGC"]
        if "-genkeypair" in arguments:
            argv += ["-keyalg", "EC", "-groupname", "secp256r1", "-validity", "3650"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def _settings(self) -> dict[str, str]:
        """What ``server.properties`` has beside, or instead of, a plaintext broker's."""
        plain = {"PLAINTEXT": self.port, "CONTROLLER": self.port + 1}
        ports = plain | {name: self.port + 2 + k for k, name in enumerate(LISTENERS)}
        urls = {name: f"{name}://{brokers.HOST}:{port}" for name, port in ports.items()}
        protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"} | LISTENERS
        settings = {
            "listeners": ",".join(urls.values()),
            "advertised.listeners": ",".join(url for name, url in urls.items() if name != "CONTROLLER"),
            "listener.security.protocol.map": ",".join(f"{k}:{v}" for k, v in protocols.items()),
            "inter.broker.listener.name": "PLAINTEXT",
            "ssl.keystore.location": str(self.folder / "server.p12"),
            "ssl.keystore.password": STORE_PASSWORD,
            "ssl.key.password": STORE_PASSWORD,
            "ssl.truststore.location": str(KEYS / "client.pem"),
            "ssl.truststore.type": "PEM",
            "listener.name.mutual.ssl.client.auth": "required",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
        }
        for listener in ("login", "both"):
            for mechanism, module in {
                "plain": f'{JAAS}.plain.PlainLoginModule required user_{USER}="{PASSWORD}"',
                "scram-sha-256": f"{JAAS}.scram.ScramLoginModule required",
                "scram-sha-512": f"{JAAS}.scram.ScramLoginModule required",
                "oauthbearer": f"{JAAS}.oauthbearer.OAuthBearerLoginModule required "
                'unsecuredLoginStringClaim_sub="broker"',
            }.items():
                settings[f"listener.name.{listener}.{mechanism}.sasl.jaas.config"] = f"{module};"
        return settings


def unsecured_token(subject: str, lasts_s: float = 3600.0) -> str:
    """A JSON web token without a signature, as Kafka's validator for tests takes it."""
    now = time.time()
    claims = {"sub": subject, "iat": now - 10.0, "exp": now + lasts_s}
    parts = [json.dumps(part).encode() for part in ({"alg": "none"}, claims)]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts) + "."
