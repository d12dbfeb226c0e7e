"""What a simulated night was like, beside the published figures it was made after."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from replay.simulate.config import Double11Config
from replay.simulate.curve import TMALL, WORLDCUP98
from replay.simulate.delays import TAOBAO, WITHIN_SHARE
from replay.simulate.pending import BEHAVIOURS, ORDER
from replay.simulate.policy import Regret
from replay.simulate.tally import AFTER, BEFORE, Tally
from replay.simulate.world import World

#: Share of a day's actions on the Double 11 of the two days around midnight (Tmall).
TMALL_AFTER = TMALL["day_gain"] / (1.0 + TMALL["day_gain"])
TMALL_TOP_1 = 0.144


def summarise(
    config: Double11Config, tally: Tally, world: World, regret: Regret, largest_pending: int
) -> dict[str, Any]:
    """Figures of everything that was generated so far. Shares and rates are fractions; times seconds.

    ``unseen`` actions were due after the end or the longest delay; ``refused`` purchases found no stock.
    ``ctr`` and ``cvr`` are of people, by the time of the impression and before censoring or stock.
    """
    shown = int(tally.events[0])
    busy = tally.minutes[tally.minutes > 0]
    by_item = np.sort(tally.shown_by_item)[::-1]
    top = max(1, config.items // 100)
    ctr = _ratio(tally.people_clicks, tally.people_shown)
    cvr = _ratio(tally.people_orders, tally.people_clicks)
    peak = int(tally.minutes.max(initial=0))
    figures: dict[str, Any] = {
        "events": int(tally.events.sum()),
        **{f"{name}s": int(tally.events[ORDER.index(name)]) for name in ORDER if name not in BEHAVIOURS},
        "behaviours": int(tally.events[-len(BEHAVIOURS) :].sum()),
        "impressions_per_s": shown / config.span_s,
        "peak_impressions_per_s": peak * config.speed / 60.0,
        "peak_over_median_minute": peak / float(np.median(busy)) if busy.size else 0.0,
        "share_after_midnight": float(tally.shown[AFTER]) / max(shown, 1),
        "ctr_before": ctr[BEFORE],
        "ctr_after": ctr[AFTER],
        "cvr_before": cvr[BEFORE],
        "cvr_after": cvr[AFTER],
        "expected_clicks": tally.expected_clicks,
        "conversions_within_15_min": tally.conversions_soon / max(tally.conversions, 1),
        "share_of_top_1_percent_of_items": float(by_item[:top].sum()) / max(shown, 1),
        **{f"share_{name}": count / max(shown, 1) for name, count in tally.segments.items()},
        "items_sold_out": int((world.stock == 0).sum()),
        "items_hot": int(np.isfinite(world.catalog.hot_s).sum()),
        "items_new": int(np.isfinite(world.catalog.born_s).sum()),
        "revenue": tally.revenue,
        "refunded": tally.refunded,
        "refused": tally.refused,
        "unseen": tally.too_late + tally.unseen,
        "largest_pending": largest_pending,
    }
    if config.regret:
        figures |= {
            "expected_clicks_shown": regret.clicks,
            "click_regret": regret.click_regret,
            "click_regret_share": regret.click_regret / max(regret.best_clicks, 1e-12),
            "expected_revenue_shown": regret.revenue,
            "revenue_regret": regret.revenue_regret,
            "revenue_regret_share": regret.revenue_regret / max(regret.best_revenue, 1e-12),
        }
    return figures


def lines(figures: dict[str, Any], config_jump: float) -> Iterator[tuple[str, str, str]]:
    """(figure, simulated, published) as text, for people."""
    f = figures
    yield "events", f"{f['events']:,}", ""
    yield (
        "impressions / s, mean and peak",
        f"{f['impressions_per_s']:,.0f} / {f['peak_impressions_per_s']:,.0f}",
        "",
    )
    published = f"{WORLDCUP98['peak_over_median']:.0f} (World Cup 98)"
    if abs(config_jump - 59.0) > 0.5:
        published += f", asked for {config_jump:g}"
    yield "busiest over median minute", f"{f['peak_over_median_minute']:.1f}", published
    yield (
        "traffic after 00:00",
        _percent(f["share_after_midnight"]),
        f"{_percent(TMALL_AFTER)} (Tmall, 2 days)",
    )
    within = _percent(f["conversions_within_15_min"])
    yield "conversions within 15 min", within, f"{_percent(WITHIN_SHARE)} (DEFER)"
    yield "click rate before / after", f"{_percent(f['ctr_before'])} / {_percent(f['ctr_after'])}", ""
    ordinary = f"{_percent(TAOBAO['purchase_per_click'])} of views (Taobao, ordinary day)"
    yield (
        "purchases per click before / after",
        f"{_percent(f['cvr_before'])} / {_percent(f['cvr_after'])}",
        ordinary,
    )
    carts = f"{_percent(TAOBAO['cart_per_click'])} of views (Taobao)"
    yield "carts per click", _percent(f["carts"] / max(f["clicks"], 1)), carts
    top = _percent(f["share_of_top_1_percent_of_items"])
    yield "traffic of the top 1 % of items", top, f"{_percent(TMALL_TOP_1)} (Tmall)"
    yield "items hot / new / sold out", f"{f['items_hot']} / {f['items_new']} / {f['items_sold_out']}", ""
    for name, title in (
        ("hot", "hot items"),
        ("new_item", "new items"),
        ("sold_out", "sold-out items"),
        ("shifted", "shifted categories"),
        ("bot", "bots"),
        ("intent", "items that somebody is after"),
    ):
        yield f"traffic of {title}", _percent(f[f"share_{name}"]), ""
    yield "purchases refused / never seen", f"{f['refused']:,} / {f['unseen']:,}", ""
    if "click_regret" in f:
        yield (
            "clicks lost to the oracle",
            f"{f['click_regret']:,.0f} ({_percent(f['click_regret_share'])})",
            "",
        )
        yield (
            "revenue lost to the oracle",
            f"{f['revenue_regret']:,.0f} ({_percent(f['revenue_regret_share'])})",
            "",
        )


def _ratio(part: np.ndarray, whole: np.ndarray) -> list[float]:
    return [float(p) / max(float(w), 1.0) for p, w in zip(part, whole, strict=True)]


def _percent(share: float) -> str:
    return f"{100.0 * share:.1f} %"
