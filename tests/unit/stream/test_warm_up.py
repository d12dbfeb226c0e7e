"""Fails when a worker's first events wait for kernels that could have been loaded before them, and when what
loads them stops a start that would have gone well.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from contracts.scenario import Scenario
from features.compiled import COMPILED
from models.deep.trunk import Trunk
from stream import warm_up

#: Warms up, runs other events through another engine, and names the kernels that only these needed.
SCRIPT = """
import json, sys, tempfile, time
from contracts.scenario import Scenario
from models.deep.trunk import Trunk
from state.store import Store
from stream import warm_up
from stream.decode import Record
from stream.engine import Engine
from stream.resume import Place
from stream.timeline import Source

def loaded():
    rooms = ("features", "state", "stream", "models")
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] in rooms]
    kernels = {f.py_func: f for m in modules for f in vars(m).values() if hasattr(f, "py_func")}
    return {f"{k.__module__}.{k.__name__}" for k, f in kernels.items() if f.signatures}

scenario, now = Scenario(name="x"), round(time.time() * 1000)
warm_up.warm_up(scenario, Trunk.empty())
before = loaded()
shown = [
    {"impression_id": f"a{k}", "event_time": now - 90_000 + 40 * k, "user_id": f"u{k % 7}",
     "item_id": f"i{k % 5}", "request_id": f"q{k // 4}", "position": k % 4, "price": 3.0 + k % 3}
    for k in range(300)
]
done = [{**one, "action": "click"} for one in shown[::5]]
with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
    engine = Engine(scenario, store, Trunk.empty())
    for kind, events in enumerate((shown, done)):
        engine.assign(Source(kind, 0), Place())
        records = [json.dumps(one).encode() for one in events]
        records.append(json.dumps({"watermark": now}).encode())
        engine.ingest(Source(kind, 0), [Record(k, None, value) for k, value in enumerate(records)], now)
    engine.advance()
    engine.checkpoint()
    assert engine.totals.impressions_read == 300 and engine.panel.samples
print(json.dumps(sorted(loaded() - before)))
"""


@pytest.mark.skipif(not COMPILED, reason="kernels are not compiled here")
def test_a_workers_first_events_find_every_kernel_loaded() -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    # Rows that outgrow their table are not among a few events.
    assert set(json.loads(run.stdout)) <= {"features.rows._fill", "features.rows._place"}


def test_a_folder_that_cannot_be_used_stops_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker's own folder is elsewhere, and says what is wrong with it."""

    def full(*_: Any, **__: Any) -> Any:
        raise OSError("No space left on device")

    monkeypatch.setattr(warm_up.tempfile, "TemporaryDirectory", full)
    warm_up.warm_up(Scenario(name="x"), Trunk.empty())
