"""README's "By hand", walked from its own text: once, again in the same folder, and on the next day with a
new trunk and another log.

Failure: a person follows README and meets an error, an answer that did not change, or silence. Mechanism: the
commands are those of README, on ports that are free here; in between all processes end by Ctrl-C, and the
folder stays. Required: what README says of each step.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import surgeline.local.broker as brokers
from replay.adapters import obd
from tests.integration.harness import get, until
from tests.integration.readme import BROKER, PAGES, SCORES, Terminal, blocks, commands, section

pytestmark = pytest.mark.kafka

FIRST_DAY, EVENTS, NEXT_DAY = blocks(section("By hand"))


@pytest.fixture(scope="module")
def open_bandit_data() -> Path:
    """The log that README trains on; fetched once, as by its first use."""
    return Path(obd.open_path().files[0]).parents[2]


@pytest.fixture
def terminal(tmp_path: Path, open_bandit_data: Path) -> Iterator[Terminal]:
    try:
        brokers.embedded_binary()
    except brokers.BrokerUnavailable as error:
        pytest.skip(str(error))
    ports = {port: brokers.free_port(2) for port in (BROKER, PAGES, SCORES)}
    tools = tmp_path / "bin"
    tools.mkdir()
    if shutil.which("kcat") is None:
        # What matters here is README's shell line and its JSON; the real kcat is used where there is one.
        (tools / "kcat").write_text(f'#!/bin/sh\nexec python "{Path(__file__).with_name("kcat.py")}" "$@"\n')
        (tools / "kcat").chmod(0o755)
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SURGELINE_")},
        "PATH": f"{tools}:{os.environ['PATH']}",
        "KAFKA_BOOTSTRAP": f"127.0.0.1:{ports[BROKER]}",
        "SURGELINE_OBD": str(open_bandit_data),
    }
    shell = Terminal(tmp_path, env, ports)
    try:
        yield shell
    finally:
        shell.end()


def walk(terminal: Terminal, block: str) -> dict[str, Any]:
    """Run a block; what each command said, and the scores in their order."""
    said: dict[str, Any] = {"scores": []}
    for command in commands(block):
        output = terminal.run(command)
        if command == "score":
            said["scores"].append(json.loads(output))
        else:
            said[" ".join(command.split()[:2])] = output
    return said


def newer_and_other(said: dict[str, Any]) -> None:
    before, after = said["scores"]
    assert after["stamp"]["version"] > before["stamp"]["version"]
    assert after["scores"] != before["scores"]
    assert "the workers have learned all of it" in said["surgeline replay"]
    # The weights that the replay names, or later ones: what it waited for is what is served.
    named = int(said["surgeline replay"].split("from version ")[1].split(" ")[0].replace(",", ""))
    assert after["stamp"]["version"] >= named


def test_by_hand_twice_and_on_the_next_day(terminal: Terminal) -> None:
    first = walk(terminal, FIRST_DAY)
    newer_and_other(first)
    assert "60,000 impressions, 287 actions" in first["surgeline replay"]
    assert "held-out clicks cannot tell this trunk from one that knows nothing" in first["surgeline train"]
    events(terminal)
    terminal.interrupt()

    # The same again: a known state, the same trunk, the same log, the same ports.
    again = walk(terminal, FIRST_DAY)
    newer_and_other(again)
    assert "60,000 impressions, 287 actions" in again["surgeline replay"]
    assert "duplicates" not in again["surgeline replay"]
    known = first["scores"][1]["stamp"]["version"]
    assert again["scores"][0]["stamp"]["version"] in (0, *range(known, known + 1000))
    terminal.interrupt()

    next_day = walk(terminal, NEXT_DAY)
    newer_and_other(next_day)
    assert "cannot tell" not in next_day["surgeline train"]
    replayed = next_day["surgeline replay"]
    assert "this log begins at 2025-11-10" in replayed and "They learn it all the same" in replayed
    assert "time started over in the workers" in replayed
    assert "An older log" in terminal.processes["faust"].text()
    assert "learners begin at the frozen head of trunk" in terminal.processes["faust"].text()
    hashes = [one["scores"][1]["stamp"]["trunk_hash"] for one in (first, again, next_day)]
    assert hashes[0] == hashes[1] != hashes[2]
    terminal.interrupt()


def events(terminal: Terminal) -> None:
    """Plain JSON by kcat: the event is joined, and the weights are one JSON document."""
    write, read = commands(EVENTS)
    pages = f"http://127.0.0.1:{terminal._ports[PAGES]}/live/data?since={2**62}"
    before = get(pages)["totals"]
    terminal.run(write)
    until(
        lambda: get(pages)["totals"]["impressions"] == before["impressions"] + 1,
        "the event is counted",
    )
    assert get(pages)["totals"]["dead_letters"] == before["dead_letters"]
    assert terminal.run(read).startswith('{"schema_version":2,"source":"0"')
