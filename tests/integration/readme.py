"""README's own commands, run as a person runs them: what ends in ``&`` goes on, the rest ends by itself."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.integration.harness import PATIENCE_S, Process

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
#: Where README's programs listen.
BROKER, PAGES, SCORES = 9092, 6066, 8500
#: A command may compute for a minute of a core of its own (a training does), on a machine that is shared.
COMMAND_S = 5 * PATIENCE_S


def section(title: str, text: str | None = None) -> str:
    """The text under a heading of README."""
    text = README.read_text(encoding="utf-8") if text is None else text
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert found, f"README has no section {title!r}"
    return found[1]


def blocks(text: str, language: str = "sh") -> list[str]:
    """The fenced code of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def commands(block: str) -> Iterator[str]:
    r"""One command at a time, as the shell would read it, without comments.

    >>> list(commands("a &   # on\n. .venv/bin/activate\nb |\n  c \\\n -d\nf() { x \\\n; }\n"))
    ['a &', 'b |\n  c \\\n -d', 'f() { x \\\n; }']
    """
    waiting = ""
    for line in block.splitlines():
        line = re.sub(r"\s+# .*$", "", line)
        waiting = f"{waiting}\n{line}" if waiting else line
        if line.rstrip().endswith(("\\", "|")) or not waiting.strip():
            continue
        if not waiting.startswith(". "):  # the environment of the tests is active
            yield waiting
        waiting = ""
    assert not waiting.strip(), f"an unfinished command: {waiting}"


class Terminal:
    """One shell in a folder; ports of README stand for ``ports``, which are free on this machine."""

    def __init__(self, folder: Path, env: Mapping[str, str], ports: Mapping[int, int]) -> None:
        self.folder = folder
        self.processes: dict[str, Process] = {}
        self._env = dict(env)
        self._ports = ports
        self._functions: list[str] = []

    def run(self, command: str) -> str:
        """What a command prints; one that goes on is started and prints nothing here."""
        command = self._at_home(command)
        if re.match(r"\w+\(\) \{", command):
            self._functions.append(command)
            return ""
        if command.endswith("&"):
            self._start(command.removesuffix("&").strip())
            return ""
        script = "\n".join(["set -o pipefail", *self._functions, command])
        path = f"{Path(sys.executable).parent}:{self._env['PATH']}"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env={**self._env, "PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"{command}\n{said}\n{self.said()}"
        assert "Traceback" not in said, said
        return said

    def interrupt(self) -> None:
        """Ctrl-C to each that runs, the last one first; all must end in good order."""
        for name, process in reversed(self.processes.items()):
            status = process.interrupt()
            assert status == 0, f"{name} ended with {status}:\n{process.text()[-3000:]}"
            assert "Traceback" not in process.text(), process.text()
        self.processes.clear()

    def end(self) -> None:
        """Whatever their state, for clean-up."""
        for process in self.processes.values():
            process.end()

    def said(self) -> str:
        """What those that run have printed, for a failure."""
        return "\n".join(f"== {name}\n{one.text()[-2000:]}" for name, one in self.processes.items())

    def _start(self, command: str) -> None:
        program, _, rest = command.partition(" ")
        name = rest.split()[0] if program == "surgeline" else program
        log = self.folder / f"{name}.log"
        binary = Path(sys.executable).with_name(program)
        argv = [shutil.which("bash") or "bash", "-c", f'cd "{self.folder}" && exec {binary} {rest}']
        self.processes[name] = Process(argv, log, self._env)

    def _at_home(self, command: str) -> str:
        """The same command on this machine's ports: options where a default stands, else the number."""
        for start, option, port in (
            ("surgeline broker", "--port", BROKER),
            ("surgeline serve", "--port", SCORES),
            ("faust -A stream.app worker", "--web-port", PAGES),
        ):
            if command.startswith(start):
                body = command.removesuffix("&").strip()
                command = f"{body} {option} {self._ports[port]}{' &' if body != command else ''}"
        for port, own in self._ports.items():
            command = command.replace(f"127.0.0.1:{port}", f"127.0.0.1:{own}")
        return command
