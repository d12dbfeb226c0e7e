"""The reference of every family, and a world of those of a plan.

A module ``reference_*`` with a ``REFERENCES`` and an ``ENTRIES`` of its own is enough for a new family.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Any

import tests.unit.features as package
from features.plan import Plan
from tests.unit.features.reference import Reference, World
from tests.unit.features.reference_items import (
    CountsReference,
    CrossingReference,
    ListReference,
    PlaceReference,
    PriceReference,
    StockReference,
)
from tests.unit.features.reference_users import (
    HabitReference,
    PreviousReference,
    RecencyReference,
    SequenceReference,
    SessionReference,
    TouchedReference,
)

#: By the family's name in TOML.
REFERENCES: dict[str, type[Reference]] = {
    "counts": CountsReference,
    "recency": RecencyReference,
    "session": SessionReference,
    "touched": TouchedReference,
    "price": PriceReference,
    "place": PlaceReference,
    "list": ListReference,
    "stock": StockReference,
    "habit": HabitReference,
    "previous": PreviousReference,
    "sequence": SequenceReference,
    "crossing": CrossingReference,
}

#: What modules of new families bring: entries by case, see ``test_families``.
ENTRIES: dict[str, list[dict[str, Any]]] = {}
for _module in pkgutil.iter_modules(package.__path__):
    if _module.name.startswith("reference_"):
        _found = import_module(f"{package.__name__}.{_module.name}")
        REFERENCES |= getattr(_found, "REFERENCES", {})
        ENTRIES |= getattr(_found, "ENTRIES", {})


def world_of(plan: Plan) -> World:
    """All families of a plan, event by event."""
    return World(plan.families, plan.scope, REFERENCES)
