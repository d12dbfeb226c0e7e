"""What experts saw and said of impressions whose label is open: large rows, written once, gone in seconds.

In RocksDB they would be copied into its log, its memory and its files before they are deleted. Large ones
stand in files beside it, one a segment, that the checkpoint's batch refers to by sizes and checksum. A file
is written before the batch that refers to it is committed, and deleted long after the one that no longer
does, so that the batch stays what makes a checkpoint whole: a file that no batch refers to means nothing, and
where RocksDB's log is torn, the earlier checkpoint that the state then is has its files.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Container
from pathlib import Path

import msgspec
import numpy as np

from state.errors import decoding, state_error
from state.joins.columns import FloatArray32
from state.keys import JoinKeys, partition_number, row_number
from state.store import Batch, Store

#: Payloads from so many bytes on have a file. Smaller ones are not worth one.
FILE_BYTES = 65_536
#: Files that no checkpoint needs any more take so much of the disk, or are so many, before they are deleted.
KEPT_BYTES, KEPT_FILES = 256 * 1024 * 1024, 1_000
#: The files' folder in the state's.
FOLDER = "payloads"
_IN_STORE, _IN_FILE = b"v", b"f"
#: Names of files: partition and row as they stand in keys, in hex.
_NAME = re.compile("([0-9a-f]{4})[0-9a-f]{16}")
_encode = msgspec.msgpack.Encoder().encode


class _Filed(msgspec.Struct, array_like=True):
    """What the store knows of a file: bytes of inputs and of predictions in it, and their Adler-32."""

    inputs: int
    predictions: int
    checksum: int


class Payloads:
    """Payloads of a source partition's segments by the number of their first row, as part of ``store``."""

    def __init__(self, store: Store, partition: int) -> None:
        self._store = store
        self._prefix = JoinKeys.of(partition).payload
        #: What the names of this partition's files begin with.
        self._named = partition_number(partition).hex()
        self._folder = store.path / FOLDER
        #: Files that the newest batch no longer refers to, and those of the ones before, with their bytes.
        self._leaving: list[Path] = []
        self._left: list[Path] = []
        self._left_bytes = 0

    def put(self, batch: Batch, base: int, inputs: FloatArray32, predictions: FloatArray32) -> None:
        """Add a payload to ``batch``: inputs (n, p) and predictions (n, K).

        Raises ``StateDiskError`` where the disk does not take it.
        """
        if inputs.nbytes + predictions.nbytes < FILE_BYTES:
            value = _IN_STORE + packed_payload(inputs, predictions)
        else:
            value = _IN_FILE + self._write(base, inputs, predictions)
        batch.put(self._key(base), value)

    def delete(self, batch: Batch, base: int) -> None:
        """Delete a payload that is stored with ``batch``."""
        batch.delete(self._key(base))
        self._leaving.append(self._path(base))

    def committed(self) -> None:
        """The batch is committed; the files that it no longer refers to are deleted in time.

        Not before RocksDB has brought that batch from its log into its own files: from there on no torn end
        of the log leads back to a checkpoint that needs them.
        """
        for path in self._leaving:
            if path.exists():
                self._left.append(path)
                self._left_bytes += path.stat().st_size
        self._leaving = []
        if self._left_bytes >= KEPT_BYTES or len(self._left) >= KEPT_FILES:
            self._store.flush()
            for path in self._left:
                path.unlink(missing_ok=True)
            self._left, self._left_bytes = [], 0

    def get(self, base: int, rows: int) -> tuple[FloatArray32, FloatArray32] | None:
        """Inputs and predictions of a segment of so many rows; None where none are stored.

        Raises ``StateDamagedError`` where they are not what was written.
        """
        value = self._store.get(self._key(base))
        if value is None:
            return None
        with decoding(self._store.path, f"payload {base} of the join"):
            if value[:1] == _IN_STORE:
                inputs, predictions = msgspec.msgpack.decode(value[1:], type=tuple[bytes, bytes])
            elif value[:1] == _IN_FILE:
                inputs, predictions = self._read(base, msgspec.msgpack.decode(value[1:], type=_Filed))
            else:
                raise ValueError(f"it begins with {value[:1]!r}")
            return _rows(inputs, rows), _rows(predictions, rows)

    def clean(self, known: Container[int]) -> None:
        """Delete the files of segments that are not ``known`` to be open: a kill left them."""
        if not self._folder.is_dir():
            return
        for path in self._folder.glob(f"{self._named}*"):
            row = path.name.removeprefix(self._named)
            if not (row.isalnum() and int(row, 16) in known):
                path.unlink(missing_ok=True)

    def _path(self, base: int) -> Path:
        return self._folder / f"{self._named}{base:016x}"

    def _key(self, base: int) -> bytes:
        return self._prefix + row_number(base)

    def _write(self, base: int, inputs: FloatArray32, predictions: FloatArray32) -> bytes:
        parts = [np.ascontiguousarray(part).data.cast("B") for part in (inputs, predictions)]
        checksum = zlib.adler32(parts[1], zlib.adler32(parts[0]))
        try:
            self._folder.mkdir(exist_ok=True)
            with self._path(base).open("wb", buffering=0) as file:
                for part in parts:
                    while part:
                        part = part[file.write(part) :]
                if self._store.synced:
                    os.fsync(file.fileno())
            if self._store.synced:
                _sync_folder(self._folder)
        except OSError as error:
            raise state_error(self._store.path, error) from error
        return _encode(_Filed(inputs.nbytes, predictions.nbytes, checksum))

    def _read(self, base: int, filed: _Filed) -> tuple[bytes, bytes]:
        try:
            data = self._path(base).read_bytes()
        except OSError as error:
            raise state_error(self._store.path, error) from error
        if len(data) != filed.inputs + filed.predictions or zlib.adler32(data) != filed.checksum:
            raise ValueError("its file is not what was written")
        return data[: filed.inputs], data[filed.inputs :]


def clean_folder(store: Store, partitions: Container[int]) -> None:
    """Delete files that belong to no payload of these partitions: a kill left them."""
    folder = store.path / FOLDER
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        named = _NAME.fullmatch(path.name)
        if named is None or int(named[1], 16) - 1 not in partitions:
            path.unlink(missing_ok=True)


def packed_payload(inputs: FloatArray32, predictions: FloatArray32) -> bytes:
    """A payload in one piece."""
    return _encode((inputs.tobytes(), predictions.tobytes()))


def _rows(data: bytes, rows: int) -> FloatArray32:
    return np.frombuffer(data, dtype=np.float32).reshape(rows, -1)


def _sync_folder(folder: Path) -> None:
    """Bring a folder's own entries to disk: a file without its name is lost."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
