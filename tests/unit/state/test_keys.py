"""Fails when a state of another version is read or refused without help, or when keys stand in two files."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from state import keys
from state.errors import StateDamagedError, StateFormatError
from state.keys import FORMAT_VERSION, META_BEGUN, META_FORMAT, check_format, mark_format
from state.store import Batch, Store

ROOT = Path(__file__).parents[3]
KEYS = [value for value in vars(keys).values() if isinstance(value, bytes)]


def put(store: Store, key: bytes, value: bytes) -> None:
    batch = Batch()
    batch.put(key, value)
    store.commit(batch)


def test_an_empty_state_and_our_own_are_read(store: Store) -> None:
    check_format(store)
    batch = Batch()
    mark_format(batch)
    store.commit(batch)
    check_format(store)


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (b"1", "an earlier version"),
        (b"2", "an earlier version"),
        (b"%d" % (FORMAT_VERSION + 1), "a later version"),
    ],
)
def test_another_version_is_refused_with_what_to_do(store: Store, version: bytes, words: str) -> None:
    put(store, META_FORMAT, version)
    with pytest.raises(StateFormatError, match=words) as caught:
        check_format(store)
    text = str(caught.value)
    assert str(store.path) in text and f"reads {FORMAT_VERSION}" in text and f"mv {store.path} " in text


def test_a_state_without_a_version_is_of_the_first_edition(store: Store) -> None:
    put(store, META_BEGUN, b"1")
    with pytest.raises(StateFormatError, match="it has format 1, this version reads"):
        check_format(store)


@pytest.mark.parametrize("value", [b"", b"two", b"-1", b"\xff"])
def test_a_version_that_is_no_number_is_damage(store: Store, value: bytes) -> None:
    put(store, META_FORMAT, value)
    with pytest.raises(StateDamagedError, match="format"):
        check_format(store)


def test_no_key_begins_another() -> None:
    """A scan over one family would find rows of the other."""
    assert len(KEYS) > 8
    assert not [(a, b) for a in KEYS for b in KEYS if a is not b and a.startswith(b)]


def test_keys_stand_in_one_file() -> None:
    """A key of the state in another file could clash, and no reader would find it."""
    families = {key.partition(b"/")[0] + b"/" for key in KEYS}
    found = []
    for room in ("state", "stream", "surgeline"):
        for file in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                value = node.value if isinstance(node, ast.Constant) else None
                text = value if isinstance(value, bytes) else str(value).encode()
                if any(text.startswith(family) and b" " not in text for family in families):
                    found.append(f"{file.relative_to(ROOT)}:{text!r}")
    assert {line.partition(":")[0] for line in found} == {"state/keys.py"}, found
