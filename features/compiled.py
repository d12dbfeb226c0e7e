"""Compiled kernels where Numba is there, the same functions in plain Python where it is not.

A kernel is one loop over a batch's events in time order. Both forms run the same operations in the same
order, so they give the same bits; the plain one is about a hundred times slower, and is there so that nothing
depends on a compiler. ``SURGELINE_KERNELS=plain`` in the environment asks for it.

Kernels call no ``exp``, ``log`` or ``pow``: a compiler and an interpreter may take them from different
libraries. Powers of two come from ``features.powers``, logarithms are taken by NumPy outside.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

VARIABLE = "SURGELINE_KERNELS"
PLAIN = "plain"

_njit: Any = None
if os.environ.get(VARIABLE) != PLAIN:
    with suppress(ImportError):
        _njit = import_module("numba").njit

#: Whether kernels are compiled in this process.
COMPILED = _njit is not None


def kernel(function: F) -> F:
    """Compile ``function`` at its first call; ``plain(function)`` gives the function that was written.

    Machine code is kept beside the source or in the user's cache, and made anew in every process where
    neither can be written.
    """
    if _njit is None:
        return function
    settings = {"nogil": True, "error_model": "numpy"}
    try:
        compiled: F = _njit(cache=True, **settings)(function)
    except RuntimeError:
        compiled = _njit(**settings)(function)
    return compiled


def plain(function: F) -> F:
    """The Python function behind a kernel."""
    found: F = getattr(function, "py_func", function)
    return found
