"""In which order a plan's blocks and families run, so that each finds what it needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from features.errors import FeaturesError
from features.family import Family
from features.passes import Block
from features.scope import Scope


def is_family(step: Any) -> bool:
    """Whether a step of ``ordered`` is a family, not a block."""
    return hasattr(step, "compute")


def united(blocks: Iterable[Block]) -> dict[Block, Block]:
    """The blocks that run for others: those of one type and key that can be united."""
    groups: dict[Any, list[Block]] = {}
    for block in dict.fromkeys(blocks):
        if hasattr(block, "unite"):
            groups.setdefault((type(block), block.key), []).append(block)
    found: dict[Block, Block] = {}
    for (kind, _), members in groups.items():
        found |= dict.fromkeys(members, kind.unite(members))
    return found


def ordered(
    families: Sequence[Family], scope: Scope, runs: Mapping[Block, Block], gives: Mapping[str, Family]
) -> list[Any]:
    """Blocks and families so that what one needs comes before it; ``runs`` as of ``united``.

    ``gives``: which family a feature is of. Raises ``FeaturesError`` where two need each other.
    """
    provider = {column: family for family in families for column in getattr(family, "provides", tuple)()}
    order: list[Any] = []
    done: set[Any] = set()
    waiting: list[Any] = []

    def put(step: Any) -> None:
        step = runs.get(step, step)
        if step in done:
            return
        if step in waiting:
            raise FeaturesError(f"{step!r} needs what is worked out from it")
        waiting.append(step)
        if is_family(step):
            for column in getattr(step, "reads_columns", lambda scope: ())(scope):
                put(gives[column])
            for column in getattr(step, "reads_keys", tuple)():
                if column in provider:
                    put(provider[column])
            for block in step.blocks(scope):
                put(block)
        else:
            for before in step.needs():
                put(before)
            for column in step.key:
                if column in provider:
                    put(provider[column])
        waiting.remove(step)
        done.add(step)
        order.append(step)

    for family in families:
        put(family)
    return order
