"""What must not stop a worker, and what must stop it with one clear line."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka.admin import KafkaAdminClient, NewTopic

from contracts.events import DeadLetter
from contracts.scenario import Scenario
from state.store import Store
from tests import first_edition
from tests.integration.harness import (
    T0,
    TIMES,
    Process,
    Worker,
    end_log,
    kept,
    produce,
    read_topic,
    to_toml,
    until,
    versions,
)


def impression(name: str, **fields: Any) -> dict[str, Any]:
    return {"impression_id": name, "event_time": T0, "user_id": "u", "item_id": "x", **fields}


def click(name: str, **fields: Any) -> dict[str, Any]:
    return {"impression_id": name, "event_time": T0 + 500, "user_id": "u", "action": "click", **fields}


def without(event: dict[str, Any], field: str) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name != field}


def encoded(value: Any) -> bytes | None:
    return value if value is None or isinstance(value, bytes) else msgspec.json.encode(value)


FAR = round(time.time() * 1000) + 10 * 86_400_000

#: What is refused, and what the reason has to name.
BAD_IMPRESSIONS: list[tuple[Any, str]] = [
    (b"\xff\x00garbage", "UTF-8|malformed|invalid"),
    (b"{not json", "malformed"),
    (b"[1, 2]", "Expected `object`"),
    (b"", "no value"),
    (None, "no value"),
    (without(impression("m1"), "item_id"), "item_id"),
    (impression("m2", position="first"), r"\$.position"),
    (impression("m3", price=-1.0), r"\$.price"),
    (impression("m4", event_time=T0 // 1000), r"\$.event_time"),
    (impression("m5", event_time=FAR), "event_time .* ahead of the clock.*max_future_s"),
    (impression("m6", features={"x": "high"}), r"\$.features"),
    ({"watermark": FAR}, "watermark .* ahead of the clock"),
    (msgspec.msgpack.encode(without(impression("m7"), "user_id")), "user_id"),
    (b'{"x":' + b"[" * 100_000, "nested"),
]
BAD_ACTIONS: list[tuple[Any, str]] = [
    (click("a1", action="like"), r"\$.action"),
    (without(click("a2"), "impression_id"), "impression_id"),
    (click("a3", event_time=FAR), "event_time .* ahead of the clock"),
    (b"\x80", "impression_id|event_time|missing"),
]
GOOD_IMPRESSIONS: list[Any] = [
    impression("i1"),
    impression("i2", item_id="never-seen", category_id="new", context={"device": "phone"}, unknown=[1, {}]),
    msgspec.msgpack.encode(impression("i3", event_time=T0 + 10)),
    impression("i4", event_time=T0 + 20, features={"no_such_feature": 1.0}),
    {"watermark": T0},
    impression("i1", event_time=T0 + 30),
]
GOOD_ACTIONS: list[Any] = [
    click("i1"),
    msgspec.msgpack.encode(click("i3", event_time=T0 + 600)),
    click("i1", event_time=T0 + 700),
    click("never-shown"),
    click("i1", action="purchase", value=9.5, event_time=T0 + 900),
]


def test_bad_records_go_to_the_dead_letters_and_nothing_else_is_lost(
    broker: str, scenario_factory: Callable[..., Scenario], tmp_path: Path
) -> None:
    """Failure: one bad record stops the worker, takes its batch along, or vanishes.

    Mechanism: every kind of damage between good events, in one partition and one batch; then the worker is
    stopped and started. Required: each bad record is in the dead-letter topic once, with its reason, source
    topic, partition, offset, key and bytes; every good event counts.
    """
    scenario = scenario_factory(times=TIMES)
    topics = scenario.topics
    worker = Worker(scenario, broker, tmp_path).ready()
    try:
        records: list[tuple[str, int, bytes | None, bytes | None]] = []
        bad: dict[tuple[str, int], tuple[str, bytes | None]] = {}
        for topic, good, damaged in (
            (topics.impressions, GOOD_IMPRESSIONS, BAD_IMPRESSIONS),
            (topics.actions, GOOD_ACTIONS, BAD_ACTIONS),
        ):
            first = len(records)
            for event, wrong in zip_longest(good, damaged):
                if event is not None:
                    records.append((topic, 2, b"k", encoded(event)))
                if wrong is not None:
                    bad[topic, len(records) - first] = (wrong[1], encoded(wrong[0]))
                    records.append((topic, 2, b"k", encoded(wrong[0])))
        offsets = produce(broker, records)
        assert offsets == [*range(offsets.index(0, 1)), *range(len(offsets) - offsets.index(0, 1))]
        end_log(broker, scenario, T0 + 10_000)
        totals = worker.reached(samples=4, dead_letters=len(bad))
        expected = {
            "impressions": 4,
            "samples": 4,
            "click": 2,
            "positives": 2,
            "purchase": 1,
            "duplicate_impressions": 1,
            "duplicate_actions": 1,
            "orphans_waiting": 1,
            "dead_letters": len(bad),
        }
        assert {name: totals[name] for name in expected} == expected
        line = f'surgeline_dead_letters_total{{topic="{topics.actions}"}} {float(len(BAD_ACTIONS))}'
        assert line in worker.metrics()
        assert worker.stop() == 0

        worker = Worker(scenario, broker, tmp_path).ready()
        produce(broker, [(topics.impressions, 1, b"k", encoded(impression("i5", event_time=T0 + 20_000)))])
        end_log(broker, scenario, T0 + 30_000)
        worker.reached(impressions=5, samples=5)
        assert worker.stop() == 0
    finally:
        worker.end()
    letters = [msgspec.json.decode(r.value, type=DeadLetter) for r in read_topic(broker, topics.dead_letter)]
    assert sorted((letter.topic, letter.offset) for letter in letters) == sorted(bad)
    for letter in letters:
        reason, value = bad[letter.topic, letter.offset]
        assert (letter.partition, letter.key) == (2, b"k")
        assert letter.value == value or (not letter.value and not value)
        assert pytest.approx(letter.seen_at, abs=3_600_000) == time.time() * 1000
        assert re.search(reason, letter.reason), (reason, letter.reason)


def test_a_huge_bad_record_does_not_keep_the_others_waiting(
    broker: str, broker_kind: str, scenario_factory: Callable[..., Scenario], tmp_path: Path
) -> None:
    """Failure: a refused record just below the broker's limit outgrows it in base64; its dead letter can
    never be written, so that no checkpoint and no weights follow, for ever.

    Mechanism: 900 kB of garbage, as a value and as a key, between good events; a dead-letter topic that the
    worker made itself, and one that was there with the broker's own limit. Required: the first has all
    bytes; the second their beginning, and the reason says so. Everything else goes on.
    """
    huge = b"x" * 900_000
    plain = scenario_factory(times=TIMES)
    names = msgspec.structs.replace(plain.topics, dead_letter=f"{plain.topics.dead_letter}-small")
    small = msgspec.structs.replace(plain, name=f"{plain.name}-small", topics=names)
    admin = KafkaAdminClient(bootstrap_servers=broker)
    admin.create_topics([NewTopic(names.dead_letter, num_partitions=1, replication_factor=1)])
    admin.close()
    workers = [Worker(scenario, broker, tmp_path).ready() for scenario in (plain, small)]
    try:
        records = [(b"k", encoded(impression("i1"))), (b"k", huge), (huge, b"{"), (b"k", b"{")]
        produce(broker, [(plain.topics.impressions, 0, key, value) for key, value in records])
        end_log(broker, plain, T0 + 10_000)
        for worker in workers:
            worker.reached(samples=1, dead_letters=3)
            assert worker.stop() == 0
    finally:
        for worker in workers:
            worker.end()
    for scenario in (plain, small):
        letters = [
            msgspec.json.decode(record.value, type=DeadLetter)
            for record in read_topic(broker, scenario.topics.dead_letter)
        ]
        assert sorted(letter.offset for letter in letters) == [1, 2, 3]
        by_offset = {letter.offset: letter for letter in letters}
        assert (by_offset[3].key, by_offset[3].value) == (b"k", b"{")
        kept_bytes = (by_offset[2].key or b"", by_offset[1].value or b"")
        if scenario is plain or (broker_kind == "embedded" and "cut" not in by_offset[1].reason):
            assert kept_bytes == (huge, huge)  # the embedded broker has no limit of its own
        else:
            assert all(part and huge.startswith(part) for part in kept_bytes)
            assert "900001 bytes are too large" in by_offset[1].reason


def test_logged_features_win(broker: str, scenario_factory: Callable[..., Scenario], tmp_path: Path) -> None:
    """Failure: training on other features than serving saw. Mechanism: impressions that carry theirs.

    Required: of equal impressions the one that logged a feature's value moves that feature's weight; a name
    that nobody knows and a value that cannot be are passed over.
    """
    scenario = scenario_factory(times=TIMES)
    worker = Worker(scenario, broker, tmp_path).ready()
    try:
        # Without a shop both are 0 where they are computed, and their weights stay where they were.
        taken, refused = "shop_id.click/impression.600s", "shop_id.impression.600s"
        logged = {taken: 3.25, "unknown": 1.0, refused: 1e30}
        events = [impression(f"i{k}", features=logged if k == 0 else None) for k in range(3)]
        produce(broker, [(scenario.topics.impressions, 0, b"u", encoded(event)) for event in events])
        end_log(broker, scenario, T0 + 10_000)
        worker.reached(samples=3)
        assert worker.stop() == 0
    finally:
        worker.end()
    state = kept(scenario, worker.state_folder)
    assert state.samples == 3
    first, *_, last = versions(broker, scenario)
    for name, moves in ((taken, True), (refused, False)):
        column = last.feature_names.index(name)
        before, after = first.heads["ctr"].mean[column], last.heads["ctr"].mean[column]
        assert (before, after != 0.0) == (0.0, moves), name


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("[times]\nlateness = 3\n", ["lateness", "$.times", "lateness_s, idle_s"]),
        ("colour = 1\n", ["colour", "name, trunk, topics, times"]),
        ("[times]\nidle_s = -1.0\n", ["> 0", "$.times.idle_s"]),
        ("[topics]\nweights = 'a b'\n", ["A-Za-z0-9._-", "$.topics.weights"]),
        ("[times]\njoin_limit_s = 1.0\n", ["times.join_limit_s (1)", "times.label_window_s (5)"]),
        ("[learners]\nriver = ['forest']\n", ["learners.river", "'forest'", "ftrl, logistic, sgd"]),
        ("[times\n", ["not TOML"]),
    ],
    ids=["unknown field", "unknown table", "range", "pattern", "two fields", "unknown learner", "syntax"],
)
def test_a_broken_scenario_is_one_line(text: str, fragments: list[str], tmp_path: Path) -> None:
    """Failure: a wall of traceback, or a worker that runs with a default instead.

    Mechanism: a scenario file with one mistake. Required: status 1 and one line that names the file, the
    field and what is allowed.
    """
    path = tmp_path / "sale.toml"
    path.write_text(text)
    process = start(path, "127.0.0.1:1", tmp_path, 6066)
    refused(process, [str(path), *fragments])
    assert len(process.text().strip().splitlines()) == 1


def start(scenario: Path, bootstrap: str, home: Path, web_port: int) -> Process:
    env = {
        "SURGELINE_SCENARIO": str(scenario),
        "SURGELINE_HOME": str(home / "home"),
        "KAFKA_BOOTSTRAP": bootstrap,
    }
    argv = [str(Path(sys.executable).with_name("faust")), "-A", "stream.app", "worker", "-l", "info"]
    return Process([*argv, "--web-port", str(web_port)], home / "worker.log", env)


def refused(process: Process, fragments: list[str]) -> None:
    """It ended by itself with status 1, and its last line says why."""
    try:
        assert process.ended() == 1
        text = process.text()
        assert "Traceback" not in text, text[-3000:]
        last = text.strip().splitlines()[-1]
        assert last.startswith("Error: ")
        for fragment in fragments:
            assert fragment in last
    finally:
        process.end()


def test_what_a_worker_cannot_start_with_is_one_line(
    broker: str, scenario_factory: Callable[..., Scenario], free_port: Callable[[], int], tmp_path: Path
) -> None:
    """Failure: a wall of traceback, a worker that hangs, or one that damages what it found.

    Mechanism: a trunk that is no trunk, a state folder that another worker has, one of other settings, one
    that is no RocksDB, one of the first edition, source topics that differ in partitions, a web port that
    another worker has. Required: status 1 and one line that says what is wrong and what to do; the worker
    that runs goes on.
    """
    scenario = scenario_factory(times=TIMES)
    trunk = tmp_path / "trunk"
    trunk.mkdir()
    (trunk / "manifest.json").write_bytes(b"{}")
    (trunk / "trunk.safetensors").write_bytes(b"\x00" * 100)
    odd = msgspec.structs.replace(scenario.topics, actions=f"{scenario.topics.actions}-odd")
    admin = KafkaAdminClient(bootstrap_servers=broker)
    admin.create_topics([NewTopic(odd.actions, num_partitions=3, replication_factor=1)])
    admin.close()
    worker = Worker(scenario, broker, tmp_path / "home").ready()
    broken = msgspec.structs.replace(scenario, name="broken")
    no_port = msgspec.structs.replace(scenario, name="no-port")
    (tmp_path / "home" / "state" / "broken-0").write_bytes(b"a file where a folder belongs")
    old = msgspec.structs.replace(scenario, name="old")
    first_edition.write(tmp_path / "home" / "state" / "old-0")
    try:
        cases: list[tuple[Scenario, list[str]]] = [
            (msgspec.structs.replace(scenario, name="no-trunk", trunk=str(trunk)), [str(trunk)]),
            (
                msgspec.structs.replace(scenario, name="odd", topics=odd),
                [odd.actions, "4 partitions", "has 3"],
            ),
            (scenario, ["is in use by another process", "SURGELINE_WORKER_ID"]),
            (broken, ["broken-0", "cannot be opened"]),
            (old, ["old-0", "an earlier version of Surgeline", "mv "]),
            (no_port, [f"127.0.0.1:{worker.port}", "--web-port"]),
        ]
        # They do not meet each other: all at once.
        started = []
        for k, (wrong, fragments) in enumerate(cases):
            folder = tmp_path / str(k)
            folder.mkdir()
            (folder / "home").symlink_to(tmp_path / "home")
            (folder / "sale.toml").write_text(to_toml(wrong))
            port = worker.port if wrong is no_port else free_port()
            started.append((start(folder / "sale.toml", broker, folder, port), fragments))
        for process, fragments in started:
            refused(process, fragments)
        assert not (tmp_path / "home" / "state" / "no-port-0").exists()
        before = worker.view()["moments"][-1]["version"]
        until(lambda: worker.view()["moments"][-1]["version"] > before, "the first worker goes on")
        assert worker.stop() == 0
    finally:
        worker.end()
    slower = msgspec.structs.replace(scenario, times=msgspec.structs.replace(TIMES, tick_s=2.0))
    refused(Worker(slower, broker, tmp_path / "home"), ["times.tick_s = 1", "has 2", "new state folder"])
    with Store(worker.state_folder):
        pass


def test_a_missing_broker_is_one_line(tmp_path: Path, free_port: Callable[[], int]) -> None:
    """Failure: endless retries without a word. Mechanism: nothing listens at ``KAFKA_BOOTSTRAP``.

    Required: status 1, and the line names the address and how to get a broker.
    """
    path = tmp_path / "sale.toml"
    path.touch()
    address = f"127.0.0.1:{free_port()}"
    refused(start(path, address, tmp_path, free_port()), [address, "KAFKA_BOOTSTRAP", "surgeline broker"])
