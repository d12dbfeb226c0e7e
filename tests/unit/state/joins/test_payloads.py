"""Fails when what experts saw of open impressions is lost or damaged unseen on its way through a restart, and
when a file of it stays for ever or leaves before its checkpoint does.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from state.errors import StateDamagedError, StateDiskError
from state.joins import payloads
from state.joins.join import Join
from state.store import Batch, Store
from tests.unit.state.joins.ticks import TICK, WINDOW, checkpoint, closing, new_join, restarted, run

SHOWN = [(f"i{k}", 10 + k) for k in range(40)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "state") as one:
        yield one


def files(store: Store) -> list[Path]:
    folder = store.path / payloads.FOLDER
    return sorted(folder.iterdir()) if folder.is_dir() else []


def shown(store: Store) -> Join:
    join = new_join(store)
    run(join, 0, SHOWN)
    return join


@pytest.mark.parametrize(("least", "count"), [(1, 1), (10**9, 0)])
@pytest.mark.parametrize("synced", [False, True])
def test_open_samples_are_what_they_were_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: int, count: int, synced: bool
) -> None:
    """Whether they are large enough for a file or not."""
    monkeypatch.setattr(payloads, "FILE_BYTES", least)
    with Store(tmp_path / "state", synced=synced) as store:
        again = restarted(shown(store), store)
        assert len(files(store)) == count
        closed = closing(again, TICK + WINDOW)
        assert closed is not None
        assert closed.inputs[:, 0].tolist() == list(range(40))
        assert np.allclose(closed.predictions[:, 0], np.arange(40) / 1000)


def test_a_file_leaves_once_a_checkpoint_without_it_is_committed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier, and a kill between the two would leave a checkpoint without its samples."""
    monkeypatch.setattr(payloads, "FILE_BYTES", 1)
    monkeypatch.setattr(payloads, "KEPT_BYTES", 1)
    join = shown(store)
    checkpoint(join, store)
    assert closing(join, TICK + WINDOW) is not None
    assert len(files(store)) == 1
    batch = Batch()
    join.write(batch)
    assert len(files(store)) == 1
    store.commit(batch)
    checkpoint(join, store)
    assert files(store) == []


# With the least write buffer the log holds hardly more than the last checkpoint.
@pytest.mark.ordinary_sizes
def test_where_the_log_is_torn_the_earlier_checkpoint_has_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state goes back to it then, and learns again what it had learned."""
    monkeypatch.setattr(payloads, "FILE_BYTES", 1)
    with Store(tmp_path / "state") as store:
        join = shown(store)
        checkpoint(join, store)
        (log,) = store.path.glob("*.log")
        whole, counts = log.stat().st_size, join.counts.__class__(impressions=40)
        assert closing(join, TICK + WINDOW) is not None
        checkpoint(join, store)
        checkpoint(join, store)
        # As a loss of power leaves it: closing would have brought all of it into RocksDB's own files.
        torn = shutil.copytree(store.path, tmp_path / "torn")
    os.truncate(torn / log.name, whole)
    with Store(torn) as store:
        again = new_join(store)
        again.restore(counts)
        closed = closing(again, TICK + WINDOW)
        assert closed is not None and len(closed.labels) == 40


def test_files_that_nobody_needs_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads, "FILE_BYTES", 1)
    monkeypatch.setattr(payloads, "KEPT_BYTES", 10_000)
    join = new_join(store)
    for tick in range(200):
        closing(join, tick * TICK)
        run(join, tick, [(f"i{40 * tick + k}", tick * TICK + k) for k in range(40)])
        checkpoint(join, store)
        assert sum(path.stat().st_size for path in files(store)) < 15_000


def test_what_a_kill_leaves_beside_a_checkpoint_is_cleaned(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose checkpoint was not committed, and one whose deletion did not happen any more."""
    monkeypatch.setattr(payloads, "FILE_BYTES", 1)
    join = restarted(shown(store), store)
    run(join, 1, [("i90", 1_500)])
    join.write(Batch())  # never committed
    assert len(files(store)) == 2
    (store.path / payloads.FOLDER / "strange.tmp").write_bytes(b"x")
    again = new_join(store)
    payloads.clean_folder(store, {0})
    again.restore(join.counts.__class__(impressions=40))
    assert [path.name for path in files(store)] == ["0001" + "0" * 16]
    assert closing(again, TICK + WINDOW) is not None


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_cut, _flip, Path.unlink])
def test_damage_is_told(store: Store, monkeypatch: pytest.MonkeyPatch, damage: Any) -> None:
    monkeypatch.setattr(payloads, "FILE_BYTES", 1)
    join = shown(store)
    checkpoint(join, store)
    damage(files(store)[0])
    with pytest.raises(StateDamagedError, match="state folder"):
        new_join(store).restore(join.counts)


def test_a_full_disk_is_told_as_such(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads, "FILE_BYTES", 1)

    def full(_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(payloads.zlib, "adler32", lambda *_: 0)
    monkeypatch.setattr(payloads.Path, "open", lambda *_, **__: full(None))
    with pytest.raises(StateDiskError, match="Make room"):
        checkpoint(shown(store), store)
