"""Fails when the report loads anything, lets a log's own text into its markup, or breaks on odd figures."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from replay.report import tables
from replay.report.charts import arrivals, cadence, expert_weights, over_time
from replay.report.page import render
from replay.report.schema import (
    Bootstrap,
    CadenceArm,
    Counts,
    Difference,
    Estimate,
    Evaluation,
    ExpertWeights,
    Figures,
    HotItem,
    Interval,
    LearnerRow,
    Lists,
    ReliabilityBin,
    Run,
    Segment,
    SegmentRow,
    TimeLine,
)
from replay.report.svg import BOTTOM, HEIGHT, TOP, Scale, decades, line, ticks
from replay.report.text import clock, colours, duration, shortened

HOSTILE = '<script>alert("x")</script>&\'"'
T0 = 1_762_790_400_000
VOID = {"meta", "link", "br"}


def estimate(auc: float | None, gain: float | None = None) -> Estimate:
    sure = None if gain is None else Interval(low=gain - 0.01, high=gain + 0.01)
    return Estimate(
        figures=Figures(auc=auc, log_loss=0.3, pcoc=None if auc is None else 0.9),
        auc=None if auc is None else Interval(low=auc - 0.01, high=auc + 0.01),
        auc_difference=gain,
        auc_difference_interval=sure,
        log_loss_difference=None if gain is None else -gain,
        log_loss_difference_interval=sure,
    )


def evaluation(buckets: int = 6, auc: float | None = 0.7, name: str = HOSTILE) -> Evaluation:
    """An evaluation whose texts are all hostile; without an AUC it has no clicks either."""
    clicks = [0 if auc is None else 20] * buckets
    figures = Figures(auc=auc, log_loss=0.3, pcoc=None)
    learners = ["frozen", "last_layer", name]
    row = SegmentRow(
        value=name,
        samples=50,
        positives=5,
        learners=dict.fromkeys(learners, figures),
        auc_over_time={"frozen": [auc, None, auc], "last_layer": [None, None, auc]},
        log_loss_over_time={},
    )
    digest = "ab" * 32
    return Evaluation(
        run=Run(
            log=name,
            command=f"surgeline evaluate {name}",
            version="0.1.0",
            python="3.11",
            scenario=name,
            scenario_sha256="cd" * 32,
            trunk_hash="ef" * 32,
            trunk_trained_on=name,
            weights_digest=digest,
            from_ms=None,
            warm=False,
            first_ms=T0 if buckets else None,
            last_ms=T0 if buckets else None,
            seconds=1.0,
            training_seconds=0.0,
        ),
        counts=Counts(
            events=120,
            impressions=100,
            actions={"click": 20},
            samples=100,
            positives=sum(clicks),
            rows=100 * buckets,
            row_positives=sum(clicks),
            refused_rows=1,
            refused_events=2,
            duplicates=3,
            orphans_waiting=4,
            orphans_expired=5,
            actions_after_label=6,
            late=0,
            ticks=60,
            users=9,
            items=8,
        ),
        champion="last_layer",
        learners=[
            LearnerRow(name=n, estimate=estimate(auc, 0.05 if k and auc else None), mrr=0.5)
            for k, n in enumerate(learners)
        ],
        lists=Lists(lists=10, lists_with_click=5, mrr_by_position=0.4),
        segments=[Segment(name=name, meaning=name, rows=[row])],
        timeline=TimeLine(
            bucket_s=10.0,
            start_ms=[T0 + k * 10_000 for k in range(buckets)],
            impressions=[100] * buckets,
            clicks=clicks,
            predicted={n: [10.0] * buckets for n in learners},
            auc={n: [auc] * buckets for n in learners},
            log_loss={n: [0.3] * buckets for n in learners},
        ),
        reliability={n: [ReliabilityBin(samples=50, predicted=0.1, observed=0.0)] for n in learners},
        hot_items=[HotItem(item_id=name, impressions=[9] * buckets, clicks=clicks)],
        cadence=[
            CadenceArm(name="frozen", every_s=None, estimate=estimate(auc)),
            CadenceArm(
                name="30m",
                every_s=1800.0,
                estimate=estimate(auc, 0.04 if auc else None),
                step=Difference(
                    to="frozen", auc=None, log_loss=-0.5, auc_interval=None, log_loss_interval=None
                ),
            ),
        ],
        bootstrap=Bootstrap(unit="user", units=9, groups=9, replicates=10, level=0.95, seed=0),
        notes=[name],
        expert_weights=[
            ExpertWeights(at=T0 + k * 10_000, weights={"frozen": 0.25, "last_layer": 0.5, name: 0.25})
            for k in range(buckets)
        ],
    )


class Page(HTMLParser):
    """Elements, attributes and text; fails on an element that is not closed where it should be."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    page = Page(render(evaluation()))
    assert not {"script", "img", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    loads = [a for a in page.attributes if a[1] in ("src", "href", "xlink:href", "srcset", "action")]
    assert loads == [("link", "href", "data:,")]
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert "url(" not in page.text and "@import" not in page.text
    assert any(name == "content" and "default-src 'none'" in value for _, name, value in page.attributes)


def test_what_a_log_says_stays_text() -> None:
    html = render(evaluation())
    assert "<script" not in html and '"x"' not in html
    assert HOSTILE in Page(html).text


def test_the_page_says_what_was_run() -> None:
    found = evaluation(name="night")
    text = Page(render(found)).text
    for what in (
        found.run.weights_digest,
        found.run.scenario_sha256,
        found.run.trunk_hash,
        found.run.command,
    ):
        assert what in text
    for title in (
        "Arrivals",
        "Click rate",
        "Learners",
        "What fresh weights are worth",
        "Calibration",
        "Hot items",
        "AUC over time",
        "Log loss over time",
        "Segments",
        "Expert weights",
        "nothing is served with them yet",
    ):
        assert title in text


def test_expert_weights_are_stacked_to_the_top_and_optional() -> None:
    found = evaluation(3, name="night")
    names = ["frozen", "last_layer"]
    chart = expert_weights(found.timeline, found.expert_weights, names, colours(names))
    bands = re.findall(r'class="fill expert (l\d)" d="M([^"]*)Z"', chart)
    heights = {kind: {float(p.split()[1]) for p in path.split("L")} for kind, path in bands}
    bottom, top = HEIGHT - BOTTOM, TOP
    quarter, three = (round(bottom + share * (top - bottom), 1) for share in (0.25, 0.75))
    assert heights == {"l5": {bottom, quarter}, "l0": {quarter, three}}
    rows = re.findall(r"<tr>.*?</tr>", tables.experts(found, names, colours(names)))
    assert re.findall(r"<td>([^<]*)</td>", rows[1]) == ["0.250", "0.250", "0"]
    assert re.findall(r"<td>([^<]*)</td>", rows[2]) == ["0.500", "0.500", "3"]
    found.expert_weights = []
    assert "Expert weights" not in Page(render(found)).text


@pytest.mark.parametrize("buckets", [0, 1, 2, 90])
@pytest.mark.parametrize("auc", [None, 0.5, 1.0])
def test_odd_figures_still_make_a_page(buckets: int, auc: float | None) -> None:
    """No bucket, one bucket, no click: every number in the drawings is finite, every drawing parses."""
    html = render(evaluation(buckets, auc))
    drawings = re.findall(r"<svg.*?</svg>", html, flags=re.S)
    assert len(drawings) >= (7 if auc is None else 8)
    for drawing in drawings:
        ET.fromstring(drawing)
        assert "nan" not in drawing and "inf" not in drawing
    if auc is None:
        assert "–" in Page(html).text


def test_both_themes_and_small_screens_are_styled() -> None:
    html = render(evaluation())
    assert "prefers-color-scheme: dark" in html and "max-width: 480px" in html
    styled = set(re.findall(r"--([\w-]+):", html))
    assert set(re.findall(r"var\(--([\w-]+)\)", html)) <= styled


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.611, 0.612), (-3.0, 2e6), (5.0, 5.0)])
def test_ticks_are_few_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 1 <= len(found) <= 7
    assert all(low - 1e-9 <= t <= high + 1e-9 for t in found)
    assert found == sorted(set(found))


