"""The scenario: one TOML file that names topics, times, features, trunk and learners.

Everything has a default. A refused file says which field is wrong and what is allowed.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from contracts.errors import SurgelineError
from contracts.toml_lines import line_of

Seconds = Annotated[float, msgspec.Meta(gt=0.0, le=864_000.0)]
#: What Kafka takes as the name of a topic or of a group's member; "." and ".." are no names.
NAME = r"^(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,249}\Z"
TopicName = Annotated[str, msgspec.Meta(pattern=NAME)]

DEFAULT_BOOTSTRAP = "127.0.0.1:9092"
#: Names of River learners, those of ``models.online.river_learner``: to read a scenario needs no River.
RIVER_LEARNERS = ("ftrl", "logistic", "sgd")
#: How connections to Kafka may be secured, and how a user may prove who it is.
PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
_SERVER = r"^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}\Z"


class ScenarioError(SurgelineError, ValueError):
    """The scenario cannot be used; the message names the field and what is allowed."""


class Topics(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Names and shape of the topics; ``sources`` share one partition count.

    ``isolation``: ``read_committed`` leaves out records of aborted transactions, and those of open ones until
    they are committed; ``read_uncommitted`` learns from all of them.

    ``impressions``: where impressions are read from. ``actions``: where actions are read from.
    ``behaviours``: where everything else that users do is read from.
    ``dead_letter``: where refused records go, with the reason. ``weights``: where workers publish weights and
    serving reads them (compacted). ``features``: where workers publish feature rows and serving reads them
    (compacted). ``partitions``: of each source topic, where `surgeline topics` creates it.
    ``replication``: of every topic that it creates.
    """

    impressions: TopicName = "surgeline-impressions"
    actions: TopicName = "surgeline-actions"
    behaviours: TopicName = "surgeline-behaviours"
    dead_letter: TopicName = "surgeline-dead-letter"
    weights: TopicName = "surgeline-weights"
    features: TopicName = "surgeline-features"
    partitions: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 4
    replication: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    isolation: Literal["read_committed", "read_uncommitted"] = "read_committed"

    @property
    def sources(self) -> tuple[str, ...]:
        """The topics that events come from, in the order of ``contracts.events.KINDS``."""
        return self.impressions, self.actions, self.behaviours

    def __post_init__(self) -> None:
        names = [*self.sources, self.dead_letter, self.weights, self.features]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"topics.impressions, actions, behaviours, dead_letter, weights and features must be six "
                f"different topics; {twice[0]!r} stands there twice"
            )


