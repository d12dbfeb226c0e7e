"""Event-time order over batches, with memory for one batch and the actions that are still to come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import polars as pl

from replay.columns import ACTION, in_event_order
from replay.errors import LogError

_NEVER = -(2**63)


def in_order(batches: Iterable[pl.DataFrame], *, delayed: bool) -> Iterator[pl.DataFrame]:
    """Order canonical ``batches`` by event time; at equal times by kind (`replay.columns.in_event_order`).

    ``delayed`` says what a batch promises. True: all but actions are in time order across batches and its
    actions may lie in the future, so events up to the newest of the others can go. False: all events are in
    time order across batches, so everything before the newest event can go. Events at exactly that time
    wait, because the next batch may bring an impression of the same millisecond. Source order breaks the
    ties that are left.
    """
    waiting: pl.DataFrame | None = None
    done = _NEVER
    for batch in batches:
        if not batch.height:
            continue
        oldest, newest = bounds(batch)
        if oldest < done:
            raise LogError(f"not in event-time order: {oldest} ms follows {done} ms; sort the log by time")
        if delayed:
            newest = bounds(batch.filter(pl.col("event") != ACTION))[1]
        done = max(done, newest)
        frame = batch if waiting is None else pl.concat([waiting, batch])
        frame = in_event_order(frame)
        ready = frame["event_time"].search_sorted(done, side="left")
        if ready:
            yield frame.head(ready)
        waiting = frame.slice(ready)
    if waiting is not None and waiting.height:
        yield waiting


def bounds(frame: pl.DataFrame) -> tuple[int, int]:
    """Oldest and newest event time (ms) of ``frame``; both far in the past where it is empty."""
    time = pl.col("event_time")
    oldest, newest = frame.select(time.min().alias("oldest"), time.max().alias("newest")).row(0)
    return (_NEVER, _NEVER) if oldest is None else (int(oldest), int(newest))


def in_slices(frames: Iterable[pl.DataFrame], rows: int) -> Iterator[pl.DataFrame]:
    """Cut frames into slices of at most ``rows`` rows."""
    for frame in frames:
        if frame.height <= rows:
            yield frame
        else:
            yield from frame.iter_slices(rows)
