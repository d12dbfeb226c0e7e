"""Failure: a damaged state ends a start in a traceback, or worse, is taken up as a smaller one.

Mechanism: the folder of a worker that was killed, with bytes of its files cut, flipped or removed, and with
rows of every kind replaced by others. Required: the state is that of a checkpoint (any, where the write-ahead
log is damaged: what follows the damage is read again from Kafka), or one line of a ``StateError`` that names
the folder and says what to do.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from contracts.events import ACTIONS
from features.declared import plan_from
from features.hashing import hash_texts
from models.deep.trunk import Trunk
from state.errors import StateDamagedError, StateError
from state.keys import (
    JOIN_MASKS,
    JOIN_PAYLOAD,
    JOIN_SHOWN,
    JOIN_WAITING,
    LEARNERS,
    META_BEGUN,
    META_FORMAT,
    META_PLAN,
    PROGRESS,
)
from state.row_keys import table_prefix
from state.store import Batch, Store
from stream.engine import Engine
from tests.unit.stream.conftest import T0, Rig, make_logs

TABLES = list(plan_from({}, ACTIONS).tables)
#: The sale of these tests has neither categories nor shops.
WITHOUT_ROWS = [name for name in TABLES if {"category_id", "shop_id"} & set(name.split("*"))]
#: What the keys of each kind of row begin with.
FAMILIES: dict[str, bytes] = {
    "format": META_FORMAT,
    "plan": META_PLAN,
    "progress": PROGRESS,
    "learners": LEARNERS,
    "waiting": JOIN_WAITING,
    "shown": JOIN_SHOWN,
    "masks": JOIN_MASKS,
    "payload": JOIN_PAYLOAD,
    **{
        f"rows of {name}": table_prefix(number)
        for number, name in enumerate(TABLES)
        if name not in WITHOUT_ROWS
    },
}


class Killed(NamedTuple):
    """What a killed worker left: tables and a log, and the digest of each of its checkpoints."""

    folder: Path
    scenario: Any
    digests: list[str]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    folder = tmp_path_factory.mktemp("killed")
    rig = Rig(folder / "live")
    logs = make_logs(3, 200)
    digests = [rig.engine.digest()]
    rig.assign(*logs)
    for step in range(6):
        for source in logs:
            rig.read(logs, source, 12)
        rig.engine.advance()
        rig.engine.features.drop_changed()
        rig.engine.checkpoint()
        digests.append(rig.engine.digest())
        if step == 2:
            rig.store._db.flush()
    shutil.copytree(folder / "live", folder / "left")
    rig.close()
    return Killed(folder / "left", rig.scenario, digests)


@pytest.fixture
def damaged(killed: Killed, tmp_path: Path) -> Path:
    """A copy, to damage."""
    folder = tmp_path / "w0"
    shutil.copytree(killed.folder, folder)
    return folder


def start(killed: Killed, folder: Path) -> str:
    """The digest of a worker that starts on the folder and publishes again; it reads every row."""
    with Store(folder) as store:
        engine = Engine(killed.scenario, store, Trunk.empty())
        engine.features.republish_since(0)
        while engine.features.republishing:
            engine.features.take_changed()
        return engine.digest()


def refusal(killed: Killed, folder: Path) -> str:
    with pytest.raises(StateError) as error:
        start(killed, folder)
    line = str(error.value)
    assert "\n" not in line and str(folder) in line
    return line


def one(folder: Path, pattern: str) -> Path:
    """The largest file of a kind."""
    return max(folder.glob(pattern), key=lambda path: path.stat().st_size)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def test_what_a_killed_worker_left_is_its_last_checkpoint(killed: Killed, damaged: Path) -> None:
    assert start(killed, damaged) == killed.digests[-1] != killed.digests[-2]


REMOVED: dict[str, Callable[[Path], None]] = {
    "no CURRENT": lambda folder: (folder / "CURRENT").unlink(),
    "no MANIFEST": lambda folder: one(folder, "MANIFEST-*").unlink(),
    "no SST": lambda folder: one(folder, "*.sst").unlink(),
    "CURRENT is garbage": lambda folder: (folder / "CURRENT").write_bytes(b"garbage"),
    "CURRENT is empty": lambda folder: (folder / "CURRENT").write_bytes(b""),
    "MANIFEST is cut": lambda folder: one(folder, "MANIFEST-*").write_bytes(b""),
    "MANIFEST is flipped": lambda folder: flip(one(folder, "MANIFEST-*"), 40),
    "SST is cut": lambda folder: one(folder, "*.sst").write_bytes(one(folder, "*.sst").read_bytes()[:-100]),
    "SST is empty": lambda folder: one(folder, "*.sst").write_bytes(b""),
    "no CURRENT and no log": lambda folder: (
        [path.unlink() for path in (folder / "CURRENT", *folder.glob("*.log"))] and None
    ),
}


@pytest.mark.parametrize("damage", REMOVED)
def test_a_file_that_is_missing_or_cut_is_damage_and_says_what_to_do(
    killed: Killed, damaged: Path, damage: str
) -> None:
    REMOVED[damage](damaged)
    line = refusal(killed, damaged)
    assert re.search(r"is damaged: .*backup.*set it aside \(mv \S+ \S+\.damaged\) and start anew", line)
    assert re.search(r"weights and counts learned (since \d{4}-\d\d-\d\d|in it)", line)


def test_a_flipped_byte_anywhere_in_a_table_is_damage_or_no_matter(killed: Killed, damaged: Path) -> None:
    table = one(damaged, "*.sst")
    intact = table.read_bytes()
    refused = 0
    for at in np.linspace(0, len(intact) - 1, 60).astype(int).tolist():
        table.write_bytes(intact)
        flip(table, at)
        try:
            assert start(killed, damaged) == killed.digests[-1]
        except StateDamagedError as error:
            assert "set it aside" in str(error)
            refused += 1
        shutil.rmtree(damaged)  # with what the try wrote
        shutil.copytree(killed.folder, damaged)
    assert refused > 10


# With the least write buffer the log holds hardly more than the last checkpoint.
@pytest.mark.ordinary_sizes
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_torn_log_leaves_an_earlier_checkpoint_whole(killed: Killed, tmp_path: Path, damage: str) -> None:
    size = one(killed.folder, "*.log").stat().st_size
    found = set()
    for number, at in enumerate(np.linspace(0, size - 1, 40).astype(int).tolist()):
        folder = tmp_path / str(number)
        shutil.copytree(killed.folder, folder)
        log = one(folder, "*.log")
        if damage == "cut":
            log.write_bytes(log.read_bytes()[:at])
        else:
            flip(log, at)
        try:
            found.add(killed.digests.index(start(killed, folder)))
        except StateDamagedError as error:
            assert "set it aside" in str(error)
    assert len(found) > 2


def test_there_are_rows_of_every_kind(killed: Killed, damaged: Path) -> None:
    with Store(damaged) as store:
        keys = list(store.keys(b""))
    for family, prefix in FAMILIES.items():
        assert any(key.startswith(prefix) for key in keys), family
    # Of meta/begun only the key is read.
    assert all(key.startswith((*FAMILIES.values(), META_BEGUN)) for key in keys)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("change", ["empty", "cut", "longer", "garbage", "another kind", "not UTF-8"])
def test_a_row_that_does_not_decode_is_damage(
    killed: Killed, damaged: Path, family: str, change: str
) -> None:
    items = "rows of item_id"
    with Store(damaged) as store:
        key, value = next(store.scan(FAMILIES[family]))
        other = next(store.scan(FAMILIES[items] if family != items else PROGRESS))[1]
        batch = Batch()
        batch.put(
            key,
            {
                "empty": b"",
                "cut": value[: len(value) // 2],
                "longer": value + b"\x00",
                "garbage": b"\xc1" * 7,
                "another kind": b"\x00" + other + value,
                "not UTF-8": b"\xa2\xff\xfe" + value,
            }[change],
        )
        store.commit(batch)
    line = refusal(killed, damaged)
    if family != "plan":  # that is as if other features were set
        assert "damaged" in line and "set it aside" in line


@pytest.mark.parametrize("family", ["shown", "masks", "learners", "progress", "format", "plan"])
def test_a_row_that_is_gone_is_damage(killed: Killed, damaged: Path, family: str) -> None:
    with Store(damaged) as store:
        keys = list(store.keys(FAMILIES[family]))
        batch = Batch()
        batch.delete(keys[len(keys) // 2])
        store.commit(batch)
    assert re.search("set it aside|set the folder aside", refusal(killed, damaged))


def test_a_key_that_is_none_is_damage(killed: Killed, damaged: Path) -> None:
    prefix = FAMILIES["rows of user_id"]
    with Store(damaged) as store:
        batch = Batch()
        batch.put(prefix + b"\xff", next(store.scan(prefix))[1])
        store.commit(batch)
    assert "set it aside" in refusal(killed, damaged)


def test_damage_that_is_met_while_the_engine_runs_is_the_same_line(killed: Killed, damaged: Path) -> None:
    with Store(damaged) as store:
        engine = Engine(killed.scenario, store, Trunk.empty())
        # Into a new file: nothing of that one is in a cache.
        store._db.compact_range(None, None)
        for table in damaged.glob("*.sst"):
            data = table.read_bytes()
            with table.open("r+b") as file:
                # In place: the engine has the file open.
                file.write(bytes(byte ^ 0xFF for byte in data))
        keys = hash_texts([f"x{item}" for item in range(4)])
        with pytest.raises(StateDamagedError, match=r"is damaged: .*set it aside"):
            engine.features.begin(np.zeros(4, dtype=np.int16), T0)
            engine.features.tables["item_id"].locate(keys, np.zeros(4, dtype=np.bool_))
