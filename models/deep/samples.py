"""From labelled impressions to what a trunk may read: which columns are worth it, and how they are scaled."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from features.hashing import Keys
from models.deep.fields import CONTEXT, Columns, hours, keys, position_buckets

Float32Array = npt.NDArray[np.float32]

#: Columns of ids beside context.
ID_FIELDS: tuple[str, ...] = ("user_id", "item_id", "category_id", "shop_id")
#: Ids seen less often than this while training share the unknown row, and so do those that would have fewer
#: clicks at the base rate: one click would be learned by heart.
MIN_COUNT, MIN_CLICKS = 10, 2.0
#: But an id with this many impressions has a row, however rare clicks are.
MAX_MIN_COUNT = 100
#: Context keys with values in at least this share of the rows are read, the most frequent ones first.
MIN_CONTEXT_SHARE = 0.01
MAX_CONTEXT_KEYS = 16
#: The hour is read only from logs this long: in a shorter one it tells the date, not the time of day.
MIN_HOUR_SPAN_MS = 2 * 86_400_000
#: What varies less than this is a constant.
LEAST_SPREAD = 1e-6


def _none() -> Float32Array:
    return np.zeros((0, 0), dtype=np.float32)


@dataclass(frozen=True)
class Samples:
    """``n`` labelled impressions by time.

    ``columns`` as in ``Trunk.hidden``; ``clicked`` (n,) bool. ``features`` (n, q) float32: real-time features
    as of each impression, in the order of ``feature_names``, of the plan with ``features_hash``; all three
    may be left out. Raises ``ValueError`` where they do not fit together.
    """

    columns: Columns
    clicked: npt.NDArray[np.bool_]
    features: Float32Array = field(default_factory=_none)
    feature_names: tuple[str, ...] = ()
    features_hash: str = ""

    def __post_init__(self) -> None:
        if self.feature_names and self.features.shape != (len(self.clicked), len(self.feature_names)):
            raise ValueError(
                f"features are {self.features.shape} for {len(self.clicked)} impressions and "
                f"{len(self.feature_names)} names"
            )
        if not np.isfinite(self.features).all():
            raise ValueError("features must be finite: a plan gives the neutral value for what is not known")

    def __len__(self) -> int:
        return len(self.clicked)

    def slice(self, start: int, stop: int) -> Samples:
        """Rows ``start`` to ``stop``."""
        return Samples(
            {name: values[start:stop] for name, values in self.columns.items()},
            self.clicked[start:stop],
            self.features[start:stop],
            self.feature_names,
            self.features_hash,
        )

    def of_ids(self) -> Samples:
        """Without real-time features: for a trunk that reads ids, context and place alone."""
        return Samples(self.columns, self.clicked)

    def held_out(self, share: float) -> tuple[Samples, Samples]:
        """All but the newest ``share`` of the rows, and those; all rows twice where there is only one."""
        n = len(self)
        head = n - max(1, int(n * share)) if n > 1 else n
        train = self.slice(0, head)
        return train, self.slice(head, n) if head < n else train

    @property
    def base_rate(self) -> float:
        """Clicks an impression, with one pseudo-click, so that its log odds are finite."""
        return float((self.clicked.sum() + 1.0) / (len(self) + 2.0))


@dataclass(frozen=True)
class Scaling:
    """Mean and deviation of columns of numbers; a constant column has scale 1."""

    mean: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]


def scaling(numbers: npt.NDArray[np.floating]) -> Scaling:
    """The scaling of each column of ``numbers`` (n, q).

    >>> found = scaling(np.array([[1.0, 5.0], [3.0, 5.0]]))
    >>> found.mean.tolist(), found.scale.tolist()
    ([2.0, 5.0], [1.0, 1.0])
    """
    if not len(numbers):
        return Scaling(np.zeros(numbers.shape[1]), np.ones(numbers.shape[1]))
    scale = numbers.std(axis=0, dtype=np.float64)
    return Scaling(numbers.mean(axis=0, dtype=np.float64), np.where(scale > LEAST_SPREAD, scale, 1.0))


def frequent_ids(samples: Samples) -> dict[str, Keys]:
    """Fields of ids that can teach something, with the keys that were seen often enough, in order."""
    columns, n = samples.columns, len(samples)
    least = max(MIN_COUNT, min(MIN_CLICKS / samples.base_rate, MAX_MIN_COUNT))
    found: dict[str, Keys] = {}
    for name in (*(f for f in ID_FIELDS if f in columns), *_context_fields(columns, n)):
        values, counts = np.unique(keys(columns, name, n), return_counts=True)
        frequent = values[(values != 0) & (counts >= least)]
        if len(frequent) and len(values) > 1:
            found[name] = frequent
    return found


def varying_numbers(samples: Samples) -> list[str]:
    """Which of ``position``, ``hour`` and ``price`` can teach something."""
    columns = samples.columns
    found = []
    if "position" in columns and len(np.unique(position_buckets(columns["position"]))) > 1:
        found.append("position")
    times = np.asarray(columns.get("event_time", ()), dtype=np.int64)
    if len(times) and times.max() - times.min() >= MIN_HOUR_SPAN_MS and len(np.unique(hours(times))) > 1:
        found.append("hour")
    if "price" in columns and log_prices(columns).std() > LEAST_SPREAD:
        found.append("price")
    return found


def log_prices(columns: Columns) -> npt.NDArray[np.float64]:
    """log(1 + price) (n,); an unknown price counts as 0."""
    prices: npt.NDArray[np.float64] = np.log1p(np.nan_to_num(np.asarray(columns["price"], dtype=np.float64)))
    return prices


def _context_fields(columns: Columns, n: int) -> list[str]:
    """The context keys that have values most often, by name; only those that bring a column of their own
    where there is no column ``context``."""
    counts = {
        name: int(np.count_nonzero(keys(columns, name, n))) for name in columns if name.startswith(CONTEXT)
    }
    for context in columns.get("context", ()):
        for key, value in (context or {}).items():
            if value:
                name = CONTEXT + key
                counts[name] = counts.get(name, 0) + 1
    frequent = [name for name, count in counts.items() if count >= max(MIN_CONTEXT_SHARE * n, 1)]
    return sorted(sorted(frequent, key=lambda name: (-counts[name], name))[:MAX_CONTEXT_KEYS])
