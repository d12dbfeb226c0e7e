"""What a request is scored with: one immutable merge of every source's weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from contracts.weights import Watermarks, Weights
from models.online.bayes import merge
from serving.admission import TASK


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Weights of all sources and their merged head; never changed, only replaced.

    ``mean`` is float64 (p,) over the vector that heads see; None before any weights came.
    """

    sources: Mapping[str, Weights]
    versions: dict[str, int]
    version: int
    mean: npt.NDArray[np.float64] | None
    watermarks: Watermarks | None
    created_at: int | None


EMPTY = Snapshot(MappingProxyType({}), {}, 0, None, None, None)


def combine(sources: Mapping[str, Weights]) -> Snapshot:
    """Merge ``sources``: the Gaussian posteriors multiply, watermarks are the smallest.

    Raises ``ValueError`` or ``ArithmeticError`` where the heads do not merge to finite numbers.
    """
    if not sources:
        return EMPTY
    # Sorted: floating sums depend on the order, and two scorers should agree to the last bit.
    ordered = [sources[name] for name in sorted(sources)]
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
        mean = np.array(merge([weights.heads[TASK] for weights in ordered])[0], dtype=np.float64)
    if not np.isfinite(mean).all():
        raise ArithmeticError("the merged mean is not finite")
    mean.setflags(write=False)
    return Snapshot(
        sources=MappingProxyType(dict(sources)),
        versions={weights.source: weights.version for weights in ordered},
        version=sum(weights.version for weights in ordered),
        mean=mean,
        watermarks=Watermarks(
            features=min(weights.watermarks.features for weights in ordered),
            labels=min(weights.watermarks.labels for weights in ordered),
        ),
        created_at=max(weights.created_at for weights in ordered),
    )
