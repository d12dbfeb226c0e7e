"""The default features once more, as the idiomatic peer computes them: one event at a time, in plain Python.

The columns and their order are those of the engine's default plan (``features.defaults``). The list of an
impression is read when it is complete, as of its first impression; then its impressions are counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from bench._faust_rows import (
    ALL,
    DAY,
    MINUTE,
    SUMS,
    TEN_MINUTES,
    WEEK,
    Counted,
    Item,
    Pair,
    Rows,
    Shown,
    Table,
    User,
)
from contracts.events import Behaviour, Impression

BASE_RATE, BASE_WEIGHT, SMOOTHING = 0.02, 50.0, 20.0
FIRST_PLACE, FIRST_PLACE_WEIGHT, PLACE_SMOOTHING = 4.0, 20.0, 3.0
SESSION_GAP_MS = 1_800_000.0
#: Decayed prices below which their mean is unknown.
FEWEST_PRICES = 1e-3
NEVER_SECONDS, NEVER_STEPS = 2.5, 2.0
LOG_2 = math.log(2.0)
#: The kind of every behaviour: the default features tell their types not apart.
OTHER = "other"


def _rates(key: str, *half_lives: int, rate: str = "click/impression") -> list[str]:
    return [f"{key}.{rate}.{half_life}s" for half_life in half_lives]


def _columns(family: str, names: str) -> list[str]:
    return [f"{family}.{name}" for name in names.split()]


#: The features, in their order.
NAMES: tuple[str, ...] = (
    *_rates("everything", MINUTE, TEN_MINUTES),
    "everything.impression.60s/600s",
    *_rates("item_id", *ALL),
    *_rates("item_id", *ALL, rate="purchase/click"),
    *_rates("item_id", *ALL, rate="impression"),
    "item_id.impression.60s/600s",
    "item_id.impression.600s/86400s",
    *(
        name
        for key in ("category_id", "shop_id", "user_id")
        for rate in ("click/impression", "impression")
        for name in _rates(key, TEN_MINUTES, DAY, rate=rate)
    ),
    *_rates("user_id*category_id", TEN_MINUTES, DAY),
    *_rates("user_id*category_id", TEN_MINUTES, DAY, rate="click"),
    *_rates("position", TEN_MINUTES, DAY),
    *_rates("touched", WEEK),
    *_columns("session", "step seconds_since_last seconds_since_start seconds_known sessions steps pace"),
    *_columns("touched", "is_touched is_last is_before_last recency_rank count_rank in_list above"),
    *_columns("touched", "to_last to_clicked to_highest to_lowest to_next"),
    *_columns("user_id*item_id.any", "seconds steps faded_4 faded_20"),
    *_columns("user_id*item_id.click", "seconds steps faded_4 faded_20"),
    *_columns("price", "log cut over_usual over_touched over_clicked over_last_clicked"),
    *_columns("place", "everything user_id item_id"),
    *_columns("list.price", "rank log_over_mean log_over_least gap_above gap_below size"),
)

_EVERYTHING, _ITEM, _CATEGORY, _USER = (SUMS[name] for name in ("everything", "item", "category", "user"))
#: Tables that a click is counted in, beside the user's.
_BY_CLICK = ("item", "category", "shop", "user_category", "position", "touched")


class Features:
    """``tables``: Faust's, by the names of ``bench._faust_rows.TABLES``."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self._tables = tables
        self._everything = SUMS["everything"].empty()

    def show(self, events: Sequence[Impression]) -> list[tuple[str, dict[str, float], Shown]]:
        """Of the impressions of one list id, features and what to remember; then they are counted.

        In the order of their places.
        """
        now, rows = float(events[0].event_time), Rows(self._tables)
        events = sorted(events, key=attrgetter("position"))
        items = [rows.get("item", event.item_id) for event in events]
        own = [_log_price(event.price) for event in events]
        prices = [item.last if math.isnan(price) else price for price, item in zip(own, items, strict=True)]
        user: User = rows.get("user", events[0].user_id)
        pairs: list[Pair] = [rows.get("pair", f"{e.user_id}*{e.item_id}") for e in events]
        touched, keys = _touched(events, pairs, user)
        listed = _listed([event.price for event in events])
        everything, session = _EVERYTHING.as_of(self._everything, now), _session(user, now)
        found = []
        for i, e in enumerate(events):
            one = Shown(
                float(e.event_time),
                e.user_id,
                e.item_id,
                e.category_id,
                e.shop_id,
                e.position,
                own[i],
                keys[i],
            )
            as_of = {key: SUMS[key].as_of(rows.get(key, of).sums, now) for key, of in _keys(one).items()}
            as_of["everything"] = everything
            values = [
                *_counts(as_of),
                *session,
                *touched[i],
                *_recency(pairs[i], user, now),
                *_price(prices[i], items[i], as_of),
                *_place(one.position, as_of),
                *listed[i],
            ]
            found.append((e.impression_id, dict(zip(NAMES, values, strict=True)), one))
        for (_, _, one), price in zip(found, prices, strict=True):
            self._count_impression(one, price, rows)
        rows.write()
        return found

    def act(self, shown: Shown, kind: str, now: float) -> None:
        """Count an action on an impression."""
        rows = Rows(self._tables)
        item = rows.get("item", shown.item)
        price = item.last if math.isnan(shown.price) else shown.price
        keys = _keys(shown)
        rows.change("user_category", keys["user_category"])
        if kind in ("click", "purchase"):
            tables = _BY_CLICK if kind == "click" else ("item", "category")
            for table in tables:
                _add(rows.change(table, keys[table]), table, kind, now)
            self._everything = _EVERYTHING.as_of(self._everything, now)
            for at in _EVERYTHING.of[kind]:
                self._everything[at] += 1.0
        user = self._count_user(rows, shown.user, kind, price, now)
        if kind == "click":
            for at in _USER.of["click"]:
                user.sums[at] += 1.0
            where = shown.position + 1.0
            for sums, row in (
                (_EVERYTHING, self._everything),
                (_ITEM, rows.change("item", shown.item).sums),
                (_USER, user.sums),
            ):
                row[sums.at["place", WEEK]] += where
                row[sums.at["placed", WEEK]] += 1.0
        self._step(rows, user, shown.user, shown.item, kind, now)
        rows.write()

    def behave(self, event: Behaviour) -> None:
        """Count a behaviour."""
        rows, now = Rows(self._tables), float(event.event_time)
        price = rows.get("item", event.item_id).last
        rows.change("user_category", _pair_key(event.user_id, event.category_id))
        user = self._count_user(rows, event.user_id, OTHER, price, now)
        self._step(rows, user, event.user_id, event.item_id, OTHER, now)
        rows.write()

    def _count_impression(self, one: Shown, price: float, rows: Rows) -> None:
        for table, key in _keys(one).items():
            # What a user was only shown of a category is not kept.
            if table != "user_category" or rows.has(table, key):
                _add(rows.change(table, key), table, "impression", one.time)
        self._everything = _EVERYTHING.as_of(self._everything, one.time)
        for at in _EVERYTHING.of["impression"]:
            self._everything[at] += 1.0
        item = rows.get("item", one.item)
        if not math.isnan(price):
            item.sums[_ITEM.at["usual", WEEK]] += price
            item.sums[_ITEM.at["usual_n", WEEK]] += 1.0
        if not math.isnan(one.price):
            item.first = one.price if math.isnan(item.first) else item.first
            item.last = one.price

    def _count_user(self, rows: Rows, name: str, kind: str, price: float, now: float) -> User:
        user: User = rows.change("user", name)
        user.sums = _USER.as_of(user.sums, now)
        if not math.isnan(price):
            for who in ("any", "click") if kind == "click" else ("any",):
                for at in _USER.of[f"{who}_price"]:
                    user.sums[at] += price
                for at in _USER.of[f"{who}_n"]:
                    user.sums[at] += 1.0
        return user

    def _step(self, rows: Rows, user: User, name: str, item: str, kind: str, now: float) -> None:
        """A step of the user's session, and of what is known of the user and the item."""
        if item:
            pair: Pair = rows.change("pair", f"{name}*{item}")
            pair.any.add(now, user.before + user.step)
            if kind == "click":
                pair.click.add(now, user.before + user.step)
        if not user.sessions or now - user.last > SESSION_GAP_MS:
            user.start, user.before, user.step = now, user.before + user.step, 0
            user.began = user.began if user.sessions else now
            user.sessions += 1
        user.last = max(user.last, now)
        user.step += 1
        if item and item != user.item:
            user.item, user.item_before = item, user.item


