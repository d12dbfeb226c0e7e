"""How far an engine has come: the part of a checkpoint that is neither table nor join.

It stands in the same atomic batch as these, so that offsets, counts and learners always agree.
"""

from __future__ import annotations

import msgspec

from contracts.events import ACTIONS
from state.errors import StateDamagedError, StateFormatError, decoding
from state.joins.columns import JoinCounts
from state.keys import LEARNERS, META_BEGUN, META_FORMAT, PROGRESS, mark_format
from state.store import Batch, Store
from stream.lane import NEVER
from stream.resume import Known


class Sent(msgspec.Struct):
    """What has reached Kafka, as of the tick before; ``dead_letters`` by the topic that they came from."""

    weights: int = 0
    feature_rows: int = 0
    dead_letters: dict[str, int] = msgspec.field(default_factory=dict)


class Totals(msgspec.Struct):
    """What the engine has done since its state began; part of every checkpoint.

    ``late``: events behind what was done when they came. ``ahead``: events ahead of the clock, which wait
    for their time. ``older_logs``: how often the whole input went back in time. ``rewound`` records were
    read again because the state was older than its own commit; ``lost`` ones were gone from the topic
    before they were read; ``done_twice`` were done here and, after a move, by another worker.
    ``unlearned`` impressions were closed without learning, when a new trunk took over; ``logged_refused``
    logged features lay outside of their range, and the computed ones were used. States of before a
    count was there have it at 0.
    """

    impressions_read: int = 0
    actions_read: int = 0
    behaviours_read: int = 0
    refused: int = 0
    late: int = 0
    ahead: int = 0
    older_logs: int = 0
    rewound: int = 0
    lost: int = 0
    done_twice: int = 0
    unlearned: int = 0
    logged_refused: int = 0
    ticks: int = 0
    actions_by_kind: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(ACTIONS, 0))
    sent: Sent = msgspec.field(default_factory=Sent)

    @property
    def events(self) -> int:
        """Events of every kind that were done."""
        return self.impressions_read + self.actions_read + self.behaviours_read


class Progress(msgspec.Struct):
    """Ticks and times as in ``Engine``, ``high`` as in ``Timeline``.

    ``positions`` are (kind, partition, what is known of it).
    """

    tick_ms: int
    trunk_hash: str
    done_until: int
    labels_until: int
    published_until: int
    last_learned_tick: int
    version: int
    totals: Totals
    joins: dict[int, JoinCounts]
    positions: list[tuple[int, int, Known]]
    high: int = NEVER


def begin(store: Store) -> bool:
    """Mark a store as begun, where no write-ahead log is needed to find that. False if it was already."""
    if store.get(META_BEGUN) is not None:
        return False
    batch = Batch()
    batch.put(META_BEGUN, b"1")
    mark_format(batch)
    store.commit(batch)
    store.flush()
    return True


def write_progress(batch: Batch, progress: Progress, learners: bytes) -> None:
    """Add ``progress`` and the learners' state to ``batch``."""
    batch.put(PROGRESS, msgspec.msgpack.encode(progress))
    batch.put(LEARNERS, learners)


def read_progress(store: Store, tick_ms: int) -> tuple[Progress, bytes] | None:
    """Progress and learners' state of the last checkpoint; None in a new store.

    Raises ``StateFormatError`` where the state is damaged, or of another tick length. What a state of another
    trunk is good for, ``stream.new_trunk`` knows.
    """
    data, learners = store.get(PROGRESS), store.get(LEARNERS)
    if data is None:
        if any(key not in (META_BEGUN, META_FORMAT) for key, _ in store.scan(b"")):
            raise StateDamagedError(store.path, "there are rows, but not how far it has come")
        return None
    with decoding(store.path, "how far it has come, unless another version of Surgeline wrote it"):
        progress = msgspec.msgpack.decode(data, type=Progress)
    if learners is None:
        raise StateDamagedError(store.path, "it has no learners")
    if progress.tick_ms != tick_ms:
        raise StateFormatError(
            f"state in {store.path} was written with times.tick_s = {progress.tick_ms / 1000:g}, the "
            f"scenario has {tick_ms / 1000:g}; restore that value or use a new state folder"
        )
    return progress, learners
