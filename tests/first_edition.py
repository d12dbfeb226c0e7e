"""A state folder as the first edition of Surgeline left it, its keys and values written by hand."""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec

from state.store import Batch, Store

T0 = 1_700_000_000_000


def write(folder: Path) -> dict[bytes, bytes]:
    """Make the folder; returns what stands in it.

    Rows of fixed tables under names, a join in segments of texts, actions that wait, how far it has come and
    its learners; it had no number of its format.
    """
    segment = {"base": 0, "tick": T0 // 1000, "ids": ["i1"], "times": struct.pack("<q", T0), "users": ["u1"]}
    segment |= {"items": ["x1"], "categories": ["c1"], "positions": ["1"]}
    progress = {
        "tick_ms": 1000,
        "trunk_hash": "none",
        "done_until": T0 + 1000,
        "labels_until": T0 - 4000,
        "published_until": T0 + 1000,
        "last_learned_tick": T0 // 1000 - 5,
        "version": 7,
        "totals": {"impressions_read": 1},
        "join": {"impressions": 1},
        "positions": [],
    }
    row = struct.pack("<q18d", T0, *([1.0] * 18))
    first = struct.pack(">Q", 0)
    kept = {
        b"meta/begun": b"1",
        b"meta/engine": msgspec.msgpack.encode(progress),
        b"meta/features": b"60,600,3600",
        b"meta/learners": b"\x00",
        b"orphan/i2": msgspec.msgpack.encode([1, T0, T0 + 60_000]),
        b"row/category/c1": row,
        b"row/global/*": row,
        b"row/item/x1": row,
        b"row/user/u1": row,
        b"seg/columns/" + first: msgspec.msgpack.encode(segment),
        b"seg/masks/" + first: b"\x01",
        b"seg/payload/" + first: msgspec.msgpack.encode([b"", b""]),
    }
    with Store(folder) as store:
        batch = Batch()
        for key, value in kept.items():
            batch.put(key, value)
        store.commit(batch)
    return kept
