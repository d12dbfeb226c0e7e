"""The reference of every family, and a world of those of a plan."""

from __future__ import annotations

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


def world_of(plan: Plan) -> World:
    """All families of a plan, event by event."""
    return World(plan.families, plan.scope, REFERENCES)
