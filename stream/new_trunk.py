"""A state that was learned on another trunk: what of it still holds, and what begins anew.

Offsets, counts, joins and totals do not depend on a trunk; learners do, and so does what the learners saw
of the impressions whose labels are still open. docs/decisions/0005 says why a worker goes on.
"""

from __future__ import annotations

import logging

import msgspec

from models.online.codec import LearnerStateError
from models.online.panel import Panel
from state.errors import StateFormatError, decoding, start_anew
from state.joins.joins import Joins
from state.keys import ASIDE
from state.store import Batch, Store
from stream.checkpoint import Progress
from stream.lane import NEVER
from stream.notices import Notices

#: Learners of this many earlier trunks are kept, so that going back to one costs nothing.
KEPT_TRUNKS = 4


class Aside(msgspec.Struct):
    """Learners of a trunk that is not in use. ``version`` is the last one that they were published as."""

    trunk_hash: str
    version: int
    last_learned_tick: int
    learners: bytes


def take_up_learners(
    panel: Panel,
    joins: Joins,
    store: Store,
    progress: Progress,
    learners: bytes,
    trunk_hash: str,
    notices: Notices,
) -> int:
    """Load the learners' state into ``panel``. Returns the number of the last tick that they learned.

    Call it after ``joins`` are restored and the totals are ``progress.totals``. Where the state was learned
    on another trunk, its learners are put aside, and those of ``trunk_hash`` go on from where they were
    left, or begin at its frozen head; impressions whose label is open are closed without learning, counted
    in ``totals.unlearned``. Raises ``StateFormatError`` where the state is of other learners.
    """
    if progress.trunk_hash == trunk_hash:
        _load(panel, store, learners)
        return progress.last_learned_tick
    kept = _swap(
        store,
        Aside(progress.trunk_hash, progress.version, progress.last_learned_tick, learners),
        trunk_hash,
    )
    unlearned = joins.drop_open()
    progress.totals.unlearned += unlearned
    if kept is None:
        how = f"learners begin at the frozen head of trunk {trunk_hash[:12]}"
    else:
        _load(panel, store, kept.learners)
        how = f"learners of trunk {trunk_hash[:12]} go on from version {kept.version}, where they were left"
    notices.say(
        "new_trunk",
        f"The state was learned on trunk {progress.trunk_hash[:12]}, the scenario has another: {how}; "
        f"offsets, counts and joins go on; {unlearned:,} impressions with an open label are not learned from",
        level=logging.WARNING,
    )
    return NEVER if kept is None else kept.last_learned_tick


def _load(panel: Panel, store: Store, learners: bytes) -> None:
    try:
        panel.load_state(learners)
    except LearnerStateError as error:
        raise StateFormatError(
            f"state in {store.path} is damaged, or of other learners or features than the scenario's: "
            f"{error}. Restore these, or: {start_anew(store.path)}"
        ) from error


def _swap(store: Store, old: Aside, wanted: str) -> Aside | None:
    """Put ``old`` aside and return what was kept of ``wanted``.

    Written at once and not with the next checkpoint: until that lands, ``progress`` still names the old
    trunk, and a worker that is killed in between does the same again.
    """
    found = {key: _read(store, value) for key, value in store.scan(ASIDE)}
    found[ASIDE + old.trunk_hash.encode()] = old
    batch = Batch()
    batch.put(ASIDE + old.trunk_hash.encode(), msgspec.msgpack.encode(old))
    newest = sorted(found, key=lambda key: found[key].version, reverse=True)
    for key in newest[KEPT_TRUNKS:]:
        batch.delete(key)
    store.commit(batch)
    return found.get(ASIDE + wanted.encode())


def _read(store: Store, data: bytes) -> Aside:
    with decoding(store.path, "learners of an earlier trunk"):
        return msgspec.msgpack.decode(data, type=Aside)
