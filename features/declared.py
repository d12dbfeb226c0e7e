"""From a scenario's ``[features]`` table to a plan: families are found by themselves, errors name the entry.

A family says what it is called in TOML in one constant of its class, ``DECLARED``; its fields are what an
entry may say. A module of ``features.families`` is enough: nothing else has to know of it.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib import import_module
from typing import Annotated, Any

import msgspec

from features import families as package
from features.defaults import DEFAULT
from features.errors import FeaturesError
from features.family import Family
from features.plan import Plan
from features.scope import Scope, kinds_of

WHERE = "features"


class Settings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What families share.

    ``session_gap_s``: a longer pause of a user begins a new session. ``smoothing``: impressions that a rate's
    parent is worth, where an entry says nothing else. ``sale_starts_at``: milliseconds UTC, or in TOML a time
    with an offset.
    """

    session_gap_s: Annotated[float, msgspec.Meta(gt=0.0, le=1e9)] = 1800.0
    smoothing: Annotated[float, msgspec.Meta(gt=0.0, le=1e6)] = 20.0
    sale_starts_at: Annotated[int, msgspec.Meta(ge=0)] | None = None


@cache
def kinds_of_families() -> dict[str, type[Any]]:
    """Every family by its name in TOML."""
    found: dict[str, type[Any]] = {}
    for module in pkgutil.iter_modules(package.__path__):
        for one in vars(import_module(f"{package.__name__}.{module.name}")).values():
            if isinstance(one, type) and issubclass(one, msgspec.Struct) and hasattr(one, "DECLARED"):
                found[one.DECLARED] = one
    return found


def plan_from(table: Mapping[str, Any], actions: Sequence[str]) -> Plan:
    """The plan of a ``[features]`` table as TOML gives it; without a family in it, that of the defaults.

    Raises ``FeaturesError``, which names the entry and what is allowed.

    >>> plan = plan_from({"counts": [{"keys": ["item_id"], "half_lives_s": [60]}]}, ["click"])
    >>> plan.names
    ['item_id.click/impression.60s', 'item_id.impression.60s']
    """
    known = kinds_of_families()
    entries = {name: value for name, value in table.items() if name not in Settings.__struct_fields__}
    for name in entries:
        if name not in known:
            allowed = ", ".join((*sorted(known), *Settings.__struct_fields__))
            raise FeaturesError(f"{WHERE}.{name}: there is no such family or setting; allowed are {allowed}")
    settings = _settings({name: value for name, value in table.items() if name not in entries})
    families = _families(entries, known) if entries else default_families()
    named = [kind for where, family in families for kind in _kinds(family, where)]
    derived = frozenset(column for _, family in families for column in provided(family))
    scope = Scope(
        kinds=kinds_of(actions, named),
        actions=tuple(actions),
        gap_s=settings.session_gap_s,
        smoothing=settings.smoothing,
        sale_starts_at=settings.sale_starts_at,
        derived=derived,
    )
    return Plan(families, scope)


def default_families() -> list[tuple[str, Family]]:
    """What is computed where a scenario declares no family: good for flash sales and for lists."""
    return _families(DEFAULT, kinds_of_families())


def provided(family: Family) -> tuple[str, ...]:
    """The key columns that a family works out."""
    columns: tuple[str, ...] = getattr(family, "provides", tuple)()
    return columns


def _settings(table: Mapping[str, Any]) -> Settings:
    values = dict(table)
    starts = values.get("sale_starts_at")
    if isinstance(starts, datetime):
        if starts.tzinfo is None:
            raise FeaturesError(f"{WHERE}.sale_starts_at: needs an offset, as in 2026-11-11T00:00:00+08:00")
        values["sale_starts_at"] = round(starts.timestamp() * 1000)
    settings: Settings = _convert(values, Settings, WHERE)
    return settings


def _families(table: Mapping[str, Any], known: Mapping[str, type[Any]]) -> list[tuple[str, Family]]:
    found: list[tuple[str, Family]] = []
    for name, entries in table.items():
        if isinstance(entries, Mapping):
            entries = [entries]
        if not isinstance(entries, Sequence) or isinstance(entries, str):
            raise FeaturesError(f"{WHERE}.{name}: must be tables, written as [[{WHERE}.{name}]]")
        for number, entry in enumerate(entries):
            where = f"{WHERE}.{name}[{number}]"
            found.append((where, _convert(entry, known[name], where)))
    return found


def _convert(entry: Any, kind: type[Any], where: str) -> Any:
    try:
        return msgspec.convert(entry, kind)
    except msgspec.ValidationError as error:
        said, _, place = str(error).partition(" - at `$")
        unknown = re.search(r"unknown field `(.*?)`", said)
        if unknown:
            fields = ", ".join(field.encode_name for field in msgspec.structs.fields(kind)) or "none"
            raise FeaturesError(f"{where}.{unknown[1]}: no such setting; allowed are {fields}") from None
        raise FeaturesError(f"{where}{place.rstrip('`')}: {said}") from None


def _kinds(family: Family, where: str) -> tuple[str, ...]:
    kinds = family.kinds()
    if not all(kinds):
        raise FeaturesError(f"{where}: a kind of events has no name")
    return kinds