class Times(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Event-time rules, all in seconds.

    ``tick_s``: how often the engine learns, checkpoints and publishes (far behind, it takes a checkpoint
    every few seconds).
    ``label_window_s``: an impression becomes a sample this long after it was shown; clicks until then
    decide its label. ``join_limit_s``: an impression is remembered this long for later actions and for
    dropping duplicates, and an action waits this long for its impression. ``lateness_s``: how far the
    watermark trails the newest event. ``idle_s``: a partition without new records for this long (wall
    clock) no longer holds the watermark back. ``max_future_s``: an event further ahead of the wall clock
    goes to the dead-letter topic.
    """

    tick_s: Annotated[float, msgspec.Meta(ge=0.1, le=3600.0)] = 1.0
    label_window_s: Seconds = 5.0
    join_limit_s: Seconds = 300.0
    lateness_s: Annotated[float, msgspec.Meta(ge=0.0, le=3600.0)] = 1.0
    idle_s: Seconds = 5.0
    max_future_s: Seconds = 300.0

    @property
    def closing_ms(self) -> int:
        """How far behind the last event a watermark closes every label, which is with the tick after it."""
        tick, window = round(self.tick_s * 1000), round(self.label_window_s * 1000)
        return tick + -(-window // tick) * tick + math.ceil(self.lateness_s * 1000.0)


class State(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """What a worker remembers.

    ``cached_rows``: feature rows in memory at most, all tables together; the rest stay in RocksDB.
    ``forget_s``: rows that nothing moved for so long (event time) are deleted.
    """

    cached_rows: Annotated[int, msgspec.Meta(ge=1_000)] = 2_000_000
    forget_s: Seconds = 604_800.0


class Learners(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """The online experts.

    ``prior_precision``: how strongly the last layer is pulled to the frozen one. ``feature_prior_precision``:
    how strongly weights of real-time features are pulled to zero. ``trunk_evidence``: how much what the
    trunk's training told of them adds to that, as a share of its weight. ``half_life_s``: after so long, in
    event time, old evidence is worth half. ``river``: River learners, of ftrl, logistic and sgd, none twice.
    ``river_samples_per_tick``: what each of these learns in a tick at most; what it skips is counted.
    """

    prior_precision: Annotated[float, msgspec.Meta(gt=0.0, le=1e9)] = 100.0
    feature_prior_precision: Annotated[float, msgspec.Meta(gt=0.0, le=1e9)] = 100.0
    trunk_evidence: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.5
    half_life_s: Seconds = 3600.0
    river: list[str] = msgspec.field(default_factory=lambda: ["logistic"])
    river_samples_per_tick: Annotated[int, msgspec.Meta(ge=1)] = 50


class Kafka(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """How to connect to Kafka; empty: as the environment says, see ``clients.connection``.

    Passwords and tokens have no field here: a scenario is shared and kept in version control.

    ``security_protocol``: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL. ``sasl_mechanism``: PLAIN,
    SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER. ``sasl_username``: who connects. ``ssl_cafile``: the
    certificates that a broker's is checked with. ``ssl_certfile``: our own certificate, where brokers ask for
    one. ``ssl_keyfile``: its key. ``ssl_check_hostname``: whether a broker's certificate must name its host.
    """

    security_protocol: str = ""
    sasl_mechanism: str = ""
    sasl_username: str = ""
    ssl_cafile: str = ""
    ssl_certfile: str = ""
    ssl_keyfile: str = ""
    ssl_check_hostname: bool = True

    def __post_init__(self) -> None:
        for name, allowed in (("security_protocol", PROTOCOLS), ("sasl_mechanism", MECHANISMS)):
            value = getattr(self, name)
            if value and value not in allowed:
                raise ValueError(f"kafka.{name} is {value!r}; allowed are {', '.join(allowed)}")


class Scenario(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """All settings of an engine.

    ``name``: names the consumer group and the state folder. ``trunk``: the folder of a trunk that `surgeline
    train` wrote; empty: the home folder's, where there is one.

    ``features``: what ``features.declared`` reads; without a family in it, good defaults.
    """

    name: TopicName = "surgeline"
    trunk: str = ""
    topics: Topics = msgspec.field(default_factory=Topics)
    times: Times = msgspec.field(default_factory=Times)
    features: dict[str, Any] = msgspec.field(default_factory=dict)
    state: State = msgspec.field(default_factory=State)
    learners: Learners = msgspec.field(default_factory=Learners)
    kafka: Kafka = msgspec.field(default_factory=Kafka)

    def __post_init__(self) -> None:
        unknown = [name for name in self.learners.river if name not in RIVER_LEARNERS]
        if unknown:
            raise ValueError(
                f"learners.river has {', '.join(map(repr, unknown))}; allowed are {', '.join(RIVER_LEARNERS)}"
            )
        if len(set(self.learners.river)) < len(self.learners.river):
            raise ValueError("learners.river must not repeat a name")
        times = self.times
        if times.join_limit_s < times.label_window_s:
            raise ValueError(
                f"times.join_limit_s ({times.join_limit_s:g}) must be at least "
                f"times.label_window_s ({times.label_window_s:g})"
            )
        if self.learners.half_life_s < times.tick_s / 10:
            raise ValueError(
                f"learners.half_life_s ({self.learners.half_life_s:g}) must be at least a tenth of "
                f"times.tick_s ({times.tick_s:g})"
            )


def bootstrap_servers(given: str | None = None) -> str:
    """``given``, else ``KAFKA_BOOTSTRAP`` (host:port, comma-separated), else the local default.

    Raises ``ScenarioError`` for what is no address: clients would try it for half a minute, or break.
    """
    text = given or os.environ.get("KAFKA_BOOTSTRAP") or DEFAULT_BOOTSTRAP
    servers = [server.strip() for server in text.split(",")]
    for server in servers:
        if not re.match(_SERVER, server) or not 0 < int(server.rpartition(":")[2]) < 65_536:
            raise ScenarioError(
                f"Kafka address {server!r} (--bootstrap or KAFKA_BOOTSTRAP): expected host:port, several "
                "with commas"
            )
    return ",".join(servers)


def home() -> Path:
    """Where state, trunks and downloads live: ``SURGELINE_HOME``, else ``.surgeline`` here."""
    return Path(os.environ.get("SURGELINE_HOME") or ".surgeline")


def worker_id() -> str:
    """``SURGELINE_WORKER_ID``, else ``0``: names the state folder, the group's member and keys in topics.

    Raises ``ScenarioError`` where it cannot be part of those.
    """
    found = os.environ.get("SURGELINE_WORKER_ID") or "0"
    if not re.match(NAME, found):
        raise ScenarioError(
            f"SURGELINE_WORKER_ID {found!r}: allowed are letters, digits, '.', '_' and '-', at most 249"
        )
    return found


def load_scenario(path: str | os.PathLike[str] | None = None) -> Scenario:
    """Read a scenario from ``path``, else from ``SURGELINE_SCENARIO``, else the defaults.

    Raises ``ScenarioError`` for a file that is missing, is not TOML, or has a wrong field.
    """
    source, text = written(path)
    if not source:
        return Scenario()
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"scenario {source}: not TOML: {error}") from error
    told = _secret(data.get("kafka"))
    if told:
        raise wrong(source, text, told.partition(": ")[0], told)
    try:
        return msgspec.convert(data, Scenario)
    except msgspec.ValidationError as error:
        raise wrong(source, text, _place(str(error)), f"{error}{_allowed(str(error))}") from error


def written(path: str | os.PathLike[str] | None = None) -> tuple[str, str]:
    """Which file a scenario is read from, and its text; two empty texts where there is none."""
    source = str(path or os.environ.get("SURGELINE_SCENARIO") or "")
    if not source:
        return "", ""
    try:
        return source, Path(source).read_text(encoding="utf-8")
    except OSError as error:
        raise ScenarioError(f"scenario {source}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ScenarioError(f"scenario {source}: not TOML: {error}") from error


def wrong(source: str, text: str, place: str, told: str) -> ScenarioError:
    """What is wrong at ``place`` ("times.tick_s") of a scenario, with the line where it stands."""
    line = line_of(text, place) if place else None
    where = f"scenario {source}, line {line}" if line else f"scenario {source}"
    return ScenarioError(f"{where}: {told}")


def _secret(kafka: object) -> str:
    """What to do about a secret in the ``kafka`` table, without the secret; empty where there is none.

    >>> _secret({"sasl_password": "hunter2"})
    'kafka.sasl_password: a scenario holds no secrets; set KAFKA_SASL_PASSWORD or KAFKA_SASL_PASSWORD_FILE'
    """
    for name in kafka if isinstance(kafka, dict) else ():
        if "token" in name.lower():
            instead = "KAFKA_SASL_OAUTH_TOKEN_FILE"
        elif re.search("pass|secret", name.lower()):
            about_key = re.search("ssl|key", name.lower())
            variable = "KAFKA_SSL_KEY_PASSWORD" if about_key else "KAFKA_SASL_PASSWORD"
            instead = f"{variable} or {variable}_FILE"
        else:
            continue
        return f"kafka.{name}: a scenario holds no secrets; set {instead}"
    return ""


def _place(message: str) -> str:
    """The setting that a message of msgspec is about.

    >>> _place("Expected `float` >= 0.1 - at `$.times.tick_s`")
    'times.tick_s'
    >>> _place("Object contains unknown field `lateness` - at `$.times`")
    'times.lateness'
    """
    at, unknown = re.search(r" - at `\$\.?(.*?)`$", message), re.search(r"unknown field `(.*?)`", message)
    parts = [at[1] if at else "", unknown[1] if unknown else ""]
    return ".".join(part for part in parts if part)


def _allowed(message: str) -> str:
    """The fields of the table that has an unknown one.

    >>> _allowed("Object contains unknown field `lateness` - at `$.times`")
    '; allowed are tick_s, label_window_s, join_limit_s, lateness_s, idle_s, max_future_s'
    """
    found = re.search(r"unknown field `[^`]*`(?: - at `\$\.(\w+)`)?$", message)
    if not found:
        return ""
    table = {"topics": Topics, "times": Times, "state": State, "learners": Learners, "kafka": Kafka}
    return f"; allowed are {', '.join(table.get(found[1] or '', Scenario).__struct_fields__)}"
