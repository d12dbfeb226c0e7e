"""From a partition batch of raw records to events: decode, validate, and say why a record is refused.

JSON objects and MessagePack maps are accepted, record by record. A batch without a bad record costs one
list comprehension; the slow path names each bad record's reason.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from contracts.events import Action, Behaviour, Impression, Watermark

IntArray = npt.NDArray[np.int64]
E = TypeVar("E", bound=Impression | Action | Behaviour)

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


class Decoded(NamedTuple, Generic[E]):
    """Events of one partition batch in the order of their offsets; ``watermarks`` are (offset, ms UTC)."""

    events: list[E]
    times: IntArray
    offsets: IntArray
    refused: list[Refused]
    watermarks: list[tuple[int, int]]


class Decoder(Generic[E]):
    """Decodes one kind of event.

    ``max_future_ms``: how far ahead of the wall clock an event may be. A watermark may be ``closing_ms``
    further: it closes the last samples of a log at once.
    """

    def __init__(self, kind: type[E], max_future_ms: int, closing_ms: int = 0) -> None:
        self._fields = kind.__struct_fields__
        self._json: msgspec.json.Decoder[Any] = msgspec.json.Decoder(kind)
        self._msgpack: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(kind)
        self._mark = msgspec.json.Decoder(Watermark)
        self._mark_msgpack = msgspec.msgpack.Decoder(Watermark)
        self._max_future_ms = max_future_ms
        self._closing_ms = closing_ms

    def decode(self, records: Sequence[Record], now_ms: int) -> Decoded[E]:
        """Decode a batch. Never raises on bad input: what cannot be used is in ``refused``."""
        offsets = [record.offset for record in records]
        refused: list[Refused] = []
        watermarks: list[tuple[int, int]] = []
        decode = self._json.decode
        try:
            events: list[E] = [decode(record.value) for record in records]  # type: ignore[arg-type]
        except (*_BAD, TypeError):
            events, offsets, refused, watermarks = self._one_by_one(records, now_ms)
        times = np.array([event.event_time for event in events], dtype=np.int64)
        limit = now_ms + self._max_future_ms
        if len(times) and int(times.max()) > limit:
            by_offset = {record.offset: record for record in records}
            for i in np.flatnonzero(times > limit).tolist():
                reason = self._too_far("event_time", int(times[i]), now_ms)
                refused.append(Refused(by_offset[offsets[i]], reason))
            kept = np.flatnonzero(times <= limit).tolist()
            events = [events[i] for i in kept]
            offsets = [offsets[i] for i in kept]
            times = times[kept]
        return Decoded(events, times, np.array(offsets, dtype=np.int64), refused, watermarks)

    def _one_by_one(
        self, records: Sequence[Record], now_ms: int
    ) -> tuple[list[E], list[int], list[Refused], list[tuple[int, int]]]:
        events: list[E] = []
        offsets: list[int] = []
        refused: list[Refused] = []
        watermarks: list[tuple[int, int]] = []
        for record in records:
            try:
                events.append(self._decode_one(record.value))
                offsets.append(record.offset)
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
        return events, offsets, refused, watermarks

    def _too_far(self, field: str, at: int, now_ms: int, more_ms: int = 0) -> str:
        return (
            f"{field} {at} is {(at - now_ms) / 1000.0:.0f} s ahead of the clock, "
            f"allowed are {(self._max_future_ms + more_ms) / 1000.0:g} s (times.max_future_s)"
        )

    def _decode_one(self, value: bytes | None) -> E:
        if not value:
            raise msgspec.DecodeError("the record has no value")
        event: E = self._msgpack.decode(value) if is_msgpack(value) else self._json.decode(value)
        return event

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


def is_msgpack(value: bytes) -> bool:
    """Whether a record's value, which is not empty, is a MessagePack map rather than JSON."""
    # A JSON object starts with '{' or white space; a MessagePack map with 0x80-0x8f, 0xde or 0xdf.
    return 0x80 <= value[0] <= 0x8F or value[0] in (0xDE, 0xDF)
