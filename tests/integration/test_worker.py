"""A worker from its first start to its second, as a person runs it, with serving beside it."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench._sides import engine_counts, tick_is_over
from bench._watch import Counts, prometheus
from contracts.events import ACTIONS
from contracts.scenario import Scenario
from contracts.weights import Weights, decode_weights
from features.declared import plan_from
from features.plan import partitioned
from features.topic import KEY_DIGITS, OF_PARTITION, OF_WORKER, parse_prefix
from replay.player import PlayReport, play
from tests.integration.fresh import fresh_scenario
from tests.integration.harness import (
    T0,
    TIMES,
    Kept,
    Sale,
    Serving,
    Worker,
    end_log,
    get,
    kept,
    key_of,
    produce,
    read_topic,
    rehearse,
    until,
    versions,
)

KCAT = shutil.which("kcat")


@dataclass
class Life:
    """What was seen of one worker; ``worker`` is its second life, which goes on."""

    scenario: Scenario
    bootstrap: str
    sent: list[PlayReport]
    totals: list[dict[str, int]]
    versions: list[int]
    scores: list[Any]
    metrics: str
    status: int
    state: Kept
    rehearsed: Kept
    worker: Worker
    again: dict[str, int]
    serving: Serving
    measured: Counts


@pytest.fixture(scope="module")
def life(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """Start; a log with its own times; serving from the topic; the same at 20 times its speed, now; stop;
    start again."""
    setting, home = fresh_scenario("life", times=TIMES), tmp_path_factory.mktemp("life")
    processes: list[Any] = []
    try:
        worker = Worker(setting, broker, home).ready()
        processes.append(worker)
        sent, totals, versions = [], [], []

        sent.append(play(Sale(3000, 30.0), setting, broker, time="keep"))
        totals.append(worker.reached(impressions=3000, samples=3000))
        measured = until(lambda: _measured(worker), "the figure of throughput sees the end of a tick")
        versions.append(worker.view()["moments"][-1]["version"])
        serving = Serving(worker, broker).ready()
        processes.append(serving)
        learned = versions[0] + 1  # made after all of it was learned
        until(lambda: serving.score("item-1")["stamp"]["version"] >= learned, "serving has what was learned")
        scores = [serving.score("item-1", "item-2", "never-seen")]

        sent.append(play(Sale(1500, 40.0, seed=12, name="live"), setting, broker, "20x", time="now"))
        totals.append(worker.reached(impressions=4500, samples=4500))
        versions.append(worker.view()["moments"][-1]["version"])
        learned = versions[1] + 1
        until(lambda: serving.score("item-1")["stamp"]["version"] >= learned, "serving has the rest")
        scores.append(serving.score("item-1", "item-2", "never-seen"))

        metrics = worker.metrics()
        status = worker.stop()
        state = kept(setting, worker.state_folder)
        rehearsed = rehearse(setting, broker, home / "rehearsed")

        worker = Worker(setting, broker, home).ready()
        processes.append(worker)
        until(lambda: worker.view()["moments"][-1]["version"] >= state.version + 2, "it publishes again")
        yield Life(
            scenario=setting,
            bootstrap=broker,
            sent=sent,
            totals=totals,
            versions=versions,
            scores=scores,
            metrics=metrics,
            status=status,
            state=state,
            rehearsed=rehearsed,
            worker=worker,
            again=worker.totals(),
            serving=serving,
            measured=measured,
        )
    finally:
        for process in processes:
            process.end()


def test_every_event_is_joined_and_learned(life: Life) -> None:
    """Failure: events lost, doubled or not joined between Kafka and the learners.

    Mechanism: a log at full speed with its own times, another at 20 times its speed with the present's.
    Required: the worker's totals are those of the logs, to the event.
    """
    first, second = life.sent
    for totals, impressions, by_action in (
        (life.totals[0], first.impressions, first.by_action),
        (
            life.totals[1],
            first.impressions + second.impressions,
            {name: first.by_action[name] + second.by_action[name] for name in first.by_action},
        ),
    ):
        assert totals["impressions"] == totals["samples"] == impressions
        assert {name: totals[name] for name in by_action} == by_action
        assert totals["positives"] == by_action["click"]
        rest = ("duplicate_impressions", "duplicate_actions", "orphans_waiting", "dead_letters", "late")
        assert {name: totals[name] for name in rest} == dict.fromkeys(rest, 0)


def test_weights_are_a_chain_of_versions(life: Life) -> None:
    """Failure: a version that is skipped, published twice or with what an older one knew.

    Mechanism: one a second over two lives of the worker. Required: 1, 2, 3, ..., each the child of the one
    before it, watermarks and samples never falling, and the last ones hold every sample.
    """
    chain = versions(life.bootstrap, life.scenario)
    assert [weights.version for weights in chain] == list(range(1, len(chain) + 1))
    assert [weights.parent for weights in chain] == list(range(len(chain)))
    for figure in (
        [weights.watermarks.features for weights in chain],
        [weights.watermarks.labels for weights in chain],
        [weights.samples for weights in chain],
        [weights.created_at for weights in chain],
    ):
        assert figure == sorted(figure)
    assert chain[-1].samples == life.sent[0].impressions + life.sent[1].impressions
    assert chain[-1].watermarks.labels > life.sent[1].last_ms > T0  # type: ignore[operator]
    assert {weights.source for weights in chain} == {"0"}


def _measured(worker: Worker) -> Counts | None:
    """What the figure of throughput reads of a worker, once it takes a tick for over."""
    counts = engine_counts(prometheus(worker.metrics()))
    return counts if counts["samples"] and tick_is_over(counts) else None


def test_the_figure_of_throughput_knows_when_a_worker_is_through(life: Life) -> None:
    """Failure: it waits for ever, because a counter that it waits for follows the next checkpoint.

    Mechanism: the metrics of a real worker after its first log. Required: the end of a tick is seen, and the
    counts are the log's.
    """
    first = life.sent[0]
    assert life.measured["samples"] == life.measured["impression"] == first.impressions
    assert life.measured["click"] == first.by_action["click"]
    assert not life.measured["duplicates"] and not life.measured["dead_letters"]


def test_feature_rows_are_published(life: Life) -> None:
    """Failure: serving without the worker's counts. Mechanism: rows that changed go out each second.

    Required: a row of each table whose key the log has, under the partition that it came in where the key
    has the user, else under the worker's name; one of every item and of every user of the log.
    """
    records = read_topic(life.bootstrap, life.scenario.topics.features)
    prefixes = {record.key: parse_prefix(record.key[:-KEY_DIGITS]) for record in records}
    rows: dict[str, set[int]] = {}
    owners: dict[str, set[tuple[str, str]]] = {}
    for key, prefix in prefixes.items():
        assert prefix is not None, key
        rows.setdefault(prefix.table, set()).add(int(key[-KEY_DIGITS:], 16))
        owners.setdefault(prefix.table, set()).add((prefix.kind, prefix.owner))
    logs = [Sale(3000, 30.0).table, Sale(1500, 40.0, seed=12, name="live").table]
    for column in ("item_id", "user_id"):
        named = {name for log in logs for name in log[column]}
        assert rows[column] == {key_of(name) for name in named}
    tables = plan_from(life.scenario.features, ACTIONS).tables
    # The log names no shop.
    assert set(rows) == {name for name, layout in tables.items() if "shop_id" not in layout.key}
    for name, found in owners.items():
        if partitioned(tables[name]):
            assert found == {(OF_PARTITION, str(p)) for p in range(life.scenario.topics.partitions)}
        else:
            assert found == {(OF_WORKER, "0")}


def test_serving_follows_from_the_topic_alone(life: Life) -> None:
    """Failure: serving that starts late scores with nothing, or never moves.

    Mechanism: it starts when the worker has learned the first log. Required: it serves that, and after the
    second log a newer version with other scores, still from one source.
    """
    before, after = life.scores
    assert life.versions[0] < before["stamp"]["version"] < after["stamp"]["version"]
    assert set(before["stamp"]["sources"]) == set(after["stamp"]["sources"]) == {"0"}
    assert before["scores"] != after["scores"]
    assert after["scores"][0] != after["scores"][2], "an item's history must count"
    assert after["stamp"]["watermarks"]["features"] > before["stamp"]["watermarks"]["features"]


def test_metrics_have_both_families(life: Life) -> None:
    """Failure: a dashboard without one half. Mechanism: Faust's figures and ours share one endpoint.

    Required: both are there, and ours are the totals.
    """
    impressions = sum(sent.impressions for sent in life.sent)
    assert f'surgeline_events_total{{kind="impression"}} {float(impressions)}' in life.metrics
    names = {line.split(" ")[0].split("{")[0] for line in life.metrics.splitlines() if line[:1] != "#"}
    assert {"faust_messages_received_total", "surgeline_tick_seconds_count"} <= names


def test_stop_flushes_everything(life: Life) -> None:
    """Failure: SIGTERM that loses what was not yet durable. Mechanism: a last tick before the store closes.

    Required: status 0, and a state on disk that is the one of an engine that was never stopped.
    """
    assert life.status == 0
    assert life.state.impressions == life.state.samples == life.totals[1]["impressions"]
    assert life.state.digest == life.rehearsed.digest


def test_a_restart_goes_on_and_does_nothing_again(life: Life) -> None:
    """Failure: a second life that begins anew or counts again. Mechanism: offsets from the checkpoint.

    Required: the same totals, no duplicate met, and the version after the last one.
    """
    assert life.again == life.totals[1]
    first = life.worker.view()["moments"][0]["version"]
    assert first == life.state.version + 1


def test_silence_closes_the_last_samples(
    broker: str, scenario_factory: Callable[..., Scenario], tmp_path: Path
) -> None:
    """Failure: partitions that are read to their end hold the last labels back for ever.

    Mechanism: a log that ends without watermarks and leaves partitions empty (one user); the worker has to
    know that its agents are done with every batch, also where Faust's streams are compiled and
    acknowledge past the consumer. Required: after ``times.idle_s`` of silence every sample is learned.
    """
    scenario = scenario_factory(times=msgspec.structs.replace(TIMES, idle_s=1.0))
    worker = Worker(scenario, broker, tmp_path).ready()
    try:
        events = [
            {"impression_id": f"i{k}", "event_time": T0 + k * 500, "user_id": "u", "item_id": "x"}
            for k in range(20)
        ]
        encode = msgspec.json.encode
        produce(broker, [(scenario.topics.impressions, 1, b"u", encode(event)) for event in events])
        assert worker.reached(samples=20)["samples"] == 20
        assert worker.stop() == 0
    finally:
        worker.end()


if KCAT:

    def test_kcat_writes_events_and_reads_weights(life: Life) -> None:
        """Failure: a contract that only our own client keeps. Mechanism: librdkafka at the command line.

        Required: an event that kcat writes is learned, and weights that kcat reads are the JSON document.
        """
        topics, now = life.scenario.topics, life.sent[1].watermark_ms
        assert now is not None
        event = {"impression_id": "by-kcat", "event_time": now + 10, "user_id": "u", "item_id": "item-1"}
        murmur2 = ("-X", "partitioner=murmur2_random")  # the README's own
        text = msgspec.json.encode(event)
        kcat(life.bootstrap, "-P", *murmur2, "-t", topics.impressions, "-k", "u", text=text)
        end_log(life.bootstrap, life.scenario, now + 10_000)
        wanted = life.again["samples"] + 1
        life.worker.reached(samples=wanted)
        until(
            lambda: _newest(kcat(life.bootstrap, "-C", "-t", topics.weights, "-e", "-q")).samples == wanted,
            "a version with it",
        )


def kcat(bootstrap: str, *arguments: str, text: bytes | None = None) -> bytes:
    assert KCAT is not None
    argv = [KCAT, "-b", bootstrap, *arguments]
    return subprocess.run(argv, input=text, stdout=subprocess.PIPE, check=True, timeout=60).stdout


def _newest(lines: bytes) -> Weights:
    return decode_weights(lines.splitlines()[-1])


def test_a_worker_answers_on_its_pages(life: Life, free_port: Callable[[], int], tmp_path: Path) -> None:
    """Failure: monitoring without an answer. Mechanism: Faust's web server. Required: page, health, data."""
    base = f"http://127.0.0.1:{life.worker.port}"
    assert get(f"{base}/health") == {"status": "up"}
    assert "<html" in get(f"{base}/live").lower()
    view = life.worker.view()
    assert (view["name"], view["source"]) == (life.scenario.name, "0")
    assert get(f"{base}/live/data?since={2**62}")["moments"] == []


