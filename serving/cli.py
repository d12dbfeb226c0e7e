"""``surgeline serve``: the scorer's server."""

from __future__ import annotations

import logging

import click
from aiohttp import web

from clients.connection import connection
from clients.patience import wait_for_port
from clients.quiet import install as quieten
from clients.refusal import BrokerRefused, check
from contracts.events import ACTIONS
from contracts.scenario import ScenarioError, home
from features.declared import plan_from
from features.errors import FeaturesError
from features.load import load_declared
from models.deep.locate import resolve_trunk
from serving.feature_view import DEFAULT_CAPACITY, FeatureView
from serving.follower import Follower
from serving.scorer import Scorer
from serving.server import create_app

log = logging.getLogger(__name__)

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8500


@click.command()
@click.option("--scenario", type=click.Path(dir_okay=False), help="TOML file; the worker's own.")
@click.option(
    "--trunk", default="", help="Trunk folder; default: the scenario's, else the home's, else none."
)
@click.option("--host", default=DEFAULT_HOST, show_default=True)
@click.option("--port", default=DEFAULT_PORT, show_default=True, type=click.IntRange(0, 65_535))
@click.option("--bootstrap", default=None, help="host:port.  [default: KAFKA_BOOTSTRAP or 127.0.0.1:9092]")
@click.option(
    "--feature-rows",
    default=DEFAULT_CAPACITY,
    show_default=True,
    type=click.IntRange(min=1),
    help="Feature rows that each table holds in memory at most.",
)
def serve(
    scenario: str | None, trunk: str, host: str, port: int, bootstrap: str | None, feature_rows: int
) -> None:
    """Score candidates over HTTP with the newest weights of the weights topic."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # The retries of Kafka's client and of the feeds would fill the log through an outage.
    logging.getLogger("aiokafka").setLevel(logging.WARNING)
    quieten()
    try:
        settings = load_declared(scenario)
        kafka = connection(settings.kafka, bootstrap)
        plan = plan_from(settings.features, ACTIONS)
        loaded = resolve_trunk(trunk or settings.trunk, home())
        loaded.check_features(plan.names, plan.hash)
        # One that is not there yet is waited for; one that turns us away stays as it is.
        check(kafka)
    except (ScenarioError, FeaturesError, BrokerRefused, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    scorer = Scorer(loaded, FeatureView(plan, round(settings.state.forget_s * 1000), feature_rows))
    topics = settings.topics

    async def app() -> web.Application:
        # Made on the loop that runs it: the follower's events belong to that loop.
        return create_app(scorer, Follower(scorer, kafka, topics.weights, topics.features))

    try:
        wait_for_port(host, port, log.warning)
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    log.info("scoring with trunk %s (d = %d) on http://%s:%d", loaded.hash, loaded.hidden_size, host, port)
    try:
        web.run_app(app(), host=host, port=port, access_log=None, print=None, shutdown_timeout=10.0)
    except OSError as error:
        raise _cannot_listen(host, port, error) from error


def _cannot_listen(host: str, port: int, error: OSError) -> click.ClickException:
    reason = str(error.strerror or error).partition(" (")[0]
    return click.ClickException(
        f"cannot listen on {host}:{port} ({reason}); choose another with --port or --host"
    )
