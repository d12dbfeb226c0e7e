"""Events that are nothing but names, for tests of what buffers and orders them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stream.event_columns import Columns, Layout

LAYOUTS = [Layout(kind, ()) for kind in range(3)]


def named(names: Sequence[Any]) -> Columns:
    """One event a name, which may be anything."""
    n = len(names)
    return Columns(
        ids=np.fromiter(names, dtype=object, count=n),
        keys=np.empty((n, 0), dtype=np.uint64),
        numbers=np.empty((n, 0)),
        codes=np.zeros(n, dtype=np.int16),
    )


def names(events: Columns) -> list[Any]:
    """The names of events."""
    found: list[Any] = events.ids.tolist()
    return found