def test_what_is_no_request_to_a_page_is_one_line_of_json(life: Life) -> None:
    """Failure: a scanner, or a client of another protocol, fills the worker's log with tracebacks.

    Mechanism: a real worker, raw sockets. Required: JSON with the status, counted, nothing in the log; a body
    that nobody asked for is not unpacked.
    """
    before = len(life.worker.text())
    get_live = b"GET /live/data HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    for data, status, word in (
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 99 + b"\r\n", 400, "HTTPS"),
        (get_live + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "chunk size"),
        (get_live + b"X: " + b"y" * 100_000 + b"\r\n\r\n", 431, "8190"),
        (b"POST /live HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405, "Method"),
        (b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404, "Not Found"),
        (get_live + b"Content-Encoding: gzip\r\nContent-Length: 7\r\n\r\nno gzip", 200, ""),
    ):
        answered, answer = exchange(life.worker.port, data)
        assert answered == status, answer
        assert word in answer["error"] if status != 200 else answer["name"] == life.scenario.name
    metrics = life.worker.metrics()
    for status, count in ((400, 2), (431, 1), (405, 1), (404, 1)):
        assert f'surgeline_page_errors_total{{status="{status}"}} {count}.0' in metrics
    said = life.worker.text()[before:]
    assert "Traceback" not in said and "ERROR" not in said


def exchange(port: int, data: bytes) -> tuple[int, Any]:
    """Status and JSON of the answer to these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(data)
        answer = b""
        while b"\r\n\r\n" not in answer or not _whole(answer):
            piece = connection.recv(65_536)
            assert piece, answer
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def _whole(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    return length is not None and len(body) >= int(length[1])
