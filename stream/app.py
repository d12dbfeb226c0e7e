"""The Faust app: ``faust -A stream.app worker -l info``. Agents and timers only.

Environment: ``KAFKA_BOOTSTRAP``, ``SURGELINE_SCENARIO``, ``SURGELINE_HOME``, ``SURGELINE_WORKER_ID`` (a
stable name for each worker of a group; it is the static group member and names the state folder).
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import faust
from faust.sensors.prometheus import setup_prometheus_sensors

from stream.live import add_pages
from stream.metrics import WorkerMetrics
from stream.runtime import Runtime
from stream.scenario import Scenario, home, load_scenario
from stream.topics import bootstrap_servers, ensure_topics
from stream.transport import batch_topic

TICK_S = 1.0


class SurgelineApp(faust.App):
    """A Faust app whose offsets belong to the engine's state (``offsets``, see ``stream.transport``)."""

    offsets: Runtime

    async def on_first_start(self) -> None:
        """Prepare topics and state before anything is consumed."""
        await asyncio.to_thread(ensure_topics, bootstrap_servers(), self.scenario)
        await self.offsets.start()
        await super().on_first_start()

    async def on_stop(self) -> None:
        """Flush: the last checkpoint, the last weights."""
        await super().on_stop()
        await self.offsets.stop()


def create_app(scenario: Scenario) -> SurgelineApp:
    """The app for a scenario; one worker process runs it."""
    worker_id = os.environ.get("SURGELINE_WORKER_ID", "0")
    bootstrap = bootstrap_servers()
    datadir = home() / "faust" / worker_id
    datadir.mkdir(parents=True, exist_ok=True)
    app = SurgelineApp(
        scenario.name,
        broker=[f"batch://{server.strip()}" for server in bootstrap.split(",")],
        store="memory://",
        origin="stream",
        datadir=str(datadir),
        consumer_group_instance_id=f"{scenario.name}-{worker_id}",
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=10.0,
        broker_heartbeat_interval=3.0,
        stream_buffer_maxsize=16,
        topic_disable_leader=True,
        web_bind=os.environ.get("SURGELINE_WEB_BIND", "127.0.0.1"),
    )
    app.scenario = scenario
    # Faust's figures as faust_*: its default prefix, the app's name, is ours.
    setup_prometheus_sensors(app, name_prefix="faust")
    app.offsets = Runtime(scenario, bootstrap, worker_id, WorkerMetrics())
    add_agents(app)
    add_pages(app, app.offsets)
    return app


def add_agents(app: SurgelineApp) -> None:
    """Impressions and actions into the engine; the tick."""
    runtime = app.offsets

    async def take(batches: Any) -> None:
        async for batch in batches:
            try:
                await runtime.ingest(batch)
            except Exception as error:
                # A tick that broke half-way leaves memory behind the checkpoint: only a restart is right.
                await app.crash(error)
                raise

    for name in (app.scenario.topics.impressions, app.scenario.topics.actions):
        app.agent(batch_topic(app, name), name=f"take-{name}")(take)

    @app.timer(TICK_S)
    async def tick() -> None:
        if not app.rebalancing:
            try:
                await runtime.tick(app.consumer)
            except Exception as error:
                await app.crash(error)
                raise

    @app.on_partitions_revoked.connect
    async def revoked(app: Any, revoked: Any, **kwargs: Any) -> None:
        await runtime.revoked(app.consumer)


app = create_app(load_scenario())
