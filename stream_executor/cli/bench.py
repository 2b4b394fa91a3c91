"""``bench``: what this machine makes of the service, beside a plain loop."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

import stream_executor
from stream_executor.cli.failures import CommandError


def bench(
    *,
    count: Annotated[
        int, typer.Option(metavar="N", min=4_000, help="Requests of a backlog.")
    ] = 30_000,
    rounds: Annotated[
        int, typer.Option(metavar="N", min=1, help="Repetitions of the main workload.")
    ] = 2,
    seconds: Annotated[
        float, typer.Option(metavar="S", min=1, help="Length of a steady load.")
    ] = 10.0,
    save: Annotated[
        bool, typer.Option("--save", help="Replace the record in benchmarks/results.")
    ] = False,
) -> int:
    """Measure each stage, throughput and latency on an embedded Kafka (minutes)."""
    home = Path(stream_executor.__file__).resolve().parents[1]
    if not (home / "benchmarks" / "__main__.py").is_file():
        raise CommandError(
            "NOT_FOUND",
            "The benchmarks are not installed with the package.",
            cause="they are programs of the repository, like its tests",
            remedy="make bench, in a clone of the repository",
        )
    arguments = ["--count", str(count), "--rounds", str(rounds)]
    arguments += ["--seconds", str(seconds), *(["--save"] if save else [])]
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=home, check=False).returncode
