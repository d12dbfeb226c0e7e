"""The AsyncAPI document of the topics, generated from the event schemas: ``python -m contracts.asyncapi``."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import msgspec

from contracts.events import Action, Behaviour, DeadLetter, Impression, Watermark
from contracts.scenario import Topics
from contracts.weights import Weights

#: Channel -> (topic of the default scenario, what an application does with it, message types).
_CHANNELS: dict[str, tuple[str, str, tuple[type, ...]]] = {
    "impressions": ("impressions", "receive", (Impression, Watermark)),
    "actions": ("actions", "receive", (Action, Watermark)),
    "behaviours": ("behaviours", "receive", (Behaviour, Watermark)),
    "deadLetters": ("dead_letter", "send", (DeadLetter,)),
    "weights": ("weights", "send", (Weights,)),
}


def document() -> dict[str, Any]:
    """AsyncAPI 3.0: a channel a topic, a message a struct; addresses are those of the default scenario."""
    types = sorted(
        {kind for _, _, kinds in _CHANNELS.values() for kind in kinds}, key=lambda kind: kind.__name__
    )
    _, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    topics = Topics()
    channels, operations = {}, {}
    for channel, (field, does, kinds) in _CHANNELS.items():
        references = {k.__name__: {"$ref": f"#/components/messages/{k.__name__}"} for k in kinds}
        channels[channel] = {"address": getattr(topics, field), "messages": references}
        operations[f"{does}{channel[0].upper()}{channel[1:]}"] = {
            "action": does,
            "channel": {"$ref": f"#/channels/{channel}"},
        }
    messages = {
        kind.__name__: {
            "name": kind.__name__,
            "contentType": "application/json",
            "summary": (kind.__doc__ or "").strip().splitlines()[0],
            "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
        }
        for kind in types
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Surgeline",
            "version": version("surgeline"),
            "description": "Records are keyed by user id, except weights (ctr/<source>).",
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas},
    }


if __name__ == "__main__":
    print(json.dumps(document(), indent=2, ensure_ascii=False))
