"""The arithmetic of the throughput figure and its checks; nothing here measures time."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench import _sides, throughput
from bench._registry import BenchError
from bench._watch import Rate, Sample, between, prometheus, steady
from replay.player import PlayReport

ROOT = Path(__file__).parents[3]

PLAYED = PlayReport(impressions=100, actions=7, behaviours=3, by_action={"click": 5, "cart": 2})
EXACT = {
    "impression": 100.0,
    "click": 5.0,
    "cart": 2.0,
    "favourite": 0.0,
    "purchase": 0.0,
    "refund": 0.0,
    "behaviour": 3.0,
    "samples": 100.0,
    "duplicates": 0.0,
    "orphans": 0.0,
    "dead_letters": 0.0,
    "feature_rows": 9.0,
}


def side(per_s: float, per_cpu_s: float, **more: float) -> dict[str, float]:
    return {
        "events_per_s": per_s,
        "events_per_cpu_s": per_cpu_s,
        "events": 1.0,
        "wall_s": 1.0,
        "cpu_s": 1.0,
        "cores_busy_elsewhere": 0.0,
        **more,
    }


def one_round(engine: float, faust: float, raw: float) -> dict[str, dict[str, float]]:
    steady_part = {"steady_events_per_s": 1.0, "steady_events_per_cpu_s": 1.0, "steady_events": 1.0}
    counts = {"samples": 1.0, "versions": 1.0, "feature_rows": 1.0, "river_skipped_share": 0.5}
    return {
        "engine": side(engine, 2 * engine, **steady_part, **counts),
        "faust_idiomatic": side(faust, 4 * faust, samples=1.0, log_loss=0.1),
        "faust_count": side(faust, faust),
        "raw_fetch": side(raw, raw),
    }


# -- ratios


def test_the_interface_has_its_keys() -> None:
    result = throughput.combine([one_round(100.0, 10.0, 1000.0)])
    for name in ("engine", "faust_idiomatic", "raw_fetch"):
        assert {"events_per_s", "events_per_cpu_s"} <= set(result[name])
    assert {"ratio_to_faust", "ratio_to_raw", "rounds"} <= set(result)
    json.dumps(result)


def test_ratios_are_by_the_clock_with_those_by_cpu_beside_them() -> None:
    result = throughput.combine([one_round(100.0, 10.0, 1000.0)])
    assert (result["ratio_to_faust"], result["ratio_to_faust_cpu"]) == (10.0, 5.0)
    assert (result["ratio_to_raw"], result["ratio_to_raw_cpu"]) == (0.1, 0.2)


def test_a_ratio_is_that_of_the_medians_and_one_wild_round_does_not_move_it() -> None:
    rounds = [one_round(100.0, 10.0, 1000.0), one_round(9e9, 11.0, 1000.0), one_round(90.0, 1e-9, 1000.0)]
    result = throughput.combine(rounds)
    assert result["engine"]["events_per_s"] == 100.0
    assert result["faust_idiomatic"]["events_per_s"] == 10.0
    assert result["ratio_to_faust"] == 10.0
    assert result["rounds"] == rounds


def test_the_worst_pairing_is_the_slowest_engine_with_the_fastest_agent() -> None:
    result = throughput.combine([one_round(100.0, 2.0, 1000.0), one_round(60.0, 5.0, 1000.0)])
    assert result["ratio_to_faust_worst"] == 12.0


def test_what_is_told_beside_a_median_rate_is_a_median_too() -> None:
    rounds = [one_round(100.0, 10.0, 1000.0) for _ in range(3)]
    for one, seconds in zip(rounds, (1.0, 2.0, 9.0), strict=True):
        one["engine"]["wall_s"] = seconds
    assert throughput.combine(rounds)["engine"]["wall_s"] == 2.0


@pytest.mark.parametrize(
    ("by_clock", "per_cpu", "told"),
    [
        (10.0, 10.0, []),
        (9.9, 10.0, ["9.9 times an idiomatic Faust agent by the clock"]),
        (50.0, 9.9, ["9.9 times an idiomatic Faust agent per CPU second"]),
    ],
)
def test_the_limit_is_ten_times_by_the_clock_and_per_cpu_second(
    by_clock: float, per_cpu: float, told: list[str]
) -> None:
    ratios = {"ratio_to_faust": by_clock, "ratio_to_faust_cpu": per_cpu, "ratio_to_raw_cpu": 0.3}
    broken = throughput.broken(ratios)
    assert len(broken) == len(told)
    assert all(words in reason for words, reason in zip(told, broken, strict=True))


def test_the_limit_to_a_bare_fetch_is_per_cpu_second() -> None:
    ratios = {"ratio_to_faust": 10.0, "ratio_to_faust_cpu": 10.0, "ratio_to_raw": 0.1}
    assert throughput.broken({**ratios, "ratio_to_raw_cpu": 0.21}) == []
    (reason,) = throughput.broken({**ratios, "ratio_to_raw_cpu": 0.2})
    assert reason.startswith("0.200 of a bare fetch")


def test_the_table_names_peer_limit_and_whether_it_holds() -> None:
    result = throughput.combine([one_round(50.0, 10.0, 1000.0)])
    result |= {
        "broker": "a broker",
        "produced": {
            "events": 110,
            "impressions": 100,
            "actions": 7,
            "behaviours": 3,
            "bytes_per_event": 200.0,
        },
        "trunk": {"hidden": 32},
        "machine": dict.fromkeys(("cores", "cpu", "memory_gb", "system", "python", "load"), 2),
    }
    text = throughput.table(result)
    assert re.search(r"engine / idiomatic Faust +5\.0 .* limit 10: BROKEN", text)
    assert "peer: idiomatic Faust agent" in text and "ceiling: bare aiokafka fetch" in text


# -- rates


def events(counts: Any) -> float:
    return float(counts["n"])


def samples(*rows: tuple[float, float, float]) -> list[Sample]:
    return [Sample(wall, cpu, {"n": n}, 3 * wall) for wall, cpu, n in rows]


def test_a_rate_is_what_lies_between_two_samples() -> None:
    first, last = samples((10.0, 1.0, 100.0), (14.0, 3.0, 900.0))
    rate = between(first, last, events)
    assert (rate.per_s, rate.per_cpu_s, rate.elsewhere_cores) == (200.0, 400.0, 3.0)


def test_a_rate_over_no_time_is_zero_and_not_an_error() -> None:
    assert (Rate(5, 0.0, 0.0).per_s, Rate(5, 0.0, 0.0).per_cpu_s) == (0.0, 0.0)


def test_the_steady_part_begins_and_ends_where_the_count_has_just_moved() -> None:
    """The count stands still from 1 s to 3 s; taking it from 3 s on would make the rate too high."""
    seen = samples((0, 0, 0), (1, 1, 50), (2, 1, 50), (3, 1, 50), (4, 2, 100), (5, 2, 100), (6, 3, 120))
    rate = steady(seen, events, 40, 90)
    assert (rate.events, rate.wall_s, rate.cpu_s) == (50.0, 3.0, 1.0)


def test_too_few_samples_are_no_rate() -> None:
    with pytest.raises(BenchError, match="too few samples"):
        steady(samples((0, 0, 0), (1, 1, 100)), events, 40, 90)


# -- checks


def test_an_exact_run_passes() -> None:
    _sides.check(EXACT, PLAYED, 100)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("impression", 99.0),
        ("impression", 101.0),
        ("click", 4.0),
        ("refund", 1.0),
        ("behaviour", 2.0),
        ("samples", 99.0),
        ("duplicates", 1.0),
        ("orphans", 1.0),
        ("dead_letters", 1.0),
        ("feature_rows", 0.0),
    ],
)
def test_one_event_too_few_or_too_many_is_no_number(name: str, count: float) -> None:
    with pytest.raises(BenchError, match="feature row" if name == "feature_rows" else name):
        _sides.check({**EXACT, name: count}, PLAYED, 100)


def test_weights_that_lack_the_last_samples_are_no_number() -> None:
    with pytest.raises(BenchError, match="published weights"):
        _sides.check(EXACT, PLAYED, 99)


def test_counts_are_read_from_the_page_by_label() -> None:
    page = prometheus(
        "\n".join(
            [
                "# TYPE surgeline_events_total counter",
                'surgeline_events_total{kind="impression"} 100.0',
                'surgeline_events_total{kind="click"} 5.0',
                'surgeline_samples_total{label="positive"} 5.0',
                'surgeline_samples_total{label="negative"} 95.0',
                'surgeline_skipped_total{learner="not_finite"} 7.0',
                'surgeline_skipped_total{learner="river_logistic"} 60.0',
                "surgeline_orphans_total 1.0",
                "surgeline_orphans_waiting 2.0",
                "surgeline_checkpoint_seconds_count 4.0",
                "surgeline_weights_version 3.0",
                "faust_messages_received_total 12.0",
            ]
        )
    )
    counts = _sides.engine_counts(page)
    assert (counts["impression"], counts["click"], counts["samples"]) == (100.0, 5.0, 100.0)
    assert (counts["river_skipped"], counts["orphans"], counts["received"]) == (60.0, 3.0, 12.0)
    assert not _sides.tick_is_over(counts)
    assert _sides.tick_is_over({**counts, "version": 4.0})


def test_every_metric_that_is_read_is_one_that_the_worker_has() -> None:
    """A renamed metric would read as zero; the run would then fail late, or hide a duplicate."""
    source = (ROOT / "bench" / "_sides.py").read_text(encoding="utf-8")
    asked = set(re.findall(r'total\(\s*"(surgeline_\w+)"', source))
    metrics = (ROOT / "stream" / "metrics.py").read_text(encoding="utf-8")
    there = set(re.findall(r'"(surgeline_\w+)"', metrics))
    assert len(asked) >= 10
    assert {name.removesuffix("_count") for name in asked} <= there
