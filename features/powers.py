"""Powers of two with the same bits on every machine, compiled or not: only additions and products.

``2 ** x = 2 ** whole * 2 ** (i / 64) * 2 ** r`` with ``|r| <= 1 / 128``: two tables, and a polynomial of
degree five whose first term left out is 4e-18 of the value. Exact for whole numbers, else within 4e-16 of the
value, as a share of it.
"""

from __future__ import annotations

import decimal
import math

import numpy as np

from features.compiled import kernel

#: 2 ** -1022 is the smallest number that has all its digits, 2 ** 1023 the largest power.
LEAST, MOST = -1022, 1023
PARTS = 64
_WHOLE = np.array([math.ldexp(1.0, k) for k in range(LEAST, MOST + 1)])
# In decimals, since a library's pow need not round correctly.
with decimal.localcontext(prec=40):
    _PART = np.array([float(decimal.Decimal(2) ** (decimal.Decimal(i) / PARTS)) for i in range(PARTS)])
# ln(2) ** k / k!
_C1, _C2, _C3 = 0.6931471805599453, 0.24022650695910072, 0.05550410866482158
_C4, _C5 = 0.009618129107628477, 0.0013333558146428443


@kernel
def power_of_two(x):  # type: ignore[no-untyped-def]
    """2 ** x: 0 where x is below ``LEAST``; x is ``MOST`` at most."""
    if x < -1022.0:
        return 0.0
    part = math.floor(x * 64.0 + 0.5)
    r = x - part * 0.015625
    tail = r * (_C1 + r * (_C2 + r * (_C3 + r * (_C4 + r * _C5))))
    # Whole powers scale without rounding.
    return (_PART[part & 63] + _PART[part & 63] * tail) * _WHOLE[(part >> 6) + 1022]
