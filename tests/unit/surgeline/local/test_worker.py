"""Fails when ``surgeline worker`` starts another program than Faust's worker, or drops an option."""

from __future__ import annotations

import os
import sys

import pytest
from click.testing import CliRunner

from surgeline.local.worker import command


def test_it_becomes_the_faust_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(os, "execv", lambda program, argv: called.append((program, argv)))
    result = CliRunner().invoke(command, ["-l", "warning", "--", "--web-port", "6067"])
    assert result.exit_code == 0, result.output
    faust = ["-m", "faust", "-A", "stream.app", "worker", "-l", "warning", "--web-port", "6067"]
    assert called == [(sys.executable, [sys.executable, *faust])]
