"""Every key of a state folder in RocksDB, and the version of what stands at them.

Families of rows have a prefix, single values a whole key. Whoever changes what stands at a key, or what a key
means, raises ``FORMAT_VERSION``: a state of another version is refused here, in words, before it is read.
"""

from __future__ import annotations

from typing import NamedTuple

from state.errors import StateDamagedError, StateFormatError
from state.store import Batch, Store

#: 1 and 2 were the first edition's: rows of fixed tables, a join that knew names. In 3 a worker had one join.
FORMAT_VERSION = 4

#: The format version as decimal digits, and the hash of the plan that rows were written with.
META_FORMAT, META_PLAN = b"meta/format", b"meta/plan"
#: There once the folder was begun, before anything else is written.
META_BEGUN = b"meta/begun"
#: How far the engine has come, and the state of its learners.
PROGRESS, LEARNERS = b"meta/engine", b"meta/learners"
#: With a trunk's hash behind it: learners of a trunk that is not in use.
ASIDE = b"meta/aside/"
#: Feature rows: table (2 bytes), source partition (2 bytes, one more than its number), key (8 bytes).
ROWS = b"rows/"
#: The join: source partition (2 bytes, one more than its number), and behind it: blocks of impressions, what
#: experts saw and said, action masks (first row, 8 bytes each) and actions that wait (impression id).
JOIN_SHOWN, JOIN_PAYLOAD, JOIN_MASKS, JOIN_WAITING = (
    b"join/shown/",
    b"join/payload/",
    b"join/masks/",
    b"join/wait/",
)


def partition_number(partition: int) -> bytes:
    """A source partition's number as part of a key."""
    return (partition + 1).to_bytes(2, "big")


class JoinKeys(NamedTuple):
    """What the keys of one partition's join begin with."""

    shown: bytes
    payload: bytes
    masks: bytes
    waiting: bytes

    @classmethod
    def of(cls, partition: int) -> JoinKeys:
        """Those of a source partition."""
        kinds = (JOIN_SHOWN, JOIN_PAYLOAD, JOIN_MASKS, JOIN_WAITING)
        return cls(*(kind + partition_number(partition) for kind in kinds))


def row_number(row: int) -> bytes:
    """A row's number as part of a key. Big-endian: key order is the order of the rows."""
    return row.to_bytes(8, "big")


def mark_format(batch: Batch) -> None:
    """Say in ``batch`` which format this state has."""
    batch.put(META_FORMAT, b"%d" % FORMAT_VERSION)


def check_format(store: Store) -> None:
    """Refuse a state of another format; an empty one has none yet.

    Raises ``StateFormatError`` that says what to do, ``StateDamagedError`` where the version is no number.
    """
    value = store.get(META_FORMAT)
    if value is None:
        if next(store.scan(b""), None) is None:
            return
        found = 1
    elif value.isdigit():
        found = int(value)
    else:
        raise StateDamagedError(store.path, f"its format is {value!r}")
    if found != FORMAT_VERSION:
        which = "an earlier" if found < FORMAT_VERSION else "a later"
        raise StateFormatError(
            f"state in {store.path} was written by {which} version of Surgeline: it has format {found}, this "
            f"version reads {FORMAT_VERSION}. Run the version that wrote it, or set the folder aside (mv "
            f"{store.path} {store.path}.format{found}) and start anew, which loses what was learned in it"
        )
