"""What users do, event by event: recency, sessions, touched items, habits, last lists, sequences."""

from __future__ import annotations

import math
from typing import Any

from features.hashing import hash_texts
from tests.unit.features.reference import (
    NAN,
    Event,
    Reference,
    User,
    log_seconds,
    low_bits,
    signed,
    text,
    zero,
)


class RecencyReference(Reference):
    """When, how often, for how long."""

    def begin(self) -> None:
        self.rows: dict[Any, dict[str, list[tuple[int, int]]]] = {}
        self.dwell: dict[Any, tuple[float, float, int]] = {}

    def one(self, event: Event, now: int) -> list[float]:
        key, user, out = event.key(self.family.keys), self.world.user(event), []
        steps = user.before + user.step
        for of in self.family.of:
            seen = self.rows.get(key, {}).get(of, [])
            for what in self.family.take:
                if what == "seconds":
                    out.append(log_seconds(now - max(t for t, _ in seen)) if seen else NAN)
                elif what == "first_seconds":
                    out.append(log_seconds(now - seen[0][0]) if seen else NAN)
                elif what == "steps":
                    out.append(math.log1p(steps - seen[-1][1]) / 3.0 if seen else NAN)
                elif what == "count":
                    out.append(math.log1p(len(seen)))
                elif what == "faded":
                    out += [sum(2.0 ** (-(steps - s) / half) for _, s in seen) for half in (4.0, 20.0)]
        if "dwell" in self.family.take:
            total, longest, many = self.dwell.get(key, (0.0, 0.0, 0))
            out += [math.log1p(x) / 5.0 for x in (total, longest, total / max(many, 1))]
        return out

    def update(self, event: Event) -> None:
        if event.kind in ("impression", ""):
            return
        user = self.world.user(event)
        if self.family.keys == ("user_id", "item_id") and user.items:
            before = (event.keys["user_id"], user.items[0])
            if self.rows.get(before):
                dwell = min(max(event.time - user.last, 0.0) / 1000.0, 600.0)
                total, longest, many = self.dwell.get(before, (0.0, 0.0, 0))
                self.dwell[before] = (total + dwell, max(longest, dwell), many + 1)
        key = event.key(self.family.keys)
        if key is None:
            return
        for of in self.family.of:
            if event.kind in self.world.kinds(of):
                seen = self.rows.setdefault(key, {}).setdefault(of, [])
                seen.append((event.time, user.before + user.step))


class SessionReference(Reference):
    """Where the user is."""

    def derive(self, shown: list[Event], now: int) -> None:
        for event in shown:
            kinds = self._kinds(event, now)
            event.keys |= {"last_kind": kinds[0], "last_kinds": (kinds[0], kinds[1])}

    def one(self, event: Event, now: int) -> list[float]:
        user = self.world.user(event)
        known, fresh = user.sessions > 0, self._fresh(user, now)
        step = 0 if fresh else user.step
        since = 0.0 if fresh else max(now - user.start, 0.0)
        return [
            math.log1p(step) / 3.0,
            log_seconds(now - user.last) if known else NAN,
            log_seconds(since),
            log_seconds(now - user.began) if known else 0.0,
            math.log1p(user.sessions) / 5.0,
            math.log1p(user.before + user.step) / 5.0,
            math.log1p(since / 1000.0 / max(step, 1)) / 5.0,
        ]

    def _fresh(self, user: User, now: int) -> bool:
        return user.sessions == 0 or now - user.last > self.world.scope.gap_s * 1000

    def _kinds(self, event: Event, now: int) -> list[str]:
        user = self.world.user(event)
        return [*([] if self._fresh(user, now) else user.kinds), "none", "none"]