def test_decades_and_scales_of_rates() -> None:
    assert decades(0.004, 0.9) == [0.01, 0.03, 0.1, 0.3] or len(decades(0.004, 0.9)) <= 7
    scale = Scale(0.01, 1.0, 0.0, 100.0, log=True)
    assert scale.at(0.1) == pytest.approx(50.0)
    assert scale.at(0.0) == 0.0 and scale.at(2.0) == 100.0


def test_a_line_breaks_where_nothing_is_known() -> None:
    drawn = line([(0, 1.0), (1, 2.0), (2, None), (3, 4.0)], "l0")
    assert drawn.count("M") == 1 and "<circle" in drawn
    assert line([(0, None)], "l0") == ""


def test_a_pause_is_a_pause() -> None:
    """Fails when an hour without an event is drawn as the straight line between its neighbours."""
    found = evaluation(4, name="night").timeline
    width = int(found.bucket_s * 1000)
    found.start_ms = [T0, T0 + width, T0 + 101 * width, T0 + 102 * width]
    (flow,) = re.findall(r'class="line flow" d="M([^"]*)"', arrivals(found))
    heights = [float(p.split()[1]) for p in flow.split("L")]
    ground = HEIGHT - BOTTOM
    assert [y == ground for y in heights] == [False, False, True, True, False, False]
    lines = over_time(found, {"frozen": found.auc["frozen"]}, colours(["frozen"]), "AUC")
    assert re.findall(r'class="line l5" d="M', lines) == ['class="line l5" d="M'] * 2


def test_quality_over_time_is_drawn_in_its_own_steps() -> None:
    """Fails when a log with few clicks has empty charts although wider steps would show something."""
    found = evaluation(90, name="night")
    found.timeline.clicks = [3] * 90
    assert "Steps of 10 s" in Page(render(found)).text
    found.quality = evaluation(3, name="night").timeline
    found.quality.bucket_s = 300.0
    assert "Steps of 5 min" in Page(render(found)).text


def test_nothing_to_compare_is_not_drawn() -> None:
    """Fails when undefined gains get axes, or nothing gets a sign."""
    assert cadence(evaluation(auc=None).cadence, "auc") == ""
    even = CadenceArm(name="1s", every_s=1.0, estimate=estimate(0.7, 0.0))
    assert "\u22120.0000" not in cadence([even], "log_loss")


def test_names_and_times_stay_apart() -> None:
    """Fails when ids that differ at their end, or the same day of two years, read the same."""
    assert len({shortened(f"a-very-long-item-id-{k}", 13) for k in range(9)}) == 9
    assert all(len(shortened("x" * n, 13)) == min(n, 13) for n in (1, 12, 13, 14, 99))
    year = 365.25 * 86_400_000
    assert clock(T0, 3 * year) != clock(T0 + year, 3 * year)


def test_learners_keep_their_colours() -> None:
    assert colours(["frozen", "last_layer", "ftrl"]) == {"frozen": "l5", "last_layer": "l0", "ftrl": "l1"}
    many = colours(["last_layer", *(f"river_{k}" for k in range(9))])
    assert len(many) == 10
    assert duration(90) == "90 s" and duration(86_400) == "1 d"
