"""Stands in for kcat where it is not installed: the options that README uses, on a real broker."""

from __future__ import annotations

import argparse
import sys

from kafka import KafkaConsumer, KafkaProducer, TopicPartition


def main() -> None:
    """Produce lines of standard input as ``key<delimiter>value``, or print the newest records."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-b", required=True)
    parser.add_argument("-t", required=True)
    parser.add_argument("-K")
    parser.add_argument("-X", action="append")
    parser.add_argument("-P", action="store_true")
    parser.add_argument("-C", action="store_true")
    parser.add_argument("-o", type=int)
    parser.add_argument("-c", type=int)
    given = parser.parse_args()
    if given.P:
        producer = KafkaProducer(bootstrap_servers=given.b)
        for line in sys.stdin:
            key, _, value = line.rstrip("\n").partition(given.K)
            producer.send(given.t, key=key.encode(), value=value.encode())
        producer.close()
        return
    consumer = KafkaConsumer(bootstrap_servers=given.b)
    partition = TopicPartition(given.t, 0)
    consumer.assign([partition])
    consumer.seek(partition, consumer.end_offsets([partition])[partition] + given.o)
    for _, record in zip(range(given.c), consumer, strict=False):
        sys.stdout.buffer.write(record.value + b"\n")
    consumer.close()


if __name__ == "__main__":
    main()
