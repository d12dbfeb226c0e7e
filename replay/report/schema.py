"""The figures of an evaluation: plain data, what ``surgeline evaluate --json`` writes and the page reads.

Figures are progressive: every prediction was made before its label was learned. ``None`` stands where a
figure is undefined (AUC needs both a click and an impression without one).
"""

from __future__ import annotations

import msgspec

from contracts.feature_worth import FeatureWorth

SCHEMA_VERSION = 1


class Interval(msgspec.Struct, kw_only=True, frozen=True):
    """A bootstrap confidence interval."""

    low: float
    high: float


class Figures(msgspec.Struct, kw_only=True, frozen=True):
    """``auc`` exact, ties count half; ``log_loss`` in nats; ``pcoc``: predicted over observed clicks."""

    auc: float | None
    log_loss: float | None
    pcoc: float | None


class Estimate(msgspec.Struct, kw_only=True):
    """Figures with confidence intervals; ``difference``: this minus the frozen head, paired."""

    figures: Figures
    auc: Interval | None = None
    log_loss: Interval | None = None
    pcoc: Interval | None = None
    auc_difference: float | None = None
    auc_difference_interval: Interval | None = None
    log_loss_difference: float | None = None
    log_loss_difference_interval: Interval | None = None


class LearnerRow(msgspec.Struct, kw_only=True):
    """One learner over all rows. ``mrr``: mean reciprocal rank of the clicked item in its list.

    ``binned_auc`` is what the worker itself shows; None for the truth, and where rows were left out.
    """

    name: str
    estimate: Estimate
    mrr: float | None = None
    binned_auc: float | None = None


class SegmentRow(msgspec.Struct, kw_only=True):
    """One value of a segment. ``auc_over_time``: coarse buckets of equal width over the whole log."""

    value: str
    samples: int
    positives: int
    learners: dict[str, Figures]
    auc_over_time: dict[str, list[float | None]]
    log_loss_over_time: dict[str, list[float | None]]


class Segment(msgspec.Struct, kw_only=True):
    """Rows by the values of one column; ``meaning`` says where the column comes from."""

    name: str
    meaning: str
    rows: list[SegmentRow]


class TimeLine(msgspec.Struct, kw_only=True):
    """Figures by bucket of event time; ``start_ms`` of each non-empty bucket, lists aligned to it.

    ``predicted``: sum of predictions, so that predicted over impressions is the predicted click rate.
    """

    bucket_s: float
    start_ms: list[int]
    impressions: list[int]
    clicks: list[int]
    predicted: dict[str, list[float]]
    auc: dict[str, list[float | None]]
    log_loss: dict[str, list[float | None]]


class ReliabilityBin(msgspec.Struct, kw_only=True, frozen=True):
    """Samples of similar predictions: mean prediction and observed click rate."""

    samples: int
    predicted: float
    observed: float


class HotItem(msgspec.Struct, kw_only=True):
    """One of the most clicked items; lists are aligned to the timeline's buckets."""

    item_id: str
    impressions: list[int]
    clicks: list[int]


class Difference(msgspec.Struct, kw_only=True, frozen=True):
    """This minus another column called ``to``, on the same rows, paired under the same draws."""

    to: str
    auc: float | None
    log_loss: float | None
    auc_interval: Interval | None
    log_loss_interval: Interval | None


class CadenceArm(msgspec.Struct, kw_only=True):
    """The learned head where serving gets new weights every ``every_s`` only; None: never (frozen).

    ``step``: what the change from the arm before it in the list is worth; None for the first.
    """

    name: str
    every_s: float | None
    estimate: Estimate
    step: Difference | None = None


class ExpertWeights(msgspec.Struct, kw_only=True, frozen=True):
    """What a mixture of the learners would weigh each by in the timeline's bucket that starts ``at`` (ms).

    They come from losses before that bucket alone, and sum to 1.
    """

    at: int
    weights: dict[str, float]


class Bootstrap(msgspec.Struct, kw_only=True, frozen=True):
    """How intervals were made."""

    unit: str
    units: int
    groups: int
    replicates: int
    level: float
    seed: int


class Fitted(msgspec.Struct, kw_only=True, frozen=True):
    """What the trunk was fitted to, and how many of the evaluated ``rows`` lie in that time.

    ``first_ms`` and ``last_ms``: its first and last impression, ms UTC. ``same_log``: whether the log that
    is evaluated has the name of the one that it was fitted to.
    """

    log: str
    first_ms: int
    last_ms: int
    rows: int
    share: float
    same_log: bool


class Run(msgspec.Struct, kw_only=True):
    """What was run, on what, and how to run it again.

    ``trunk_fitted`` is None where the trunk does not say what it was fitted to.
    """

    log: str
    command: str
    version: str
    python: str
    scenario: str
    scenario_sha256: str
    trunk_hash: str
    trunk_trained_on: str
    weights_digest: str
    from_ms: int | None
    warm: bool
    first_ms: int | None
    last_ms: int | None
    seconds: float
    training_seconds: float
    trunk_fitted: Fitted | None = None


class Counts(msgspec.Struct, kw_only=True):
    """What the engine counted; ``rows`` are the samples that figures are made of.

    ``refused_rows``: rows of the source that are no events; ``refused_events``: what a worker would send
    to the dead-letter topic.
    """

    events: int
    impressions: int
    actions: dict[str, int]
    behaviours: int = 0
    samples: int
    positives: int
    rows: int
    row_positives: int
    refused_rows: int
    refused_events: int
    duplicates: int
    orphans_waiting: int
    orphans_expired: int
    actions_after_label: int
    late: int
    ticks: int
    users: int
    items: int


class Lists(msgspec.Struct, kw_only=True):
    """Rows that share a request: how many lists have a click, and the MRR of their logged order."""

    lists: int
    lists_with_click: int
    mrr_by_position: float | None


class Evaluation(msgspec.Struct, kw_only=True):
    """Everything that one evaluation found."""

    schema_version: int = SCHEMA_VERSION
    run: Run
    counts: Counts
    champion: str
    learners: list[LearnerRow]
    lists: Lists | None
    segments: list[Segment]
    timeline: TimeLine
    reliability: dict[str, list[ReliabilityBin]]
    hot_items: list[HotItem]
    cadence: list[CadenceArm]
    bootstrap: Bootstrap | None
    notes: list[str]
    expert_weights: list[ExpertWeights] = []
    #: As ``timeline``, in buckets that are wide enough for clicks: AUC and log loss over time.
    quality: TimeLine | None = None
    #: Every real-time feature's worth to the champion's head, over the rows' samples.
    features: list[FeatureWorth] = []
