"""How feature rows stand in their compacted topic: the key says whose row it is.

Rows whose key holds the user belong to a source partition, whichever worker has it:
``p/<partition>/<table>/<key>``. Others are counted by every worker: ``w/<worker>/<table>/<key>``. The key is
16 hexadecimal digits in lower case. An empty value deletes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from features.hashing import Keys

OF_PARTITION, OF_WORKER = "p", "w"
#: Characters of a row's key, and how they must look.
KEY_DIGITS = 16
_KEY = re.compile(rb"[0-9a-f]{16}\Z")
_PREFIX = re.compile(r"([pw])/([^/]+)/([^/]+)/\Z")


class RowPrefix(NamedTuple):
    """``owner``: the partition's number or the worker's name."""

    kind: str
    owner: str
    table: str


def row_prefix(kind: str, owner: str | int, table: str) -> bytes:
    """Everything before a row's key.

    >>> row_prefix(OF_PARTITION, 3, "user_id")
    b'p/3/user_id/'
    """
    return f"{kind}/{owner}/{table}/".encode()


def parse_prefix(prefix: bytes) -> RowPrefix | None:
    """Whose rows begin with this, None for nobody's.

    >>> parse_prefix(b"w/worker-0/item_id/")
    RowPrefix(kind='w', owner='worker-0', table='item_id')
    """
    try:
        found = _PREFIX.match(prefix.decode())
    except UnicodeDecodeError:
        return None
    if found is None or (found[1] == OF_PARTITION and not re.fullmatch("0|[1-9][0-9]{0,9}", found[2])):
        return None
    return RowPrefix(*found.groups())


def row_names(prefix: bytes, keys: Keys) -> list[bytes]:
    """The names of rows.

    >>> row_names(b"p/3/user_id/", np.array([255], dtype=np.uint64))
    [b'p/3/user_id/00000000000000ff']
    """
    digits = keys.astype(">u8").tobytes().hex().encode()
    return [prefix + digits[at : at + KEY_DIGITS] for at in range(0, len(digits), KEY_DIGITS)]


def parse_keys(digits: Sequence[bytes]) -> Keys:
    """The last parts of names as keys (n,), 0 for what is no key.

    >>> parse_keys([b"00000000000000ff", b"ff"]).tolist()
    [255, 0]
    """
    wrong = [i for i, one in enumerate(digits) if _KEY.match(one) is None]
    if wrong:
        digits = list(digits)
        for i in wrong:
            digits[i] = b"0" * KEY_DIGITS
    return np.frombuffer(bytes.fromhex(b"".join(digits).decode()), dtype=">u8").astype(np.uint64)
