"""From a partition batch of raw records to columns: decode, validate, and say why a record is refused.

JSON objects and MessagePack maps are accepted, record by record. What ``stream.json_scan`` is not sure of,
everything where kernels are not compiled, and MessagePack is decoded one by one, which also names each bad
record's reason.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from contracts.events import EVENTS, IMPRESSION, KINDS, Watermark
from features.compiled import COMPILED
from features.hashing import Keys
from stream.event_columns import Columns, Layout, columns_of, joined
from stream.json_scan import ID_SPAN, ITEM_SPAN, Scanner

IntArray = npt.NDArray[np.int64]
#: Told of items that were shown: their keys (n,), and how to get the texts of some of them by number.
Named = Callable[[Keys, Callable[[npt.NDArray[np.intp]], list[str]]], None]

#: What a decoder raises on bad input: besides msgspec's own, text that is not UTF-8 and deep nesting.
_BAD = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Record(NamedTuple):
    """What the engine needs of a Kafka record; aiokafka's have the same attributes."""

    offset: int
    key: bytes | None
    value: bytes | None


class Refused(NamedTuple):
    """A record that goes to the dead-letter topic."""

    record: Record
    reason: str


class Decoded(NamedTuple):
    """Events of one partition batch in the order of their offsets; ``watermarks`` are (offset, ms UTC)."""

    events: Columns
    times: IntArray
    offsets: IntArray
    refused: list[Refused]
    watermarks: list[tuple[int, int]]


