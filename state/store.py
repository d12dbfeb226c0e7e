"""RocksDB as a flat, ordered map of bytes with atomic batches.

One folder a worker. A batch is in the write-ahead log when ``commit`` returns, and on disk where the store is
``synced``: a worker commits once a second, and Kafka's offsets, which are committed after that, never run
ahead of its state, not even after a power loss.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from rocksdict import DbClosedError, Options, Rdict, WriteBatch, WriteOptions

from state.errors import StateDamagedError, state_error

#: Bounds RocksDB's own memory; the hot rows live in numpy arrays above it.
WRITE_BUFFER_BYTES = 64 * 1024 * 1024
MAX_WAL_BYTES = 256 * 1024 * 1024
#: Of so many keys in a row so many are deleted, and of all keys of a file such a part.
DELETED = (128, 64, 0.5)


class Store:
    """A RocksDB folder. Keys are ordered bytes; ``commit`` applies a batch as a whole or not at all.

    Every method raises ``StateDamagedError`` where the bytes on disk are not what was written, and
    ``StateDiskError`` where the disk is full, read-only or failing.
    """

    def __init__(self, path: str | Path, synced: bool = False) -> None:
        self.path = Path(path)
        self.synced = synced
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(WRITE_BUFFER_BYTES)
        options.set_max_total_wal_size(MAX_WAL_BYTES)
        options.set_keep_log_file_num(2)
        options.set_max_background_jobs(2)
        # Files in which much was deleted are compacted, so that forgotten rows leave the disk.
        options.add_compact_on_deletion_collector_factory(*DELETED)
        self._failed = False
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # RocksDB would begin a new, empty state beside the tables of the old one.
            if not (self.path / "CURRENT").exists() and any(self.path.glob("*.sst")):
                raise StateDamagedError(self.path, "its file CURRENT is missing")
            self._db = Rdict(str(self.path), options)
        except StateDamagedError:
            raise
        except Exception as error:
            raise state_error(self.path, error) from error
        self._write_options = WriteOptions()
        self._write_options.sync = synced

    def get(self, key: bytes) -> bytes | None:
        """The value at ``key``, or None."""
        with self._translated():
            value: bytes | None = self._db.get(key)
        return value

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values at ``keys``, None where there is none."""
        with self._translated():
            values: list[bytes | None] = self._db.get(list(keys))
        return values

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Items whose key starts with ``prefix`` and is not below ``start``, in key order."""
        with self._translated():
            iterator = self._db.iter()
            iterator.seek(max(prefix, start))
            while iterator.valid():
                key = iterator.key()
                if not key.startswith(prefix):
                    return
                yield key, iterator.value()
                iterator.next()
            # An iterator that meets damage is no longer valid, just as one that is at the end.
            iterator.status()

    def keys(self, prefix: bytes) -> Iterator[bytes]:
        """The keys that start with ``prefix``, in key order; a half of what ``scan`` takes."""
        key = prefix
        with self._translated():
            for key in self._db.keys(from_key=prefix):
                if not key.startswith(prefix):
                    return
                yield key
            # That one ends at damage as it does behind the last key, and does not say which it was.
            iterator = self._db.iter()
            iterator.seek(key)
            if iterator.valid():
                iterator.next()
            iterator.status()

    def commit(self, batch: Batch) -> None:
        """Apply ``batch`` atomically."""
        with self._translated():
            self._db.write(batch.native, self._write_options)

    def flush(self) -> None:
        """Bring what is in memory into files that do not need the write-ahead log."""
        with self._translated():
            self._db.flush()

    def close(self) -> None:
        """Release the folder. Safe to call twice."""
        try:
            self._db.close()
        except DbClosedError:
            pass
        except Exception as error:
            # After a write that failed RocksDB says so once more, and has let the folder go all the same.
            if not self._failed:
                raise state_error(self.path, error) from error

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DbClosedError:
            raise
        except Exception as error:
            self._failed = True
            raise state_error(self.path, error) from error

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Batch:
    """Changes that belong together."""

    def __init__(self) -> None:
        self.native = WriteBatch(raw_mode=True)
        self.put = self.native.put
        self.delete = self.native.delete

    def __len__(self) -> int:
        return int(self.native.len())
