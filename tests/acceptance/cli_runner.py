"""Runs the installed command as a process, the way a shell would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMMAND = Path(sys.executable).with_name("wasm-executor")


@dataclass(frozen=True)
class Ran:
    """What one run gave."""

    code: int
    out: str
    err: str

    @property
    def object(self) -> Any:
        """The one JSON object on stdout."""
        return json.loads(self.out)

    @property
    def objects(self) -> list[Any]:
        """The JSON Lines on stdout."""
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass
class Cli:
    """The command in an environment that nothing leaks into."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()

    @property
    def variables(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "WASM_EXECUTOR_ENV_FILE": os.devnull,
            **self.environment,
        }

    def __call__(
        self, *arguments: str, stdin: bytes | None = None, timeout_s: float = 60
    ) -> Ran:
        ran = subprocess.run(
            [COMMAND, *arguments, *self.options],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            env=self.variables,
            cwd=self.folder,
            timeout=timeout_s,
            check=False,
        )
        return Ran(ran.returncode, ran.stdout.decode(), ran.stderr.decode())

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start it and come back at once."""
        return subprocess.Popen(
            [COMMAND, *arguments, *self.options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.variables,
            cwd=self.folder,
        )

    def with_options(self, *options: str) -> Cli:
        """The same command with options after every command line."""
        return Cli(self.folder, self.environment, options)
