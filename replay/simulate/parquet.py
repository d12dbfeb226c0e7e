"""One Parquet file, written row group by row group in constant memory, byte for byte repeatable.

polars writes whole frames only. Each row group is therefore written by polars into memory as a file of
its own, its pages are appended here, and its footer is kept with the offsets moved; at the end the
footers become one. The footer is Thrift's compact protocol (github.com/apache/parquet-format), of which
only what moves is understood and the rest is copied.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import polars as pl

from replay.errors import ReplayError

MAGIC = b"PAR1"
ROWS_PER_GROUP = 1 << 18

# Thrift's compact types.
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)

# Field numbers of parquet.thrift: FileMetaData, RowGroup, ColumnChunk, ColumnMetaData.
FILE_ROWS, FILE_GROUPS = 3, 4
GROUP_COLUMNS, GROUP_OFFSET, GROUP_ORDINAL = 1, 5, 7
CHUNK_OFFSET, CHUNK_META, CHUNK_INDEXES = 2, 3, (4, 5, 6, 7)
META_OFFSETS = (9, 10, 11)
META_BLOOM = (14, 15)

#: A struct's fields by number: (type, value).
Fields = dict[int, tuple[int, Any]]


class WriterError(ReplayError, RuntimeError):
    """The file cannot be written as it was asked for."""


class RowGroupWriter:
    """Appends frames of one schema; row groups have ``rows`` rows however the frames come.

    The file appears under its name when the writer is closed without an error.
    """

    def __init__(self, path: str | Path, rows: int = ROWS_PER_GROUP) -> None:
        self.path = Path(path)
        self._part = self.path.with_name(self.path.name + ".part")
        self._rows = rows
        self._held: list[pl.DataFrame] = []
        self._held_rows = 0
        self._footer: Fields | None = None
        self._groups: list[Fields] = []
        self._count = 0
        self._schema: pl.Schema | None = None
        with self._naming():
            self._file: BinaryIO = self._part.open("wb")
        self._put(MAGIC)

    def write(self, frame: pl.DataFrame) -> None:
        """Append ``frame``; whole row groups leave memory."""
        if self._schema is None:
            self._schema = frame.schema
        elif frame.schema != self._schema:
            raise WriterError(f"{self.path}: a frame's columns differ from the first one's: {frame.schema}")
        self._held.append(frame)
        self._held_rows += frame.height
        while self._held_rows >= self._rows:
            held = pl.concat(self._held)
            self._append(held.head(self._rows))
            self._held = [held.slice(self._rows)]
            self._held_rows -= self._rows

    def close(self) -> None:
        """Write what is held and the footer, and give the file its name."""
        if self._schema is None:
            raise WriterError(f"{self.path}: nothing was written, so there are no columns")
        if self._held_rows or self._footer is None:
            self._append(pl.concat(self._held))
        assert self._footer is not None
        self._footer[FILE_ROWS] = (I64, self._count)
        self._footer[FILE_GROUPS] = (LIST, (STRUCT, self._groups))
        out = bytearray()
        _write_struct(out, self._footer)
        self._put(out + len(out).to_bytes(4, "little") + MAGIC)
        with self._naming():
            self._file.close()
            self._part.replace(self.path)

    def discard(self) -> None:
        """Forget what was written."""
        # What is still buffered may find the disk as full as what came before it.
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)

    def _append(self, frame: pl.DataFrame) -> None:
        buffer = io.BytesIO()
        # Rechunked, so that pages do not depend on how the frames came.
        frame.rechunk().write_parquet(
            buffer, compression="zstd", compression_level=1, statistics=True, row_group_size=self._rows
        )
        data = buffer.getbuffer()
        size = int.from_bytes(data[-8:-4], "little")
        footer = _Reader(data[-8 - size : -8]).struct()
        moved = self._file.tell() - len(MAGIC)
        _, groups = footer[FILE_GROUPS][1]
        for group in groups:
            self._groups.append(_moved(group, moved))
        self._put(data[len(MAGIC) : -8 - size])
        self._footer = self._footer or footer
        self._count += frame.height

    def _put(self, data: bytes | bytearray | memoryview) -> None:
        with self._naming():
            self._file.write(data)

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        """The system's refusals (no folder, no permission, a full disk) with the file's name."""
        try:
            yield
        except OSError as error:
            raise WriterError(f"{self.path}: cannot be written: {error.strerror}") from error

    def __enter__(self) -> RowGroupWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.discard()
            return
        try:
            self.close()
        except BaseException:
            self.discard()
            raise


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _moved(group: Fields, by: int) -> Fields:
    """``group`` with every offset moved; page indexes and bloom filters, which are not copied, dropped."""
    for chunk in group[GROUP_COLUMNS][1][1]:
        _shift(chunk, (CHUNK_OFFSET,), by)
        for field in CHUNK_INDEXES:
            chunk.pop(field, None)
        meta = chunk[CHUNK_META][1]
        _shift(meta, META_OFFSETS, by)
        for field in META_BLOOM:
            meta.pop(field, None)
    _shift(group, (GROUP_OFFSET,), by)
    group.pop(GROUP_ORDINAL, None)
    return group


def _shift(fields: Fields, numbers: tuple[int, ...], by: int) -> None:
    for number in numbers:
        if number in fields and fields[number][1] > 0:
            kind, value = fields[number]
            fields[number] = (kind, value + by)


class _Reader:
    """Reads Thrift's compact protocol."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def struct(self) -> Fields:
        fields: Fields = {}
        number = 0
        while head := self._byte():
            kind, step = head & 0x0F, head >> 4
            number = number + step if step else self._zigzag()
            fields[number] = (kind, self._value(kind))
        return fields

    def _value(self, kind: int) -> Any:
        if kind in (TRUE, FALSE):
            return kind == TRUE
        if kind in (I16, I32, I64):
            return self._zigzag()
        if kind == BYTE:
            return self._byte()
        if kind == DOUBLE:
            return self._take(8)
        if kind == BINARY:
            return self._take(self._varint())
        if kind in (LIST, SET):
            head = self._byte()
            size, inner = head >> 4, head & 0x0F
            size = self._varint() if size == 15 else size
            # Inside a list a boolean is a byte of its own.
            element = BYTE if inner in (TRUE, FALSE) else inner
            return inner, [self._value(element) for _ in range(size)]
        if kind == STRUCT:
            return self.struct()
        raise WriterError(f"a Parquet footer with a Thrift field of type {kind}, which is not understood")

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _take(self, n: int) -> bytes:
        self._at += n
        return bytes(self._data[self._at - n : self._at])

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)


