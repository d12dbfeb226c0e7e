"""Which trunk a process runs with: one rule for the worker, the scorer and the rehearsal."""

from __future__ import annotations

import logging
from pathlib import Path

from models.deep.load import load_trunk
from models.deep.trunk import Trunk

log = logging.getLogger(__name__)

DEFAULT_FOLDER = "trunk"


def resolve_trunk(scenario_trunk: str, home: Path) -> Trunk:
    """The trunk that the scenario names, else ``home/trunk``, else none at all (with a warning).

    Raises ``TrunkError`` for a folder that is named or found but cannot be used: running without it would
    publish, or refuse, every version of weights.
    """
    if scenario_trunk:
        return load_trunk(scenario_trunk)
    folder = home / DEFAULT_FOLDER
    if folder.exists():
        return load_trunk(folder)
    log.warning(
        "no trunk: the scenario names none and %s does not exist; only real-time features are used. "
        "Train one with `surgeline train LOG`.",
        folder,
    )
    return Trunk.empty()
