"""Fails when `surgeline serve` starts with another trunk than it was told, or dies without saying why."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from models.deep.locate import resolve_trunk
from models.deep.trunk import TrunkError
from serving.cli import serve


def test_no_trunk_at_all_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A first run must work, and say what it lacks."""
    with caplog.at_level(logging.WARNING):
        assert resolve_trunk("", tmp_path).hash == "none"
    assert str(tmp_path / "trunk") in caplog.text


def test_a_trunk_that_is_there_must_load(tmp_path: Path) -> None:
    """Going on without it would refuse every version of weights that was learned with it."""
    with pytest.raises(TrunkError):
        resolve_trunk(str(tmp_path / "named"), tmp_path)
    (tmp_path / "trunk").mkdir()
    with pytest.raises(TrunkError):
        resolve_trunk("", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--scenario", "nowhere.toml"], "nowhere.toml"),
        (["--trunk", "no-such-folder"], "no-such-folder"),
        (["--port", "99999"], "99999"),
        (["--feature-rows", "0"], "feature-rows"),
    ],
)
def test_a_wrong_option_is_named(arguments: list[str], says: str) -> None:
    """Before anything listens."""
    result = CliRunner().invoke(serve, arguments)
    assert result.exit_code != 0
    assert says in result.output


def test_features_that_cannot_be_used_are_one_line(tmp_path: Path) -> None:
    """Which line, which entry, and what is allowed; not a traceback."""
    scenario = tmp_path / "s.toml"
    scenario.write_text('[[features.counts]]\nkeys = ["brand"]\n')
    result = CliRunner().invoke(serve, ["--scenario", str(scenario)])
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: scenario {scenario}, line 2: features.counts[0].keys: no column")
    assert "'brand'; allowed are user_id" in result.output
    assert result.output.count("\n") == 1


def test_a_taken_port_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a traceback."""
    monkeypatch.setenv("SURGELINE_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(serve, ["--port", str(port), "--bootstrap", "127.0.0.1:1"])
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in result.output
