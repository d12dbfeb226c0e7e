"""Every key of the state folder, and the version of what stands there. Numbers in keys are big-endian."""

from __future__ import annotations

#: Version of the layout on disk. Raise it where a state of before can no longer be read.
FORMAT = 2
#: Keys of the layout: the version as text, and the features that rows were written with.
META_FORMAT, META_PLAN = b"meta/format", b"meta/plan"
#: The mark of a folder that was begun, which holds nothing else yet.
META_BEGUN = b"meta/begun"

#: Feature rows: table (2 bytes), source partition (2 bytes, one more than its number), key (8 bytes).
ROWS = b"rows/"
#: The join: blocks of impressions, what experts saw and said, action masks (first row, 8 bytes each) and
#: actions that wait (impression id).
JOIN_SHOWN, JOIN_PAYLOAD, JOIN_MASKS, JOIN_WAITING = (
    b"join/shown/",
    b"join/payload/",
    b"join/masks/",
    b"join/wait/",
)
