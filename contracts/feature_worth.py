"""What a real-time feature is worth, as reports, the live page and the command line show it."""

from __future__ import annotations

import msgspec


class FeatureWorth(msgspec.Struct, kw_only=True, frozen=True):
    """One feature, None where undefined.

    ``known``: the share of samples in which it is not its neutral value. ``auc``: of the feature alone, from
    binned values: below 0.5 where clicks go with small values. ``gain_share``: how much the log loss grows
    where the head gets the feature's mean instead, as a share of what all features' growths add up to;
    features that stand in for each other share little each. The hidden layer is left as it is.
    """

    name: str
    known: float | None
    auc: float | None
    gain_share: float | None
