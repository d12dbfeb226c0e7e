"""The Faust app: ``faust -A stream.app worker -l info``. Agents and timers only.

Environment: ``KAFKA_BOOTSTRAP`` and the variables of ``clients.connection``, ``SURGELINE_SCENARIO``,
``SURGELINE_HOME``, ``SURGELINE_WORKER_ID`` (a stable name for each worker of a group; it is the static group
member and names the state folder).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import Any, NoReturn

import click
import faust
from aiokafka.errors import KafkaError
from faust.sensors.prometheus import setup_prometheus_sensors

from clients.connection import Connection, connection
from clients.patience import wait_for_port
from clients.quiet import install as quieten
from clients.refusal import BrokerRefused
from clients.topics import BROKER_WAIT_S, TopicsError, ensure_topics
from contracts.errors import SurgelineError
from contracts.scenario import Scenario, ScenarioError, home, worker_id
from features.load import load_declared
from models.deep.manifest import TrunkError
from models.online.codec import LearnerStateError
from state.errors import StateError
from stream.assignor import EvenAssignor
from stream.live import add_pages, let_pages_speak_json
from stream.runtime import Runtime
from stream.transport import batch_topic

logger = logging.getLogger(__name__)

TICK_S = 1.0
#: How often a worker looks whether its topics are still the same ones.
CHECK_TOPICS_S = 30.0


class SurgelineWorker(faust.Worker):
    """Faust's worker; what ends a start is one line on stderr and status 1, without a traceback."""

    def execute_from_commandline(self) -> NoReturn:  # type: ignore[misc]
        """Run until stopped; ``SystemExit`` holds what ended it."""
        try:
            super().execute_from_commandline()
        finally:
            # asyncio would print the traceback of an exit that nobody looks at.
            if self._starting_fut is not None and self._starting_fut.done():
                with contextlib.suppress(asyncio.CancelledError):
                    self._starting_fut.exception()


class WebPortError(SurgelineError, RuntimeError):
    """Metrics and live page cannot listen where they should; the message says how to change it."""


#: What a person can put right; each says how. Anything else is a bug and keeps its traceback.
UNUSABLE = (
    ScenarioError,
    TopicsError,
    BrokerRefused,
    StateError,
    TrunkError,
    LearnerStateError,
    KafkaError,
    OSError,
    WebPortError,
)


def _exit(line: str) -> NoReturn:
    raise SystemExit(line)


def check_web_port(bind: str, port: int) -> None:
    """Raise ``WebPortError`` where nobody can listen on ``bind``, before the state is touched.

    A port that the worker before still closes is waited for.
    """
    try:
        wait_for_port(bind, port)
    except OSError as error:
        reason = str(error.strerror or error).partition(" (")[0]
        raise WebPortError(
            f"metrics and live page cannot listen on {bind}:{port} ({reason}); choose another port with "
            "--web-port, or another address with SURGELINE_WEB_BIND"
        ) from error


class SurgelineApp(faust.App):
    """A Faust app whose offsets belong to the engine's state (``offsets``, see ``stream.transport``)."""

    offsets: Runtime
    kafka: Connection
    isolation_level: str
    _gave_up = False

    def give_up(self, error: BaseException) -> None:
        """End this process with status 1 and one line on stderr; a bug has its traceback in the log, once.

        A tick that broke half-way leaves memory behind the checkpoint: only a restart is right. Faust's own
        ``crash`` would print the error's traceback for every service above the one that failed.
        """
        if self._gave_up:
            return
        self._gave_up = True
        fault = self.offsets.fault or error
        if isinstance(fault, StateError):
            line = f"Error: {fault}"
        else:
            logger.critical("The engine failed", exc_info=fault)
            line = f"Error: the engine failed ({fault!r}); the state is that of the last checkpoint"
        self.loop.call_soon(_exit, line)

    async def on_first_start(self) -> None:
        """Prepare topics and state before anything is consumed."""
        try:
            if self.conf.web_enabled and self.conf.web_transport.scheme == "tcp":
                await asyncio.to_thread(check_web_port, self.conf.web_bind, self.conf.web_port)
            let_pages_speak_json(self, self.offsets)
            await asyncio.to_thread(ensure_topics, self.kafka, self.scenario, BROKER_WAIT_S)
            await self.offsets.start()
        except UNUSABLE as error:
            self._gave_up = True
            raise SystemExit(f"Error: {error}") from error
        await super().on_first_start()

    async def on_stop(self) -> None:
        """Flush: the last checkpoint, the last weights."""
        # While the consumer is there: what is done and not committed would be done again by another worker.
        await self.offsets.leave(self.consumer)
        await super().on_stop()
        await self.offsets.stop()
        if self.offsets.fault is not None:
            self.give_up(self.offsets.fault)


def create_app(scenario: Scenario) -> SurgelineApp:
    """The app for a scenario; one worker process runs it."""
    member = worker_id()
    kafka = connection(scenario.kafka)
    datadir = home() / "faust" / member
    datadir.mkdir(parents=True, exist_ok=True)
    # Its retries while no broker answers would bury the one line that says so.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    quieten()
    app = SurgelineApp(
        scenario.name,
        Worker=SurgelineWorker,
        PartitionAssignor=EvenAssignor,
        broker=[f"batch://{server}" for server in kafka.servers],
        broker_credentials=kafka.faust(),
        store="memory://",
        origin="stream",
        datadir=str(datadir),
        consumer_group_instance_id=f"{scenario.name}-{member}",
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=10.0,
        broker_heartbeat_interval=3.0,
        stream_buffer_maxsize=16,
        topic_disable_leader=True,
        web_bind=os.environ.get("SURGELINE_WEB_BIND", "127.0.0.1"),
    )
    app.scenario, app.kafka = scenario, kafka
    app.isolation_level = scenario.topics.isolation
    # Faust's figures as faust_*: its default prefix, the app's name, is ours.
    setup_prometheus_sensors(app, name_prefix="faust")
    app.offsets = Runtime(scenario, kafka, member)
    add_agents(app)
    add_pages(app, app.offsets)
    return app


def add_agents(app: SurgelineApp) -> None:
    """Events of every kind into the engine; the tick."""
    runtime = app.offsets

    async def take(batches: Any) -> None:
        async for batch in batches:
            try:
                await runtime.ingest(batch)
            except Exception as error:
                app.give_up(error)
                return

    for name in app.scenario.topics.sources:
        app.agent(batch_topic(app, name), name=f"take-{name}")(take)

    @app.task
    async def drive() -> None:
        try:
            await runtime.drive(app.consumer)
        except Exception as error:
            app.give_up(error)

    @app.timer(TICK_S)
    async def tick() -> None:
        if not app.rebalancing:
            try:
                await runtime.tick(app.consumer)
            except Exception as error:
                app.give_up(error)

    @app.timer(CHECK_TOPICS_S)
    async def check_topics() -> None:
        if not app.rebalancing:
            await runtime.check_topics(app.consumer)

    @app.on_partitions_revoked.connect
    async def revoked(app: Any, revoked: Any, **kwargs: Any) -> None:
        try:
            await runtime.revoked(app.consumer)
        except Exception as error:
            app.give_up(error)


def _from_environment() -> SurgelineApp:
    """The app of this process. Raises click's own error, which ``faust`` prints as one line."""
    try:
        return create_app(load_declared())
    except UNUSABLE as error:
        raise click.ClickException(str(error)) from error


app = _from_environment()