def _counts(as_of: dict[str, list[float]]) -> list[float]:
    """Rates, volumes and velocities."""
    everything, items, categories = as_of["everything"], as_of["item"], as_of["category"]
    base = [BASE_RATE] * 4
    clicks = _smoothed(everything, _EVERYTHING, "click", "impression", base, BASE_WEIGHT)
    sales = _smoothed(everything, _EVERYTHING, "purchase", "click", base, BASE_WEIGHT)[:3]
    minute, ten_minutes, day, week = clicks
    category = _smoothed(categories, _CATEGORY, "click", "impression", clicks[:3])
    category_sales = _smoothed(categories, _CATEGORY, "purchase", "click", sales)
    item = _smoothed(items, _ITEM, "click", "impression", category)
    item_sales = _smoothed(items, _ITEM, "purchase", "click", category_sales)
    out = [math.log(minute / BASE_RATE), math.log(ten_minutes / BASE_RATE)]
    out.append(_velocity(everything, _EVERYTHING, MINUTE, TEN_MINUTES))
    out += _logs(item, category) + _logs(item_sales, category_sales) + _volumes(as_of, "item", "impression")
    out.append(_velocity(items, _ITEM, MINUTE, TEN_MINUTES))
    out.append(_velocity(items, _ITEM, TEN_MINUTES, DAY))
    out += _logs(category[1:], clicks[1:3]) + _volumes(as_of, "category", "impression")[1:]
    both = [ten_minutes, day]
    for table, volume in (("shop", "impression"), ("user", "impression"), ("user_category", "click")):
        out += _rate(as_of, table, both) + _volumes(as_of, table, volume)
    return out + _rate(as_of, "position", both) + _rate(as_of, "touched", [week])


