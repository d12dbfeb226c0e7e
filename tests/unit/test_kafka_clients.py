"""Failure: a new client of Kafka works on a plaintext broker and nowhere else.

Mechanism: a constructor that was given addresses, and no TLS and login.
Required: every one of them takes its arguments from ``clients.connection``; whoever adds one learns it here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("stream", "serving", "replay", "surgeline", "bench")
CLIENTS = {
    **dict.fromkeys(
        ("AIOKafkaConsumer", "AIOKafkaProducer", "AIOKafkaAdminClient", "AIOKafkaClient"), "aiokafka"
    ),
    **dict.fromkeys(("KafkaConsumer", "KafkaProducer", "KafkaAdminClient"), "kafka_python"),
}


def name_of(node: ast.expr) -> str:
    return str(getattr(node, "attr", getattr(node, "id", "")))


def clients(source: str) -> Iterator[tuple[int, str, bool]]:
    """Line, class, and whether its arguments come from a connection, of each client that is made."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        made = name_of(node.func)
        if made in CLIENTS:
            spread = [k.value for k in node.keywords if k.arg is None]
            called = {name_of(value.func) for value in spread if isinstance(value, ast.Call)}
            yield node.lineno, made, CLIENTS[made] in called
        elif (
            isinstance(node.func, ast.Attribute)
            and made.endswith("App")
            and name_of(node.func.value) == "faust"
        ) or made == "SurgelineApp":
            yield node.lineno, made, any(k.arg == "broker_credentials" for k in node.keywords)


def test_every_client_takes_tls_and_login_from_the_connection() -> None:
    found = [
        (f"{file.relative_to(ROOT)}:{line}: {made}", good)
        for room in ROOMS
        for file in sorted((ROOT / room).rglob("*.py"))
        for line, made, good in clients(file.read_text(encoding="utf-8"))
    ]
    assert len(found) >= 11, "the search finds none: the rule would hold for nothing"
    assert not [where for where, good in found if not good]


@pytest.mark.parametrize(
    ("source", "good"),
    [
        ("AIOKafkaConsumer(bootstrap_servers='a:1')", False),
        ("aiokafka.AIOKafkaProducer(**settings)", False),
        ("KafkaAdminClient(**connection.aiokafka())", False),
        ("faust.App('x', broker='kafka://a:1')", False),
        ("AIOKafkaConsumer(**connection.aiokafka(), group_id=None)", True),
        ("kafka.KafkaConsumer('t', **connection(bootstrap='a:1').kafka_python())", True),
        ("faust.App('x', broker='kafka://a:1', broker_credentials=kafka.faust())", True),
    ],
)
def test_the_search_can_fail(source: str, good: bool) -> None:
    assert [found for *_, found in clients(source)] == [good]
