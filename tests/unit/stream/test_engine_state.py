"""Fails when an engine takes up a state that does not fit the scenario, or begins anew beside damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from contracts.scenario import Scenario
from models.deep.trunk import Trunk
from state.errors import StateFormatError
from state.store import Batch, Store
from stream.engine import Engine
from tests import first_edition


def reopen(folder: Path, **sections: Any) -> None:
    with Store(folder) as store:
        Engine(msgspec.convert(sections, Scenario), store, Trunk.empty())


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """State of the default scenario without River learners."""
    folder = tmp_path / "written"
    with Store(folder) as store:
        scenario = msgspec.convert({"learners": {"river": []}}, Scenario)
        Engine(scenario, store, Trunk.empty()).checkpoint()
    return folder


def test_a_folder_that_was_begun_and_never_written_is_taken_up(tmp_path: Path) -> None:
    """Failure: a worker that is killed within its first second never starts again."""
    for _ in range(3):
        reopen(tmp_path / "begun", learners={"river": []})
    reopen(tmp_path / "begun", learners={"river": []}, features={"session": {}})


def test_state_with_the_same_settings_is_taken_up(written: Path) -> None:
    reopen(written, learners={"river": []})


def test_state_of_another_tick_is_refused_with_both(written: Path) -> None:
    with pytest.raises(StateFormatError, match=r"times\.tick_s = 1, the scenario has 2; .*new state folder"):
        reopen(written, learners={"river": []}, times={"tick_s": 2.0})


def test_state_of_other_features_is_refused_with_what_to_do(written: Path) -> None:
    with pytest.raises(StateFormatError, match=r"other features .*put the old .*back, or .*new state"):
        reopen(written, learners={"river": []}, features={"session": {}})


def test_state_of_the_first_edition_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    """Failure: its rows are taken for damage, or a new state is begun among them."""
    folder = tmp_path / "sale-0"
    kept = first_edition.write(folder)
    with pytest.raises(StateFormatError, match="an earlier version of Surgeline") as caught:
        reopen(folder, learners={"river": []})
    assert f"mv {folder} {folder}.format1" in str(caught.value)
    with Store(folder) as store:
        assert dict(store.scan(b"")) == kept


def test_state_of_other_learners_is_refused_with_their_names(written: Path) -> None:
    with pytest.raises(StateFormatError, match=r"river_logistic.*set it aside"):
        reopen(written, learners={"river": ["logistic"]})


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        (b"meta/engine", b"\xc1 not MessagePack", "damaged: .*unless another version"),
        (b"meta/engine", msgspec.msgpack.encode({"tick_ms": 1000}), "damaged: .*unless another version"),
        (b"meta/learners", None, "has no learners"),
    ],
)
def test_damaged_state_is_refused_instead_of_begun_anew(
    written: Path, key: bytes, value: bytes | None, named: str
) -> None:
    with Store(written) as store:
        batch = Batch()
        if value is None:
            batch.delete(key)
        else:
            batch.put(key, value)
        store.commit(batch)
    with pytest.raises(StateFormatError, match=rf"{named}.*set it aside"):
        reopen(written, learners={"river": []})
