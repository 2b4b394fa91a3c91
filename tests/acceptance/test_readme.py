"""The README works as written.

Blocks that a comment ``<!-- test: dev -->`` precedes run, in their order and in one
shell, against a ``wasm-executor dev`` of their own; output that the README shows must
be what comes. Every other command of README and documents is at least one that the
command line knows, with options that it knows.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import typer.main

from stream_executor.cli.app import app
from stream_executor.cli.failures import EXITS, KINDS
from stream_executor.kafka.connection import KafkaConnection
from stream_executor.model.codes import CODES
from tests.history import assert_sound_at

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
_TESTED = re.compile(
    r"<!-- test: (\w+) -->\n```console\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
_PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEREDOC = re.compile(r"<<'?(\w+)'?")
_LINES = re.MULTILINE
_MARK = "\x1e"
_START_S = 180.0  # the first start downloads Kafka


class Step(NamedTuple):
    """A command with what the README shows of its standard output."""

    command: str
    shown: list[str]


def steps(block: str) -> list[Step]:
    """Split a console block at its prompts; a here-document belongs to its command."""
    found: list[Step] = []
    end = ""
    for line in block.splitlines():
        if end:
            found[-1] = Step(f"{found[-1].command}\n{line}", [])
            end = "" if line == end else end
        elif line.startswith("$ "):
            found.append(Step(line[2:], []))
            opened = _HEREDOC.search(line)
            end = opened[1] if opened else ""
        else:
            found[-1].shown.append(line)
    return found


# -- against the command line's own tree ---------------------------------------------


def documents() -> list[Path]:
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def commands_of(text: str) -> list[str]:
    """Give every ``wasm-executor …`` of a document: prompts, and in backquotes."""
    prompts = re.findall(
        r"^\$ (?:.*[|(] ?)?(wasm-executor(?: .*)?)$", text, flags=_LINES
    )
    quoted = re.findall(r"`(wasm-executor(?: [^`]*)?)`", text)
    return [*prompts, *quoted]


def complaint(line: str) -> str | None:
    """Say what the command line does not know of this one; None if it knows all."""
    line = re.split(r"\s+#|[|>)]", line)[0].replace("…", "")
    command: Any = typer.main.get_command(app)
    known = {option for param in command.params for option in param.opts}
    arguments = 0
    for word in shlex.split(line)[1:]:
        if word.startswith("-") and word != "-":
            if word.partition("=")[0] not in known | {"--help"}:
                return f"{line}: unknown option {word}"
        elif word in getattr(command, "commands", {}):
            command = command.commands[word]
            known = {option for param in command.params for option in param.opts}
        elif hasattr(command, "commands"):
            return f"{line}: unknown command {word}"
        else:
            arguments += 1
    return None


@pytest.mark.parametrize("document", documents(), ids=lambda p: str(p.name))
def test_commands_of_documents_exist(document: Path) -> None:
    found = commands_of(document.read_text(encoding="utf-8"))

    assert [c for c in map(complaint, found) if c] == []


def test_commands_of_remedies_exist() -> None:
    texts = [entry.remedy for entry in CODES.values()]
    remedies = [kind.remedy for kind in KINDS.values()]
    found = [c for text in texts for c in commands_of(text)]
    found += [remedy for remedy in remedies if remedy.startswith("wasm-executor")]

    assert found
    assert [c for c in map(complaint, found) if c] == []


def test_a_wrong_command_would_be_noticed() -> None:
    assert complaint("wasm-executor sbmit x") is not None
    assert complaint("wasm-executor submit x --functoin f") is not None
    assert complaint("wasm-executor submit x --function f") is None


def test_exit_codes_are_those_of_the_command_line() -> None:
    table = README.partition("## Exit codes")[2].partition("\n## ")[0]

    rows = re.findall(r"^\| (\d+) \| (.*) \|$", table, re.MULTILINE)
    assert rows == [(str(int(code)), text) for code, text in EXITS.items()]


# -- against a running executor --------------------------------------------------------


class Dev(NamedTuple):
    """A running ``wasm-executor dev``."""

    credentials: Path
    bootstrap: str

    @property
    def environment(self) -> dict[str, str]:
        """Give what the README tells a reader to export, and an activated .venv."""
        return os.environ | {
            "EXECUTOR_CREDENTIALS": str(self.credentials),
            "BOOTSTRAP": self.bootstrap,
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    folder = tmp_path_factory.mktemp("dev")
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [BIN / "wasm-executor", "dev"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield _ready(process, log)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        finally:
            process.kill()


def _ready(process: subprocess.Popen[bytes], log: Path) -> Dev:
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        said = re.search(r"EXECUTOR_CREDENTIALS=(\S+)", log.read_text())
        if said:
            path = Path(said[1].strip("'\""))
            return Dev(path, json.loads(path.read_text())["bootstrap_servers"])
        time.sleep(0.1)
    pytest.fail(f"dev did not come up:\n{log.read_text()[-4000:]}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder that stands for the clone's."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


def run(block: list[Step], folder: Path, environment: dict[str, str]) -> list[str]:
    """Run steps in one shell; give each one's standard output."""
    script = "".join(f"{step.command}\nprintf '{_MARK}'\n" for step in block)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],  # noqa: S607
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    outputs = done.stdout.split(_MARK)
    assert done.returncode == 0, (
        f"step {len(outputs)}: {block[len(outputs) - 1].command}\n{done.stderr}"
    )
    return outputs[:-1]


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.needs("kcat", "jq")
def test_what_the_readme_shows_is_what_comes(dev: Dev, folder: Path) -> None:
    blocks = _TESTED.findall(README)
    assert {name for name, _ in blocks} == {"dev"}

    last: list[str] = []
    for _, text in blocks:
        block = steps(text)
        last = run(block, folder, dev.environment)
        for step, output in zip(block, last, strict=True):
            if step.shown:
                assert output.splitlines() == step.shown, step.command
    answer = json.loads(last[-1])
    assert (answer["status"], answer["outputs"]) == ("SUCCEEDED", [{"i64": "144"}])
    _ask_through_librdkafka(dev, folder)
    _ask_from_python(dev, folder)
    assert_sound_at(KafkaConnection(bootstrap_servers=dev.bootstrap))


def _ask_through_librdkafka(dev: Dev, folder: Path) -> None:
    ask = "examples/librdkafka/ask.py"
    done = subprocess.run(
        [sys.executable, ask, dev.bootstrap, "request.json"],
        cwd=folder,
        env=dev.environment,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["outputs"] == [{"i64": "144"}]


def _ask_from_python(dev: Dev, folder: Path) -> None:
    programs = _PYTHON.findall(README)
    assert len(programs) == 2
    for program in programs:
        assert 'os.environ["EXECUTOR_CREDENTIALS"]' in program
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                program,
            ],
            cwd=folder,
            env=dev.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stdout) == (0, "[144]\n"), done.stderr
