"""Records of batched topics as aiokafka has decoded them, without a second object for each.

A fetcher makes a ``ConsumerRecord`` of eleven fields of every record, which costs about as much as decoding
it did. Who reads a partition batch asks for offset, key, value and timestamp alone, and the decoded record
has them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any


def hand_out_plain_records(fetcher: Any, plain: Callable[[str], bool]) -> None:
    """From now on ``fetcher`` (of aiokafka) hands out decoded records of the topics that ``plain`` names."""
    if type(fetcher._records) is OrderedDict:
        fetcher._records = _Fetched(fetcher._records, plain)


class _Fetched(OrderedDict[Any, Any]):
    """What a fetcher has fetched and not yet handed out, by partition."""

    def __init__(self, fetched: Mapping[Any, Any], plain: Callable[[str], bool]) -> None:
        self._plain = plain
        super().__init__(fetched)

    def __setitem__(self, tp: Any, fetched: Any) -> None:
        records = getattr(fetched, "_partition_records", None)  # an error has none
        if records is not None and self._plain(tp.topic):
            records._consumer_record = _as_decoded
        super().__setitem__(tp, fetched)


def _as_decoded(_tp: Any, record: Any) -> Any:
    return record
