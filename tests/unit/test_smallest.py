"""Failure: a result that depends on how large an array begins, a cache is or a chunk may be; or a size that
no test can shrink, so that what happens at its end is seen first in production.

Mechanism: the same events through an engine with ordinary sizes and with every size at its least, with
kills in between. Required: the same digest, counts and published rows. And each constant that is named like
a size stands in the table of ``tests/smallest.py``, or here among those that are part of a result.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from state.formulas import COUNTS, pack_row

import state
from contracts.scenario import Scenario
from models.deep.trunk import Trunk
from serving.feature_view import FeatureView
from state.store import Store
from stream.engine import Engine
from stream.resume import Place
from tests.smallest import SMALLEST, shrink
from tests.unit.stream.conftest import NOW, Logs, make_logs

#: Sizes that results depend on by design, or that are limits of a contract.
PART_OF_A_RESULT = {
    "models.deep.fits.network.EMBEDDING_SIZE",
    "models.deep.fits.network.HIDDEN_SIZE",
    "models.deep.fits.network.LARGEST_BATCH",
    "models.deep.fits.network.LAYER_SIZE",
    "models.deep.fits.network.LEAST_BATCH",
    "models.deep.kinds.network._BLOCK",
    "models.online.ftrl.MINIBATCH",
    "models.online.metrics.WINDOW_BINS",
    "models.online.metrics.WINDOW_BLOCKS",
    "models.online.metrics.WINDOW_TICKS",
    "serving.feature_view.DEFAULT_CAPACITY",
    "serving.messages.MAX_BATCH_ITEMS",
    "stream.commit_note.MAX_NOTE_BYTES",
    "stream.commit_note.MAX_PLAIN_BYTES",
    "stream.keys.KEYS_A_BATCH",
    "stream.keys.WINDOW_S",
    "stream.lane.PARKED_LIMIT",
    "stream.publish.CUT_BYTES",
    "clients.topics.MAX_RECORD_BYTES",
}
_SIZE = re.compile(
    r"^(_?[A-Z0-9_]*(?:ROWS|LIMIT|CHUNK|BATCH|CAPACITY|CACHE|BUFFER|BLOCK|BYTES|WINDOW|TURN|SIZE)"
    r"[A-Z0-9_]*)(?:: [^=]+)? = ",
    re.MULTILINE,
)


def sizes(room: str) -> set[str]:
    """Constants of a room that are named like a size."""
    root = Path(state.__file__).parents[1]
    found = set()
    for path in (root / room).rglob("*.py"):
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        found |= {f"{module}.{name}" for name in _SIZE.findall(path.read_text())}
    return found


@pytest.mark.parametrize("room", ["features", "state", "stream", "models", "serving"])
def test_every_size_can_be_shrunk_in_one_place(room: str) -> None:
    named = {name for name in sizes(room) if not _is_text(name)}
    assert named - set(SMALLEST) - PART_OF_A_RESULT == set(), "give it a least value in tests/smallest.py"


def _is_text(name: str) -> bool:
    module, _, constant = name.rpartition(".")
    return isinstance(getattr(import_module(module), constant), (str, bytes, re.Pattern))


def learn(folder: Path, logs: Logs) -> tuple[str, Any, dict[tuple[str, str], bytes]]:
    """What a worker makes of ``logs`` that is killed after every third step: digest, counts, rows."""
    scenario = msgspec.convert(
        {
            "learners": {"river": ["logistic"]},
            "times": {"label_window_s": 3.0, "join_limit_s": 8.0, "idle_s": 1000.0},
        },
        Scenario,
    )
    published: dict[tuple[str, str], bytes] = {}

    def tick() -> None:
        published.update({(table, entity): row for table, entity, row in engine.features.take_changed()})
        engine.checkpoint()

    store = Store(folder)
    engine = Engine(scenario, store, Trunk.empty())
    done = {source: engine.assign(source, Place()) or 0 for source in logs}
    for step in range(1, 200):
        for source, records in logs.items():
            engine.ingest(source, records[done[source] : done[source] + 25], NOW)
            done[source] += 25
        engine.advance()
        if step % 4 == 0:
            # This part of a row is not published before the kill.
            engine.checkpoint()
            store.close()
            store = Store(folder)
            engine = Engine(scenario, store, Trunk.empty())
            done = {source: engine.assign(source, Place()) or 0 for source in logs}
        else:
            tick()
        if all(done[source] >= len(records) for source, records in logs.items()):
            break
    while engine.features.republishing:
        tick()
    tick()
    assert published == {
        (name, entity): pack_row(last, counts)
        for name, table in engine.features.tables.items()
        for entity, last, counts in table.rows()
    }
    result = engine.digest(), (engine.join.counts, engine.totals.late), published
    store.close()
    return result


def test_the_same_events_give_the_same_bits_with_every_size_at_its_least(tmp_path: Path) -> None:
    logs = make_logs(5, 300)
    ordinary = learn(tmp_path / "ordinary", logs)
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        least = learn(tmp_path / "least", logs)
    assert ordinary[1][0].impressions > 250
    assert ordinary == least


def test_a_feature_view_answers_the_same_with_every_size_at_its_least() -> None:
    def answers() -> bytes:
        view = FeatureView((60.0, 600.0))
        for k in range(200):
            counts = np.full((len(COUNTS), 2), 1.0 + k)
            view.apply([(f"{k % 3}/item/i{k % 90}".encode(), pack_row(k, counts))])
            if k % 7 == 0:
                view.apply([(f"{k % 3}/item/i{k % 90}".encode(), b"")])
        counts, known = view.lookup("item", [f"i{k}" for k in range(100)], 1000)
        return counts.tobytes() + known.tobytes()

    ordinary = answers()
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        assert answers() == ordinary


def test_the_table_shrinks_what_the_modules_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    for name, value in SMALLEST.items():
        module, _, constant = name.rpartition(".")
        assert getattr(import_module(module), constant) == value
