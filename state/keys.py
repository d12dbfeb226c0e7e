"""Every key of a state folder in RocksDB, and the version of what stands at them.

Families of rows have a prefix, single values a whole key. Whoever changes what stands at a key, or what a key
means, raises ``FORMAT_VERSION``: a state of another version is refused here, in words, before it is read.
"""

from __future__ import annotations

from state.errors import StateDamagedError, StateFormatError
from state.store import Batch, Store

#: 1 was the first edition, which wrote no version; 2 is the second.
FORMAT_VERSION = 2

#: The format version as decimal digits.
FORMAT = b"meta/format"
#: There once the folder was begun, before anything else is written.
BEGUN = b"meta/begun"
#: How far the engine has come, and the state of its learners.
PROGRESS, LEARNERS = b"meta/engine", b"meta/learners"
#: With a trunk's hash behind it: learners of a trunk that is not in use.
ASIDE = b"meta/aside/"
#: What the feature rows were made with.
FEATURES = b"meta/features"
#: With an impression's id behind it: actions that wait for it.
ORPHAN = b"orphan/"
#: With the number of a first row behind it, 8 bytes: impressions of a tick, in parts.
SEGMENT_COLUMNS, SEGMENT_PAYLOAD, SEGMENT_MASKS = b"seg/columns/", b"seg/payload/", b"seg/masks/"


def rows_of(table: str) -> bytes:
    """The prefix of a feature table's rows; an entity's id stands behind it."""
    return f"row/{table}/".encode()


def mark_format(batch: Batch) -> None:
    """Say in ``batch`` which format this state has."""
    batch.put(FORMAT, b"%d" % FORMAT_VERSION)


def check_format(store: Store) -> None:
    """Refuse a state of another format; an empty one has none yet.

    Raises ``StateFormatError`` that says what to do, ``StateDamagedError`` where the version is no number.
    """
    value = store.get(FORMAT)
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
