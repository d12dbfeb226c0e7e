"""A worker and serving as processes of this machine: command lines, environment and answers."""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


def worker_argv(*options: str, loglevel: str = "info") -> list[str]:
    """A Faust worker of ``stream.app``; ``options`` go to ``faust worker``."""
    return [sys.executable, "-m", "faust", "-A", "stream.app", "worker", "-l", loglevel, *options]


def serving_argv(port: int) -> list[str]:
    """``surgeline serve`` on 127.0.0.1."""
    return [sys.executable, "-m", "surgeline.cli", "serve", "--port", str(port)]


def environment(home: Path, scenario: Path, bootstrap: str) -> dict[str, str]:
    """Ours, with what tells a worker or serving where its files, its scenario and its broker are."""
    return {
        **os.environ,
        "SURGELINE_HOME": str(home),
        "SURGELINE_SCENARIO": str(scenario),
        "KAFKA_BOOTSTRAP": bootstrap,
    }


def fetch(url: str, body: bytes | None = None) -> Any | None:
    """The JSON that a local URL answers; None while there is no good answer."""
    headers = {"Content-Type": "application/json"} if body else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=5) as response:
            return json.load(response)
    except (urllib.error.URLError, OSError, ValueError):
        return None
