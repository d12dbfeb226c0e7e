"""The TOML file of a mapping: its fields and what is allowed in them; `mapping` says what they mean."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from contracts.events import ACTIONS, BEHAVIOUR, IMPRESSION
from replay.adapters import cells
from replay.columns import SCHEMA
from replay.errors import MappingError

DELAY_UNITS = tuple(cells.PER_US)
NEEDED = ("event_time", "user_id", "item_id")
MAPPABLE = tuple(name for name in SCHEMA if name not in ("event", "action", "value", "type"))
#: What a row of an event can be.
KINDS = (IMPRESSION, *ACTIONS, BEHAVIOUR)


class LabelMapping(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """When a row has an action, and at what time."""

    column: str
    equals: list[str] | None = None
    delay: str | None = None
    delay_unit: str = "s"
    time: str | None = None
    value: str | None = None


class EventsMapping(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """What kind of event a row is, by the texts in ``column``; `_Events` has a field for each kind."""

    column: str
    value: str | None = None

    def texts(self) -> list[tuple[str, str]]:
        """(kind, text) of every text that means one."""
        found = []
        for kind in KINDS:
            own: str | list[str] = getattr(self, kind)
            found += [(kind, text.strip()) for text in ([own] if isinstance(own, str) else own)]
        return found


_Events = msgspec.defstruct(
    "_Events",
    [(kind, str | list[str], msgspec.field(default_factory=list)) for kind in KINDS],
    bases=(EventsMapping,),
    kw_only=True,
    forbid_unknown_fields=True,
    frozen=True,
)
_File = msgspec.defstruct("_File", [("events", _Events)])


class ColumnMapping(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """A mapping file; see the module for the meaning of its fields."""

    fields: dict[str, str]
    name: str = ""
    time_unit: str = "ms"
    separator: str = ","
    quote: str = '"'
    columns: list[str] | None = None
    constants: dict[str, str | int | float] = {}
    context: dict[str, str] = {}
    labels: dict[str, LabelMapping] = {}
    events: EventsMapping | None = None


def load_mapping(path: Path) -> ColumnMapping:
    """Read and check a mapping; raises ``MappingError`` that names the field and what is allowed."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MappingError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MappingError(f"{path}: not TOML: {error}") from error
    _known(path, "", data, ColumnMapping.__struct_fields__)
    for label, body in _table(data.get("labels")).items():
        _known(path, f"labels.{label}.", _table(body), LabelMapping.__struct_fields__)
    _known(path, "events.", _table(data.get("events")), _Events.__struct_fields__)
    told = data.pop("events", None)
    try:
        mapping = msgspec.convert(data, ColumnMapping)
        if told is not None:
            # Below its own name, so that an error names the whole place.
            file: Any = msgspec.convert({"events": told}, _File)
            mapping = msgspec.structs.replace(mapping, events=file.events)
    except msgspec.ValidationError as error:
        raise MappingError(f"{path}: {error}") from error
    _known(path, "fields.", mapping.fields, MAPPABLE)
    _known(path, "constants.", mapping.constants, [name for name in MAPPABLE if name != "event_time"])
    _known(path, "labels.", mapping.labels, ACTIONS)
    _one_of(path, "time_unit", mapping.time_unit, cells.TIME_UNITS)
    if len(mapping.separator.encode()) != 1:
        raise MappingError(f"{path}: separator must be one ASCII character, not {mapping.separator!r}")
    if len(mapping.quote.encode()) > 1:
        raise MappingError(f"{path}: quote must be one ASCII character or empty, not {mapping.quote!r}")
    for name in NEEDED:
        if name not in mapping.fields and name not in mapping.constants:
            raise MappingError(f"{path}: fields.{name} is missing; needed are {', '.join(NEEDED)}")
    both = sorted(set(mapping.fields) & set(mapping.constants))
    if both:
        raise MappingError(f"{path}: {both[0]} stands in fields and in constants; give it once")
    for name, value in mapping.constants.items():
        if pl.Series([value]).cast(SCHEMA[name], strict=False).null_count():
            what = "a whole number" if SCHEMA[name] == pl.Int64 else "a number"
            raise MappingError(f"{path}: constants.{name} is {value!r}, which is not {what}")
    for action, rules in mapping.labels.items():
        _one_of(path, f"labels.{action}.delay_unit", rules.delay_unit, DELAY_UNITS)
        if rules.delay is not None and rules.time is not None:
            raise MappingError(f"{path}: labels.{action} has delay and time; give one of them")
    if mapping.events is not None:
        _check_events(path, mapping, mapping.events)
    if "query" in {*mapping.fields, *mapping.constants} and (
        mapping.events is None or BEHAVIOUR not in dict(mapping.events.texts())
    ):
        raise MappingError(f"{path}: fields.query is of behaviours, and events.behaviour says of no text")
    return mapping


def _check_events(path: Path, mapping: ColumnMapping, events: EventsMapping) -> None:
    if mapping.labels:
        raise MappingError(
            f"{path}: labels and events stand side by side; give labels where a row is an impression with "
            "its actions, events where a row is one event"
        )
    if "impression_id" in mapping.constants:
        raise MappingError(f"{path}: constants.impression_id would be one impression for all events")
    texts = events.texts()
    if not texts:
        raise MappingError(
            f"{path}: events says of no text in column {events.column!r} what it is; allowed are "
            f"{', '.join(KINDS)}"
        )
    kind_of: dict[str, str] = {}
    for kind, text in texts:
        if not text:
            raise MappingError(f"{path}: events.{kind} has an empty text; a row without a type is no event")
        if kind_of.setdefault(text, kind) != kind:
            raise MappingError(f"{path}: events.{kind_of[text]} and events.{kind} both have {text!r}")


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _known(path: Path, where: str, found: Iterable[str], allowed: Iterable[str]) -> None:
    allowed = list(allowed)
    for name in found:
        if name not in allowed:
            raise MappingError(f"{path}: {where}{name} is not a field; allowed are {', '.join(allowed)}")


def _one_of(path: Path, field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise MappingError(f"{path}: {field} is {value!r}; allowed are {', '.join(allowed)}")