class TouchedReference(Reference):
    """Touched items of the list, and where they stand."""

    def begin(self) -> None:
        #: Of (user, item): touches, time of the last, the user's step then, time of the last click.
        self.rows: dict[Any, tuple[int, float, int, float]] = {}

    def derive(self, shown: list[Event], now: int) -> None:
        for event, row, (count, last, _, _) in zip(
            shown, self._rows(shown), map(self._touch, shown), strict=True
        ):
            offset = row["offset"]
            rank = round(1.0 / max(row["recency_rank"], 0.05)) if count else 21
            place = int(min(zero(event.number("position")), 25))
            event.keys |= {
                "touch_offset": offset,
                "touch_age": math.floor(math.log2(1.0 + max(now - last, 0.0) / 1000.0)) if count else 40,
                "touches": min(count, 4),
                "touch_rank": rank,
                "touched": (100 + place if offset == 99 else offset, min(rank, 4)),
            }

    def get(self, shown: list[Event], now: int, columns: dict[str, list[float]]) -> list[list[float]]:
        return [[row[name] for name in row if name != "offset"] for row in self._rows(shown)]

    def update(self, event: Event) -> None:
        key = event.key(("user_id", "item_id"))
        if event.kind in ("impression", "") or key is None:
            return
        user = self.world.user(event)
        count, last, _, clicked = self.rows.get(key, (0, 0.0, 0, 0.0))
        if event.kind == self.family.clicks:
            clicked = max(clicked, float(event.time))
        self.rows[key] = (count + 1, max(last, float(event.time)), user.before + user.step, clicked)

    def _touch(self, event: Event) -> tuple[int, float, int, float]:
        return self.rows.get(event.key(("user_id", "item_id")), (0, 0.0, 0, 0.0))

    def _rows(self, shown: list[Event]) -> list[dict[str, Any]]:
        touch = [self._touch(event) for event in shown]
        place = [zero(event.number("position")) for event in shown]
        touched = [i for i, (count, *_) in enumerate(touch) if count]
        # The newest first; what is equal keeps the order of places.
        newest = sorted(touched, key=lambda i: (-touch[i][1], -touch[i][2]))
        clicked = sorted((i for i in touched if touch[i][3] > 0), key=lambda i: -touch[i][3])
        items = self.world.user(shown[0]).items
        out: list[dict[str, Any]] = []
        for i, event in enumerate(shown):
            user_items = [*self.world.user(event).items, None, None]
            count, last, step, _ = touch[i]
            item = event.keys.get("item_id")

            def away(j: int | None, r: float = place[i]) -> float:
                return NAN if j is None else signed(r - place[j])

            newer = sum((touch[j][1], touch[j][2]) > (last, step) for j in touched)
            more = sum(touch[j][0] > count for j in touched)
            offset = 99
            following = NAN
            if newest:
                offset = int(min(max(place[i] - place[newest[0]], -12), 12))
            if len(newest) > 1:
                following = signed(place[i] - (2 * place[newest[0]] - place[newest[1]]))
            out.append(
                {
                    "is_touched": float(count > 0),
                    "is_last": float(item is not None and item == user_items[0]),
                    "is_before_last": float(item is not None and item == user_items[1]),
                    "recency_rank": 1.0 / (newer + 1) if count else 0.0,
                    "count_rank": 1.0 / (more + 1) if count else 0.0,
                    "in_list": math.log1p(len(touched)),
                    "above": math.log1p(sum(j < i for j in touched)),
                    "to_last": away(newest[0] if newest else None),
                    "to_clicked": away(clicked[0] if clicked else None),
                    "to_highest": away(touched[0] if touched else None),
                    "to_lowest": away(touched[-1] if touched else None),
                    "to_next": following,
                    "offset": offset,
                }
            )
        assert items is not None
        return out


class HabitReference(Reference):
    """New or known, mine or another's."""

    def begin(self) -> None:
        self.events: dict[Any, list[Any]] = {}
        self.last: dict[Any, tuple[float, Any]] = {}

    def one(self, event: Event, now: int) -> list[float]:
        user, item = event.keys["user_id"], event.keys.get("item_id")
        done = self.events.get(user, [])
        likely = (len(set(done)) + 1.0) / (len(done) + 2.0)
        who = self.last[item][1] if item in self.last else None
        return [
            1.0 - likely if item in done else likely,
            math.log1p(len(set(done))) / 5.0,
            float(who is not None and who == user),
            float(who is not None and who != user),
        ]

    def update(self, event: Event) -> None:
        user, item = event.keys["user_id"], event.keys.get("item_id")
        if event.kind in ("impression", "") or item is None:
            return
        self.events.setdefault(user, []).append(item)
        if item not in self.last or event.time >= self.last[item][0]:
            self.last[item] = (float(event.time), user)


class PreviousReference(Reference):
    """Beside the list before."""

    def begin(self) -> None:
        self.lists: dict[Any, tuple[int, list[Any]]] = {}
        self.written: set[Any] = set()

    def get(self, shown: list[Event], now: int, columns: dict[str, list[float]]) -> list[list[float]]:
        self.now_shown = [event.keys.get("item_id") for event in shown][: self.family.keep]
        before = self.lists.get(shown[0].keys["user_id"])
        if before is None:
            return [[NAN] * 3 for _ in shown]
        there = [float(event.keys.get("item_id") in before[1]) for event in shown]
        return [[x, sum(there) / len(there), log_seconds(now - before[0])] for x in there]

    def update(self, event: Event) -> None:
        if event.kind == "impression" and event.request not in self.written:
            self.written.add(event.request)
            self.lists[event.keys["user_id"]] = (event.time, self.now_shown)


class SequenceReference(Reference):
    """The last events of a key."""

    def begin(self) -> None:
        self.rows: dict[Any, list[Event]] = {}

    def extras(self) -> list[str]:
        what = ("items", "categories", "shops", "kinds", "ages")
        return [f"{self.family.key}.{one}.{k}" for one in what for k in range(self.family.keep)]

    def one(self, event: Event, now: int) -> list[float]:
        last = self.rows.get(event.keys.get(self.family.key), [])[::-1][: self.family.keep]
        out: list[float] = []
        for column in ("item_id", "category_id", "shop_id"):
            out += self._filled([low_bits(hash_texts([text(e.keys.get(column))]))[0] for e in last])
        out += self._filled([self.world.scope.kinds.index(e.kind) for e in last])
        seconds = [max(now - e.time, 0) / 1000.0 for e in last]
        return out + self._filled([1.0 + math.floor(2.0 * math.log2(1.0 + s)) for s in seconds])

    def update(self, event: Event) -> None:
        key = event.keys.get(self.family.key)
        if event.kind not in ("impression", "") and key is not None:
            self.rows.setdefault(key, []).append(event)

    def _filled(self, values: list[Any]) -> list[float]:
        return [float(x) for x in values] + [0.0] * (self.family.keep - len(values))
