"""Would catch: a schema that changed while the published AsyncAPI document, which producers read, did not."""

from __future__ import annotations

import json
from pathlib import Path

from contracts.asyncapi import document

PUBLISHED = Path(__file__).parents[3] / "docs" / "asyncapi.json"


def test_the_published_document_is_what_the_schemas_say() -> None:
    assert json.loads(PUBLISHED.read_text(encoding="utf-8")) == document(), (
        "run `python -m contracts.asyncapi > docs/asyncapi.json`"
    )


def test_every_reference_in_the_document_resolves() -> None:
    made = document()

    def references(node: object) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [r for value in node.values() for r in references(value)]
        if isinstance(node, list):
            return [r for value in node for r in references(value)]
        return []

    found = references(made)
    assert found
    for reference in found:
        target: object = made
        for part in reference.removeprefix("#/").split("/"):
            assert isinstance(target, dict) and part in target, reference
            target = target[part]
