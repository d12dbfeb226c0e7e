"""What a block of the simulated night showed: the columns that its makers hand to each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(slots=True)
class Shown:
    """N impressions of a block in order; ``t_ms`` after the start, ``request`` runs over the stream.

    ``stock``: units left when the block began, -1 where there are plenty. ``interest``: of the session.
    """

    serial: np.ndarray
    t_ms: np.ndarray
    t: np.ndarray
    user: np.ndarray
    item: np.ndarray
    position: np.ndarray
    channel: np.ndarray
    request: np.ndarray
    price: np.ndarray
    stock: np.ndarray
    interest: np.ndarray