def _write_struct(out: bytearray, fields: Fields) -> None:
    last = 0
    for number, (kind, value) in sorted(fields.items()):
        kind = (TRUE if value else FALSE) if kind in (TRUE, FALSE) else kind
        if 0 < number - last <= 15:
            out.append((number - last) << 4 | kind)
        else:
            out.append(kind)
            _write_zigzag(out, number)
        last = number
        if kind not in (TRUE, FALSE):
            _write_value(out, kind, value)
    out.append(0)


def _write_value(out: bytearray, kind: int, value: Any) -> None:
    if kind in (I16, I32, I64):
        _write_zigzag(out, value)
    elif kind == BYTE:
        out.append(value)
    elif kind == DOUBLE:
        out += value
    elif kind == BINARY:
        _write_varint(out, len(value))
        out += value
    elif kind in (LIST, SET):
        inner, values = value
        out.append(min(len(values), 15) << 4 | inner)
        if len(values) >= 15:
            _write_varint(out, len(values))
        for element in values:
            _write_value(out, BYTE if inner in (TRUE, FALSE) else inner, element)
    else:
        _write_struct(out, value)


def _write_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _write_zigzag(out: bytearray, value: int) -> None:
    _write_varint(out, value << 1 if value >= 0 else (-value << 1) - 1)
