"""Compiled kernels where Numba is there, the same functions in plain Python where it is not.

A kernel is one loop over a batch's events in time order. Both forms run the same code, so they give the same
numbers; the plain one is about a hundred times slower and is there so that nothing depends on a compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

try:
    import numba
except ImportError:  # pragma: no cover - the tests run both forms through `plain`
    numba = None

#: Whether kernels are compiled in this process.
COMPILED = numba is not None


def kernel(function: F) -> F:
    """Compile ``function``; ``plain(function)`` gives the function that was written."""
    if numba is None:
        return function
    compiled: F = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    return compiled


def plain(function: F) -> F:
    """The Python function behind a kernel."""
    found: F = getattr(function, "py_func", function)
    return found
