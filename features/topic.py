"""How feature rows stand in their compacted topic: the key says whose row it is.

Rows whose key holds the user belong to a source partition, whichever worker has it: ``p/<partition>/<table>/<key>``.
Others are counted by every worker: ``w/<worker>/<table>/<key>``. An empty value deletes.
"""

from __future__ import annotations

from typing import NamedTuple

OF_PARTITION, OF_WORKER = "p", "w"


class RowName(NamedTuple):
    """``owner``: the partition's number or the worker's name; ``key``: 64 bits."""

    kind: str
    owner: str
    table: str
    key: int


def row_prefix(kind: str, owner: str | int, table: str) -> bytes:
    """Everything before a row's key.

    >>> row_prefix(OF_PARTITION, 3, "user_id")
    b'p/3/user_id/'
    """
    return f"{kind}/{owner}/{table}/".encode()


def parse_row_name(name: bytes | None) -> RowName | None:
    """The name of a row, None for what is none.

    >>> parse_row_name(b"w/worker-0/item_id/00000000000000ff")
    RowName(kind='w', owner='worker-0', table='item_id', key=255)
    """
    try:
        kind, owner, table, key = (name or b"").decode().split("/")
        number = int(key, 16)
    except ValueError:
        return None
    if kind not in (OF_PARTITION, OF_WORKER) or not owner or len(key) != 16 or not number:
        return None
    return RowName(kind, owner, table, number)
