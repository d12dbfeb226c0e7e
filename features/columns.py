"""From what events and requests say to columns of keys, the same for the worker and for serving."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from features.hashing import Keys, hash_numbers, hash_texts
from features.scope import CONTEXT

Context = Mapping[str, str] | None


def key_matrix(
    names: Sequence[str],
    n: int,
    texts: Mapping[str, Callable[[], Sequence[str]]],
    contexts: Sequence[Context],
    places: Sequence[int] | None = None,
) -> Keys:
    """The columns ``names`` of n events, (n, columns) uint64; 0 where an event has no such thing.

    ``texts``: how to get a column of ids, asked for once where it is needed. ``places``: positions in lists.
    A ``query`` that is no column of its own is looked for in the contexts. Columns that a plan works out are
    left 0.
    """
    found = np.zeros((n, len(names)), dtype=np.uint64)
    for column, name in enumerate(names):
        if name in texts:
            found[:, column] = hash_texts(texts[name]())
        elif name == "position":
            if places is not None:
                found[:, column] = hash_numbers(np.asarray(places, dtype=np.int64))
        elif name.startswith(CONTEXT) or name == "query":
            field = name.removeprefix(CONTEXT)
            found[:, column] = hash_texts([(context or {}).get(field, "") for context in contexts])
    return found
