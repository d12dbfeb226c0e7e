"""The engine in the loop: it ranks a night while it learns from what it showed."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from contracts.scenario import load_scenario
from tests.integration.harness import PATIENCE_S, Process, read_topic, until

pytestmark = pytest.mark.one_broker

#: Three nights of a quarter of a minute, one after the other, each with processes that start and a training
#: before all: on a machine that is shared, most of it is not waiting.
LOOP_S = 3 * PATIENCE_S
SMALL = ["--minutes", "0.5", "--rate", "150", "--speed", "2", "--items", "200", "--users", "500"]


def loop(broker: str, home: Path, *options: str) -> Process:
    """``surgeline closed-loop`` on the test's broker."""
    argv = [sys.executable, "-m", "surgeline.cli", "closed-loop", *SMALL, *options]
    return Process(argv, home / "loop.log", {"KAFKA_BOOTSTRAP": broker, "SURGELINE_HOME": str(home)})


def test_the_live_arm_learns_from_its_own_slates(broker: str, tmp_path: Path) -> None:
    """Failure: a loop that is none: stale weights, another night, or a truth that leaks into the events.

    Mechanism: half a minute at twice its speed, three arms. Required: the same requests in each; the frozen
    arm is scored by version 0 alone, the live one by versions that grow every second; its worker learned
    from its own impressions, each once; what went to Kafka are events and nothing else.
    """
    file = tmp_path / "report.json"
    process = loop(broker, tmp_path, "--arms", "frozen,live,oracle", "--json", str(file), "--seed", "4")
    try:
        assert process.ended(LOOP_S) == 0, process.text()[-3000:]
    finally:
        process.end()
    report = msgspec.json.decode(file.read_bytes())
    arms: dict[str, Any] = {arm["arm"]: arm for arm in report["arms"]}
    assert list(arms) == ["oracle", "frozen", "live"]
    assert len({(arm["checksum"], arm["impressions"]) for arm in arms.values()}) == 1
    assert arms["frozen"]["freshness"]["last_version"] == 0
    fresh = arms["live"]["freshness"]
    assert fresh["last_version"] > fresh["first_version"] >= 0 and fresh["versions"] >= 3
    assert fresh["age_p50_ms"] is not None
    assert (arms["frozen"]["gap_closed"], arms["oracle"]["gap_closed"]) == (0.0, 1.0)
    assert arms["live"]["gap_closed"] < 1.0 and arms["live"]["predictions"]["auc"] > 0.5

    topics = load_scenario(tmp_path / "closed-loop" / "live.toml").topics
    shown = [msgspec.json.decode(record.value) for record in read_topic(broker, topics.impressions)]
    assert len({event["impression_id"] for event in shown}) == len(shown) == arms["live"]["impressions"]
    known = {"impression_id", "event_time", "user_id", "item_id", "category_id", "shop_id", "position"}
    assert {name for event in shown for name in event} <= known | {"price", "stock", "request_id", "context"}
    for learned in arms["live"]["learners"].values():
        assert 0 < learned["samples"] <= arms["live"]["impressions"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_it_leaves_nothing_behind(number: signal.Signals, broker: str, tmp_path: Path) -> None:
    """Failure: Ctrl-C leaves a worker, a scorer or a trace behind. Required: status 130, no child."""
    process = loop(broker, tmp_path, "--arms", "live")
    try:
        until(
            lambda: "live:" in process.text() and (tmp_path / "closed-loop/live-worker.log").exists(), "begun"
        )
        children = psutil.Process(process.child.pid).children(recursive=True)
        assert children
        os.kill(process.child.pid, number)
        assert process.ended() == 130, process.text()[-3000:]
        assert not any(child.is_running() for child in children)
        assert "Traceback" not in process.text() and "Stopped" in process.text()
    finally:
        process.end()


def test_a_worker_that_dies_ends_the_loop_and_is_named(broker: str, tmp_path: Path) -> None:
    """Failure: the night goes on for minutes with old weights, and its figures are taken for a live arm's.

    Mechanism: twelve minutes of night, whose worker is killed while it is ranked. Required: status 1 long
    before the night is over, the worker and its log named, nothing left running.
    """
    process = loop(broker, tmp_path, "--arms", "live", "--minutes", "40")
    try:
        folder = tmp_path / "closed-loop"
        log = folder / "live-worker.log"
        until(log.exists, "the worker has begun")
        topic = load_scenario(folder / "live.toml").topics.impressions
        until(lambda: read_topic(broker, topic), "impressions are shown")
        children = psutil.Process(process.child.pid).children(recursive=True)
        (worker,) = (child for child in children if "faust" in child.cmdline())
        worker.kill()
        assert process.ended() == 1, process.text()[-3000:]
        assert "the worker of arm live ended" in process.text() and str(log) in process.text()
        assert "Traceback" not in process.text()
        assert not any(child.is_running() for child in children)
    finally:
        process.end()