def _price(own: float, item: Item, as_of: dict[str, list[float]]) -> list[float]:
    items, users, at = as_of["item"], as_of["user"], _USER.at
    out = [
        own / 10.0,
        own - item.first,
        _over(own, items, _ITEM.at["usual", WEEK], _ITEM.at["usual_n", WEEK]),
        _over(own, users, at["any_price", DAY], at["any_n", DAY]),
        _over(own, users, at["click_price", DAY], at["click_n", DAY]),
        _over(own, users, at["click_price", TEN_MINUTES], at["click_n", TEN_MINUTES]),
    ]
    return [0.0 if math.isnan(x) else x for x in out]


def _place(position: int, as_of: dict[str, list[float]]) -> list[float]:
    where = position + 1.0
    first = _mean_place(as_of["everything"], _EVERYTHING, FIRST_PLACE, FIRST_PLACE_WEIGHT)
    users = _mean_place(as_of["user"], _USER, first, PLACE_SMOOTHING)
    items = _mean_place(as_of["item"], _ITEM, first, PLACE_SMOOTHING)
    return [_signed(first - where), _signed(users - where), _signed(items - where)]


def _keys(one: Shown) -> dict[str, str]:
    """The keys of an impression by table; empty where a part is missing."""
    return {
        "item": one.item,
        "category": one.category,
        "shop": one.shop,
        "user": one.user,
        "user_category": _pair_key(one.user, one.category),
        "position": str(one.position),
        "touched": one.touched,
    }


def _pair_key(user: str, category: str) -> str:
    return f"{user}*{category}" if category else ""


def _add(row: Counted, table: str, kind: str, now: float) -> None:
    """Count one event."""
    row.sums = SUMS[table].as_of(row.sums, now)
    for at in SUMS[table].of[kind]:
        row.sums[at] += 1.0


def _smoothed(
    row: list[float], sums: Any, above: str, below: str, towards: list[float], weight: float = SMOOTHING
) -> list[float]:
    pairs = zip(sums.of[above], sums.of[below], towards, strict=True)
    return [(row[a] + weight * rate) / (row[b] + weight) for a, b, rate in pairs]


def _rate(as_of: dict[str, list[float]], table: str, towards: list[float]) -> list[float]:
    """Log of the click rate over what it is smoothed towards."""
    return _logs(_smoothed(as_of[table], SUMS[table], "click", "impression", towards), towards)


def _logs(above: list[float], below: list[float]) -> list[float]:
    return [math.log(a / b) for a, b in zip(above, below, strict=True)]


def _volumes(as_of: dict[str, list[float]], table: str, kind: str) -> list[float]:
    row = as_of[table]
    return [math.log1p(row[at]) / 5.0 for at in SUMS[table].of[kind]]


def _velocity(row: list[float], sums: Any, short: int, long: int) -> float:
    fast = row[sums.at["impression", short]] * LOG_2 / short + 1e-3
    return math.log(fast / (row[sums.at["impression", long]] * LOG_2 / long + 1e-3))


