"""Faults on demand: pure, seeded transformations of a stream of canonical frames.

Each takes frames in order of delivery and gives a `Faulty`: frames again, and `counts` of what was done,
complete once the frames are read to their end, so that a test can hold the engine's counters against
them. They compose, work in constant memory (what is held back is bounded by rate x delay) and do not
depend on how the stream was cut into frames. Faults of single records are in `record_faults.py`.

Delays are in event time: a row delayed by 2 s is delivered when the stream's newest event time has moved
on by 2 s. ``event_time`` itself changes only in `clock_skew`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Literal, TypeVar, get_args

import numpy as np
import polars as pl

from contracts.events import ACTION, ACTIONS, IMPRESSION, KINDS
from replay.columns import kinds_of
from replay.errors import ReplayError

T = TypeVar("T")
Counts = dict[str, int]
Frames = Iterable[pl.DataFrame]
#: Rows, when each is delivered (ms, int64 (n,)), and the newest event time so far, before which none will be.
Timed = tuple[pl.DataFrame, np.ndarray, int]

FLOOD_USER = "u-flood"
#: Whose clock is wrong: that of all of a user's events, or (a phone's, not the server's) of the actions only.
Whose = Literal["all", "actions"]
WHOSE: tuple[str, ...] = get_args(Whose)


class FaultError(ReplayError, ValueError):
    """A fault cannot be made as asked for; the message names the parameter and what is allowed."""


class Faulty(Generic[T]):
    """A stream with faults, to be read once; ``counts`` grows while it is read."""

    def __init__(self, make: Callable[[Counts], Iterator[T]], names: Sequence[str]) -> None:
        self.counts: Counts = dict.fromkeys(names, 0)
        self._stream = make(self.counts)

    def __iter__(self) -> Iterator[T]:
        return self._stream


def duplicates(frames: Frames, *, share: float, seed: int, within_ms: int = 0) -> Faulty[pl.DataFrame]:
    """Delivers a ``share`` of the rows a second time, up to ``within_ms`` later.

    Counts: ``impressions``, ``actions`` and ``behaviours`` that were delivered twice. These last have no id
    by which an engine could know it.
    """
    _check_share(share)
    _check_time("within_ms", within_ms)

    def make(counts: Counts) -> Iterator[pl.DataFrame]:
        chosen, wait = _streams(seed, 2)

        def timed() -> Iterator[Timed]:
            clock = _Clock()
            for frame in frames:
                now = clock.of(frame)
                again = chosen.random(frame.height) < share
                later = (wait.random(frame.height) * (within_ms + 1)).astype(np.int64)[again]
                kinds = kinds_of(frame).to_numpy()
                for kind, word in enumerate(KINDS):
                    counts[f"{word}s"] += int((again & (kinds == kind)).sum())
                # A copy stands right behind its original and leaves it only by being delayed.
                rows = np.repeat(np.arange(frame.height), 1 + again)
                arrival = now[rows]
                copies = np.flatnonzero(again) + np.arange(1, later.size + 1)
                arrival[copies] += later
                yield frame[rows], arrival, clock.newest

        yield from _deliver(timed())

    return Faulty(make, [f"{word}s" for word in KINDS])


def late(
    frames: Frames, *, share: float, seed: int, least_ms: int = 1_000, most_ms: int = 10_000
) -> Faulty[pl.DataFrame]:
    """Delivers a ``share`` of the rows ``least_ms`` to ``most_ms`` too late, and so out of order.

    Counts: ``late`` rows that were delayed; ``out_of_order`` rows that came after a newer one.
    """
    _check_share(share)
    _check_time("least_ms", least_ms)
    if most_ms < least_ms:
        raise FaultError(f"most_ms must be at least least_ms ({least_ms}), not {most_ms}")

    def make(counts: Counts) -> Iterator[pl.DataFrame]:
        chosen, wait = _streams(seed, 2)

        def timed() -> Iterator[Timed]:
            clock = _Clock()
            for frame in frames:
                now = clock.of(frame)
                slow = chosen.random(frame.height) < share
                delay = least_ms + (wait.random(frame.height) * (most_ms - least_ms + 1)).astype(np.int64)
                counts["late"] += int(slow.sum())
                yield frame, np.where(slow, now + delay, now), clock.newest

        after = _Clock()
        for frame in _deliver(timed()):
            counts["out_of_order"] += int((frame["event_time"].to_numpy() < after.of(frame)).sum())
            yield frame

    return Faulty(make, ("late", "out_of_order"))


def clock_skew(
    frames: Frames, *, share: float, seed: int, skew_ms: int, whose: Whose = "all"
) -> Faulty[pl.DataFrame]:
    """The clocks of a ``share`` of the users are wrong by ``skew_ms`` (either sign); delivery is not.

    ``actions``: only where these are stamped; all else keeps the server's time. Counts: ``skewed`` rows.
    """
    _check_share(share)
    if whose not in WHOSE:
        raise FaultError(f"whose must be one of {', '.join(WHOSE)}, not {whose!r}")

    def make(counts: Counts) -> Iterator[pl.DataFrame]:
        for frame in frames:
            users = frame["user_id"].unique(maintain_order=True)
            wrong = users.filter(
                pl.Series([_chance(seed, user) < share for user in users.to_list()], dtype=pl.Boolean)
            )
            hit = frame["user_id"].is_in(wrong.implode())
            if whose == "actions":
                hit = hit & (frame["event"] == ACTION)
            counts["skewed"] += int(hit.sum())
            yield frame.with_columns(pl.col("event_time") + pl.lit(hit).cast(pl.Int64) * skew_ms)

    return Faulty(make, ("skewed",))


def label_outage(
    frames: Frames,
    *,
    from_ms: int,
    until_ms: int,
    lost: bool = False,
    actions: Sequence[str] = ACTIONS,
) -> Faulty[pl.DataFrame]:
    """Actions of the given kinds do not come between two event times (ms UTC, the end excluded).

    They are delivered together when the outage ends, or ``lost``. Counts: ``delayed``, ``lost``.
    """
    if until_ms <= from_ms:
        raise FaultError(f"until_ms must be after from_ms ({from_ms}), not {until_ms}")
    unknown = sorted(set(actions) - set(ACTIONS))
    if unknown:
        raise FaultError(f"actions must be among {', '.join(ACTIONS)}, not {', '.join(unknown)}")

    def make(counts: Counts) -> Iterator[pl.DataFrame]:
        def timed() -> Iterator[Timed]:
            clock = _Clock()
            for frame in frames:
                now = clock.of(frame)
                kind = frame["action"].is_in(list(actions)).fill_null(False).to_numpy()
                hit = kind & (now >= from_ms) & (now < until_ms)
                counts["lost" if lost else "delayed"] += int(hit.sum())
                if lost:
                    yield frame.filter(pl.Series(~hit)), now[~hit], clock.newest
                else:
                    yield frame, np.where(hit, until_ms, now), clock.newest

        yield from _deliver(timed())

    return Faulty(make, ("delayed", "lost"))


def hot_key(
    frames: Frames, *, from_ms: int, until_ms: int, copies: int, user_id: str = FLOOD_USER, item_id: str = ""
) -> Faulty[pl.DataFrame]:
    """One user (and so one partition) floods: each impression between two event times comes ``copies``
    times more, from ``user_id``, for ``item_id`` where given, under new impression ids.

    Counts: ``flooded`` impressions added.
    """
    if until_ms <= from_ms:
        raise FaultError(f"until_ms must be after from_ms ({from_ms}), not {until_ms}")
    if copies < 1:
        raise FaultError(f"copies must be at least 1, not {copies}")

    def make(counts: Counts) -> Iterator[pl.DataFrame]:
        for frame in frames:
            time = frame["event_time"].to_numpy()
            hit = (frame["event"] == IMPRESSION).to_numpy() & (time >= from_ms) & (time < until_ms)
            counts["flooded"] += copies * int(hit.sum())
            if not hit.any():
                yield frame
                continue
            times = np.where(hit, 1 + copies, 1)
            rows = np.repeat(np.arange(frame.height), times)
            nth = np.arange(rows.size) - np.repeat(np.cumsum(times) - times, times)
            added = pl.col("nth") > 0
            item = pl.lit(item_id) if item_id else pl.col("item_id")
            yield (
                frame[rows]
                .with_columns(nth=pl.Series(nth))
                .with_columns(
                    pl.when(added).then(pl.lit(user_id)).otherwise("user_id").alias("user_id"),
                    pl.when(added).then(item).otherwise("item_id").alias("item_id"),
                    *(
                        pl.when(added)
                        .then(pl.concat_str(pl.col(name), pl.lit("-flood-"), pl.col("nth")))
                        .otherwise(name)
                        .alias(name)
                        for name in ("impression_id", "request_id")
                    ),
                )
                .drop("nth")
            )

    return Faulty(make, ("flooded",))


class _Clock:
    """The newest event time so far, by row; it never goes back, also where the stream does."""

    def __init__(self) -> None:
        self.newest = -(2**62)

    def of(self, frame: pl.DataFrame) -> np.ndarray:
        """Newest event time at each row of ``frame``, int64 (n,), own array."""
        now = np.maximum(np.maximum.accumulate(frame["event_time"].to_numpy()), self.newest)
        if now.size:
            self.newest = int(now[-1])
        return now


def _deliver(timed: Iterable[Timed]) -> Iterator[pl.DataFrame]:
    """Rows by their arrival, ties in their order; whatever is due by the stream's clock leaves at once."""
    held: pl.DataFrame | None = None
    due = np.empty(0, dtype=np.int64)
    for frame, arrival, clock in timed:
        rows = frame if held is None else pl.concat([held, frame])
        due = np.concatenate([due, arrival])
        if not due.size:
            held = rows
            continue
        order = np.argsort(due, kind="stable")
        ready = order[due[order] <= clock]
        keep = np.sort(order[due[order] > clock])
        if ready.size:
            yield rows[ready]
        held, due = rows[keep], due[keep]
    if held is not None and held.height:
        yield held[np.argsort(due, kind="stable")]


def _streams(seed: int, n: int) -> list[np.random.Generator]:
    return [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(n)]


def _chance(seed: int, user: str) -> float:
    """A fixed number in [0, 1) for each user and seed, equal in every version of every library."""
    return zlib.crc32(f"{seed}/{user}".encode()) / 2**32


def _check_share(share: float) -> None:
    if not 0.0 <= share <= 1.0:
        raise FaultError(f"share must be between 0 and 1, not {share!r}")


def _check_time(name: str, value: int) -> None:
    if value < 0:
        raise FaultError(f"{name} must not be negative, not {value!r}")
