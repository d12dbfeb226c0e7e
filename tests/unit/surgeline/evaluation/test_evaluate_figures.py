"""Fails when a figure is not what its definition says: AUC, log loss, PCOC, MRR, their groups, intervals."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from surgeline.evaluation.figures import Scored
from surgeline.evaluation.groups import MOST_BUCKETS, buckets, groupings
from surgeline.evaluation.resample import Resampler, estimate


def drawn(seed: int, n: int = 400, distinct: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with ties, labels that follow them, and four groups."""
    rng = np.random.default_rng(seed)
    scores = (rng.integers(1, distinct, n) / (distinct + 1)).astype(np.float32)
    return scores, rng.random(n) < scores, rng.integers(0, 4, n)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2, 5, 30, 1000]))
def test_figures_are_those_of_scikit_learn_in_every_group(seed: int, distinct: int) -> None:
    scores, clicked, groups = drawn(seed, distinct=distinct)
    found = Scored(scores, clicked).by(groups, 4)
    for group, figures in enumerate(found):
        here = groups == group
        y, s = clicked[here], scores[here].astype(np.float64)
        expected = roc_auc_score(y, s) if 0 < y.sum() < len(y) else None
        assert figures.auc == (pytest.approx(expected, abs=1e-12) if expected is not None else None)
        assert figures.log_loss == pytest.approx(log_loss(y, s, labels=[False, True]), abs=1e-9)
        assert figures.pcoc == (pytest.approx(s.sum() / y.sum()) if y.any() else None)


def test_undefined_figures_are_none() -> None:
    nothing = Scored(np.empty(0, np.float32), np.empty(0, bool)).figures()
    assert (nothing.auc, nothing.log_loss, nothing.pcoc) == (None, None, None)
    no_click = Scored(np.array([0.5, 0.25], np.float32), np.array([False, False])).figures()
    assert (no_click.auc, no_click.pcoc) == (None, None)
    assert no_click.log_loss is not None


def test_certain_and_wrong_costs_no_infinity() -> None:
    figures = Scored(np.array([0.0, 1.0], np.float32), np.array([True, False])).figures()
    assert figures.log_loss is not None and np.isfinite(figures.log_loss)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_mrr_is_the_mean_over_lists_with_a_click(seed: int) -> None:
    """Against a loop; a list of one item or without a click does not count, ties share their places."""
    rng = np.random.default_rng(seed)
    lists = np.sort(rng.integers(0, 30, 80))
    scores = (rng.integers(1, 5, 80) / 8).astype(np.float32)
    clicked = rng.random(80) < 0.2
    expected = []
    for k in range(30):
        s, y = scores[lists == k], clicked[lists == k]
        if len(s) < 2 or not y.any():
            continue
        best = s[y].max()
        equal, hits = (s == best).sum(), (y & (s == best)).sum()
        expected.append(1.0 / ((s > best).sum() + (equal + 1) / (hits + 1)))
    order = rng.permutation(80)
    found = Scored(scores[order], clicked[order]).mrr(lists[order], 30)
    assert found == (pytest.approx(np.mean(expected)) if expected else None)


def test_time_buckets_are_never_too_many_and_hold_every_row() -> None:
    for span_s in (0, 5, 700, 100_000, 40_000_000, 4_000_000_000):
        times = np.linspace(1_700_000_000_000, 1_700_000_000_000 + span_s * 1000, 500).astype(np.int64)
        found = buckets(times)
        assert 1 <= len(found.start_ms) <= MOST_BUCKETS
        starts = np.array(found.start_ms)[found.codes]
        assert ((starts <= times) & (times < starts + found.width_s * 1000)).all()


def test_segments_hold_every_row_once_and_few_values() -> None:
    n = 1000
    rows = pl.DataFrame(
        {
            "position": np.arange(n) % 40,
            "item_seen": np.arange(n),
            "category_id": [f"c{k % 25}" for k in range(n)],
            "context_device": ["phone" if k % 3 else "" for k in range(n)],
            "context_id": [str(k) for k in range(n)],
            "hot": [k % 50 == 0 for k in range(n)],
        }
    )
    found = {cut.name: cut for cut in groupings(rows)}
    assert list(found) == ["position", "item history", "category", "device", "hot"]
    for cut in found.values():
        assert cut.codes.min() == 0 and cut.codes.max() == len(cut.values) - 1
    assert found["category"].values[-1] == "other (17)"
    assert set(found["device"].values) == {"phone", "(empty)"}
    assert np.bincount(found["item history"].codes).tolist() == [1, 9, 90, 900]


def test_intervals_find_the_better_of_two_and_leave_equals_alone() -> None:
    """Paired by user: a true gain is seen although users differ by more than the gain."""
    rng = np.random.default_rng(3)
    users = rng.integers(0, 300, 9000)
    logit = rng.normal(-1, 1, 300)[users] + rng.normal(0, 1, 9000)
    clicked = rng.random(9000) < 1 / (1 + np.exp(-logit))
    good = (1 / (1 + np.exp(-logit))).astype(np.float32)
    poor = (1 / (1 + np.exp(-logit - rng.normal(0, 1, 9000)))).astype(np.float32)
    resampler = Resampler(users, 300, clicked, seed=1)
    scored = {"good": Scored(good, clicked), "poor": Scored(poor, clicked)}
    draws = {name: resampler.draws(column) for name, column in scored.items()}
    gain = estimate(scored["good"].figures(), draws["good"], scored["poor"].figures(), draws["poor"])
    assert gain.auc_difference_interval is not None and gain.auc_difference_interval.low > 0
    assert gain.log_loss_difference_interval is not None and gain.log_loss_difference_interval.high < 0
    assert gain.auc is not None and gain.figures.auc is not None
    assert gain.auc.low < gain.figures.auc < gain.auc.high
    same = estimate(scored["good"].figures(), draws["good"], scored["good"].figures(), draws["good"])
    assert same.auc_difference_interval is not None
    assert same.auc_difference_interval.low == same.auc_difference_interval.high == 0.0


def test_equal_seeds_give_equal_intervals() -> None:
    scores, clicked, users = drawn(2)
    users = np.arange(len(users)) % 50
    found = [Resampler(users, 50, clicked, seed=4).draws(Scored(scores, clicked))["auc"] for _ in range(2)]
    assert (found[0] == found[1]).all()
    # Binned by quantiles of 30 distinct values: exact, so the draws surround the figure.
    assert found[0].mean() == pytest.approx(roc_auc_score(clicked, scores), abs=0.02)