def _session(user: User, now: float) -> list[float]:
    known, since_last = user.sessions > 0, now - user.last
    going_on = known and since_last <= SESSION_GAP_MS
    step = user.step if going_on else 0
    since_start = max(now - user.start, 0.0) / 1000.0 if going_on else 0.0
    return [
        math.log1p(step) / 3.0,
        _log_seconds(since_last) if known else 0.0,
        math.log1p(since_start) / 10.0,
        _log_seconds(now - user.began) if known else 0.0,
        math.log1p(user.sessions) / 5.0,
        math.log1p(user.before + user.step) / 5.0,
        math.log1p(since_start / max(step, 1)) / 5.0,
    ]


def _touched(events: list[Impression], pairs: list[Pair], user: User) -> tuple[list[list[float]], list[str]]:
    """Of a list by place: what the user touched before, and the key of each impression's own count."""
    there = [i for i, pair in enumerate(pairs) if pair.any.count]
    ages = [(pair.any.last, pair.any.step) for pair in pairs]
    latest = sorted(there, key=lambda i: ages[i], reverse=True)
    clicked = [i for i in there if pairs[i].click.last > 0.0]
    click = max(clicked, key=lambda i: pairs[i].click.last) if clicked else None
    places = [event.position for event in events]
    out, keys = [], []
    for i, (event, pair) in enumerate(zip(events, pairs, strict=True)):
        count, place = pair.any.count, event.position
        recency = sum(ages[j] > ages[i] for j in there) + 1 if count else 0
        often = sum(pairs[j].any.count > count for j in there) + 1 if count else 0
        last = places[latest[0]] if latest else place
        following = 2 * last - places[latest[1]] if len(latest) > 1 else place
        out.append(
            [
                float(count > 0),
                float(event.item_id == user.item),
                float(event.item_id == user.item_before),
                1.0 / recency if count else 0.0,
                1.0 / often if count else 0.0,
                math.log1p(len(there)),
                math.log1p(sum(j < i for j in there)),
                _signed(place - last),
                _signed(place - places[click]) if click is not None else 0.0,
                _signed(place - places[there[0]]) if there else 0.0,
                _signed(place - places[there[-1]]) if there else 0.0,
                _signed(place - following),
            ]
        )
        offset = min(max(place - last, -12), 12) if there else 100 + min(place, 25)
        keys.append(f"{offset}:{min(recency, 4) if count else 4}")
    return out, keys


def _recency(pair: Pair, user: User, now: float) -> list[float]:
    steps, out = user.before + user.step, []
    for touch in (pair.any, pair.click):
        if touch.count:
            ago = max(steps - touch.step, 0)
            out += [_log_seconds(now - touch.last), math.log1p(ago) / 3.0]
            out += [touch.short * 2.0 ** (-ago / 4.0), touch.long * 2.0 ** (-ago / 20.0)]
        else:
            out += [NEVER_SECONDS, NEVER_STEPS, 0.0, 0.0]
    return out


def _listed(prices: list[float]) -> list[list[float]]:
    """Of a list by place: each price beside the others; 0 is no price."""
    known = [price for price in prices if price]
    size = math.log(1.0 + len(prices)) / 5.0
    out = []
    for i, price in enumerate(prices):
        if not price:
            out.append([0.5, 0.0, 0.0, 0.0, 0.0, size])
            continue
        rank = (sum(x < price for x in known) + 0.5 * known.count(price)) / len(known)
        beside = [prices[i - 1] if i else 0.0, prices[i + 1] if i + 1 < len(prices) else 0.0]
        against = [sum(known) / len(known), min(known)]
        logs = [math.log((1.0 + price) / (1.0 + x)) for x in against]
        logs += [math.log((1.0 + price) / (1.0 + x)) if x else 0.0 for x in beside]
        out.append([rank, *logs, size])
    return out


def _over(own: float, row: list[float], total: int, number: int) -> float:
    return own - row[total] / row[number] if row[number] >= FEWEST_PRICES else math.nan


def _mean_place(row: list[float], sums: Any, towards: float, weight: float) -> float:
    place, placed = row[sums.at["place", WEEK]], row[sums.at["placed", WEEK]]
    mean: float = (place + weight * towards) / (placed + weight)
    return mean


def _log_price(price: float) -> float:
    return math.log1p(price) if price else math.nan


def _log_seconds(elapsed_ms: float) -> float:
    return math.log1p(max(elapsed_ms, 0.0) / 1000.0) / 10.0


def _signed(x: float) -> float:
    return min(max(math.copysign(math.log1p(abs(x)) / 3.0, x), -2.0), 2.0)