class Decoder:
    """Decodes the kind of event that ``layout`` is of.

    ``max_future_ms``: how far ahead of the wall clock an event may be. A watermark may be ``closing_ms``
    further: it closes the last samples of a log at once. ``named``: called with the items of impressions.
    ``scan``: whether records are scanned; they are read alike without it, one by one.
    """

    def __init__(
        self,
        layout: Layout,
        max_future_ms: int,
        closing_ms: int = 0,
        named: Named | None = None,
        scan: bool = COMPILED,
    ) -> None:
        kind = EVENTS[layout.kind]
        self._layout = layout
        self._fields = kind.__struct_fields__
        self._json: msgspec.json.Decoder[Any] = msgspec.json.Decoder(kind)
        self._msgpack: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(kind)
        self._mark = msgspec.json.Decoder(Watermark)
        self._mark_msgpack = msgspec.msgpack.Decoder(Watermark)
        self._max_future_ms = max_future_ms
        self._closing_ms = closing_ms
        self._scanner = Scanner(layout) if scan and not layout.contexts else None
        self._identified = "impression_id" in self._fields
        self._named = named if KINDS[layout.kind] == IMPRESSION else None
        self._item_column = layout.keys.index("item_id") if self._named is not None else 0

    def decode(self, records: Sequence[Record], offsets: IntArray, now_ms: int) -> Decoded:
        """Decode a batch. Never raises on bad input: what cannot be used is in ``refused``."""
        refused: list[Refused] = []
        watermarks: list[tuple[int, int]] = []
        if self._scanner is None:
            left = np.arange(len(records))
            events, times, kept = self._layout.empty(), np.empty(0, dtype=np.int64), left[:0]
        else:
            events, times, kept, left = self._scanned(self._scanner, records)
        if len(left):
            slow, slow_times, used = self._one_by_one(records, left, now_ms, refused, watermarks)
            if len(used):
                kept = np.concatenate([kept, used])
                order = np.argsort(kept, kind="stable")
                kept, events = kept[order], joined([events, slow])[order]
                times = np.concatenate([times, slow_times])[order]
        limit = now_ms + self._max_future_ms
        if len(times) and int(times.max()) > limit:
            for i in np.flatnonzero(times > limit).tolist():
                reason = self._too_far("event_time", int(times[i]), now_ms)
                refused.append(Refused(records[int(kept[i])], reason))
            some = np.flatnonzero(times <= limit)
            events, times, kept = events[some], times[some], kept[some]
        return Decoded(events, times, offsets[kept], refused, watermarks)

    def _scanned(
        self, scanner: Scanner, records: Sequence[Record]
    ) -> tuple[Columns, IntArray, npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Events, times and numbers of the records that the scanner took, and the numbers of the others."""
        values = [record.value or b"" for record in records]
        data = b"".join(values)
        ends = np.cumsum(np.fromiter(map(len, values), dtype=np.int64, count=len(values)))
        taken, times, events, spans = scanner.scan(data, ends)
        kept, left = np.flatnonzero(taken), np.flatnonzero(~taken)
        if len(left):
            events, times, spans = events[kept], times[kept], spans[kept]
        if self._identified:
            events.ids = np.empty(len(kept), dtype=object)
            events.ids[:] = _slices(data, spans[:, ID_SPAN])
        if self._named is not None:
            self._named(events.keys[:, self._item_column], lambda some: _slices(data, spans[some, ITEM_SPAN]))
        return events, times, kept, left

    def _one_by_one(
        self,
        records: Sequence[Record],
        left: npt.NDArray[np.intp],
        now_ms: int,
        refused: list[Refused],
        watermarks: list[tuple[int, int]],
    ) -> tuple[Columns, IntArray, npt.NDArray[np.intp]]:
        """The records ``left``: events, times and numbers of those that are events."""
        events: list[Any] = []
        used: list[int] = []
        for number in left.tolist():
            record = records[number]
            try:
                events.append(self._decode_one(record.value))
                used.append(number)
            except _BAD as error:
                mark = self._watermark_of(record.value)
                if mark is None:
                    refused.append(Refused(record, self._reason(record.value, error)))
                elif mark > now_ms + self._max_future_ms + self._closing_ms:
                    # One such promise would make every later event late, for good.
                    refused.append(
                        Refused(record, self._too_far("watermark", mark, now_ms, self._closing_ms))
                    )
                else:
                    watermarks.append((record.offset, mark))
        columns = columns_of(self._layout, events)
        if self._named is not None and events:
            self._named(
                columns.keys[:, self._item_column], lambda some: [events[i].item_id for i in some.tolist()]
            )
        times = np.array([event.event_time for event in events], dtype=np.int64)
        return columns, times, np.array(used, dtype=np.intp)

    def _too_far(self, field: str, at: int, now_ms: int, more_ms: int = 0) -> str:
        return (
            f"{field} {at} is {(at - now_ms) / 1000.0:.0f} s ahead of the clock, "
            f"allowed are {(self._max_future_ms + more_ms) / 1000.0:g} s (times.max_future_s)"
        )

    def _decode_one(self, value: bytes | None) -> Any:
        if not value:
            raise msgspec.DecodeError("the record has no value")
        return self._msgpack.decode(value) if is_msgpack(value) else self._json.decode(value)

    def _watermark_of(self, value: bytes | None) -> int | None:
        if not value or b"watermark" not in value:
            return None
        try:
            mark: Watermark = (self._mark_msgpack if is_msgpack(value) else self._mark).decode(value)
        except _BAD:
            return None
        return mark.watermark

    def _reason(self, value: bytes | None, error: Exception) -> str:
        if isinstance(error, RecursionError):
            return "the record is nested too deeply"
        if isinstance(error, UnicodeDecodeError) and value:
            # msgspec names the field in its own errors, but not in this one.
            decode = msgspec.msgpack.decode if is_msgpack(value) else msgspec.json.decode
            with contextlib.suppress(*_BAD):
                for name, raw in decode(value, type=dict[str, msgspec.Raw]).items():
                    if name in self._fields and _has_bad_text(decode, raw):
                        return f"Text is not UTF-8: {error.reason} - at `$.{name}`"
        return str(error)


def _has_bad_text(decode: Callable[[msgspec.Raw], Any], raw: msgspec.Raw) -> bool:
    try:
        decode(raw)
    except UnicodeDecodeError:
        return True
    return False


def _slices(data: bytes, spans: IntArray) -> list[str]:
    """The texts that begin and end at ``spans`` (n, 2)."""
    begins, ends = spans[:, 0].tolist(), spans[:, 1].tolist()
    if data.isascii():
        text = data.decode("ascii")
        return [text[begin:end] for begin, end in zip(begins, ends, strict=True)]
    return [data[begin:end].decode() for begin, end in zip(begins, ends, strict=True)]


def is_msgpack(value: bytes) -> bool:
    """Whether a record's value, which is not empty, is a MessagePack map rather than JSON."""
    # A JSON object starts with '{' or white space; a MessagePack map with 0x80-0x8f, 0xde or 0xdf.
    return 0x80 <= value[0] <= 0x8F or value[0] in (0xDE, 0xDF)
