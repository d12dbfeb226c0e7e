"""From a partition batch of raw records to events: decode, validate, and say why a record is refused.

JSON objects and MessagePack maps are accepted, record by record. A batch without a bad record costs one
list comprehension; the slow path names each bad record's reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from stream.events import Action, Impression, Watermark

IntArray = npt.NDArray[np.int64]
E = TypeVar("E", Impression, Action)


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
    """Events of one partition batch in the order of their offsets; ``watermark`` is 0 where none came."""

    events: list[E]
    times: IntArray
    offsets: IntArray
    refused: list[Refused]
    watermark: int


class Decoder(Generic[E]):
    """Decodes one kind of event. ``max_future_ms``: how far ahead of the wall clock an event may be."""

    def __init__(self, kind: type[E], max_future_ms: int) -> None:
        self._json: msgspec.json.Decoder[Any] = msgspec.json.Decoder(kind)
        self._msgpack: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(kind)
        self._mark = msgspec.json.Decoder(Watermark)
        self._max_future_ms = max_future_ms

    def decode(self, records: Sequence[Record], now_ms: int) -> Decoded[E]:
        """Decode a batch. Never raises on bad input: what cannot be used is in ``refused``."""
        offsets = [record.offset for record in records]
        refused: list[Refused] = []
        watermark = 0
        decode = self._json.decode
        try:
            events: list[E] = [decode(record.value) for record in records]  # type: ignore[arg-type]
        except (msgspec.MsgspecError, TypeError, UnicodeDecodeError):
            events, offsets, refused, watermark = self._one_by_one(records)
        times = np.array([event.event_time for event in events], dtype=np.int64)
        limit = now_ms + self._max_future_ms
        if len(times) and int(times.max()) > limit:
            by_offset = {record.offset: record for record in records}
            for i in np.flatnonzero(times > limit).tolist():
                ahead = (int(times[i]) - now_ms) / 1000.0
                reason = (
                    f"event_time {int(times[i])} is {ahead:.0f} s ahead of the clock, "
                    f"allowed are {self._max_future_ms / 1000.0:g} s (times.max_future_s)"
                )
                refused.append(Refused(by_offset[offsets[i]], reason))
            kept = np.flatnonzero(times <= limit).tolist()
            events = [events[i] for i in kept]
            offsets = [offsets[i] for i in kept]
            times = times[kept]
        return Decoded(events, times, np.array(offsets, dtype=np.int64), refused, watermark)

    def _one_by_one(self, records: Sequence[Record]) -> tuple[list[E], list[int], list[Refused], int]:
        events: list[E] = []
        offsets: list[int] = []
        refused: list[Refused] = []
        watermark = 0
        for record in records:
            try:
                events.append(self._decode_one(record.value))
                offsets.append(record.offset)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                mark = self._watermark_of(record.value)
                if mark is None:
                    refused.append(Refused(record, str(error)))
                else:
                    watermark = max(watermark, mark)
        return events, offsets, refused, watermark

    def _decode_one(self, value: bytes | None) -> E:
        if not value:
            raise msgspec.DecodeError("the record has no value")
        event: E
        # A JSON object starts with '{' or white space; a MessagePack map with 0x80-0x8f, 0xde or 0xdf.
        if 0x80 <= value[0] <= 0x8F or value[0] in (0xDE, 0xDF):
            event = self._msgpack.decode(value)
        else:
            event = self._json.decode(value)
        return event

    def _watermark_of(self, value: bytes | None) -> int | None:
        if not value or b'"watermark"' not in value:
            return None
        try:
            return self._mark.decode(value).watermark
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
