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

import state
from contracts.events import ACTIONS
from contracts.scenario import Scenario
from features.declared import plan_from
from features.hashing import hash_texts
from features.row_bytes import unpack
from models.deep.trunk import Trunk
from serving.feature_view import FeatureView
from state.feature_rows import FeatureRows
from state.row_keys import parsed, table_prefix
from state.store import Store
from stream.engine import Engine
from stream.resume import Place
from tests.smallest import SMALLEST, shrink
from tests.unit.serving.worker_side import Worker
from tests.unit.stream.conftest import NOW, T0, Logs, make_logs

#: Sizes that results depend on by design, or that are limits of a contract.
PART_OF_A_RESULT = {
    "clients.topics.MAX_RECORD_BYTES",
    "models.deep.evidence.CHUNK_ROWS",
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
    "stream.item_names.LIMIT",
    "stream.keys.KEYS_A_BATCH",
    "stream.keys.WINDOW_S",
    "stream.lane.PARKED_LIMIT",
    "stream.publish.CUT_BYTES",
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


#: (table, source partition, key) -> numbers, as bytes.
Published = dict[tuple[str, int, int], bytes]


def stored(features: FeatureRows, store: Store) -> Published:
    """All rows on disk."""
    found: Published = {}
    for number, (name, table) in enumerate(features.tables.items()):
        rows = dict(store.scan(table_prefix(number)))
        partitions, keys = parsed(list(rows))
        values, _ = unpack(keys, list(rows.values()), table.width)
        for place, row in zip(zip(partitions.tolist(), keys.tolist(), strict=True), values, strict=True):
            found[name, *place] = row.tobytes()
    return found


def publish(features: FeatureRows, published: Published) -> None:
    """Everything that changed reaches the topic."""
    for one in features.take_changed():
        places = zip(one.partitions.tolist(), one.keys.tolist(), strict=True)
        values, _ = unpack(one.keys, one.packed, features.tables[one.table].width)
        for place, row in zip(places, values, strict=True):
            published[one.table, *place] = row.tobytes()
        for place in zip(one.gone_partitions.tolist(), one.gone.tolist(), strict=True):
            del published[one.table, *place]
    features.acknowledge(features.takes)


def learn(folder: Path, logs: Logs) -> tuple[str, Any, Published]:
    """What a worker makes of ``logs`` that is killed after every third step: digest, counts, rows."""
    scenario = msgspec.convert(
        {
            "learners": {"river": ["logistic"]},
            "times": {"label_window_s": 3.0, "join_limit_s": 8.0, "idle_s": 1000.0},
        },
        Scenario,
    )
    published: Published = {}

    def tick() -> None:
        engine.features.expire(engine.done_until)
        publish(engine.features, published)
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
    assert published == stored(engine.features, store)
    result = engine.digest(), (engine.joins.counts, engine.totals.late), published
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
    plan = plan_from({}, ACTIONS)
    table = "item_id"
    keys = hash_texts([f"i{k}" for k in range(90)])
    random = np.random.default_rng(0)

    def answers() -> bytes:
        view = FeatureView(plan, 86_400_000)
        for k, row in enumerate(rows):
            packed = Worker(plan, f"w{k % 3}").packed(table, keys[k % 90 : k % 90 + 1], row[None])
            view.apply(packed)
            if k % 7 == 0:
                view.apply([(packed[0][0], b"")])
        with view.reading(np.full(90, T0)) as tables:
            slots = tables[table].locate(keys, np.zeros(90, dtype=np.bool_))
            known = slots >= 0
            assert 0 < np.count_nonzero(known) < 90
            return known.tobytes() + tables[table].values[slots[known]].tobytes()

    rows = random.uniform(0.0, 5.0, (200, plan.tables[table].width))
    rows[:, :3] = T0 - random.integers(0, 1000, (200, 1))
    ordinary = answers()
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        assert answers() == ordinary


def test_the_table_shrinks_what_the_modules_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    for name, value in SMALLEST.items():
        module, _, constant = name.rpartition(".")
        assert getattr(import_module(module), constant) == value
