"""Releases N-1 and N hand lanes to each other: neither way is anything lost or doubled.

N-1 is the wheel under ``tests/releases``, installed into an environment of its own that
borrows today's dependencies. Source: docs/adr/0007 (a release reads a version one
release before any release writes it).
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stream_executor import __version__
from stream_executor.kafka.reader import PartitionReader
from stream_executor.model.audit import LaneAcquired
from stream_executor.wire.avro import CODECS, class_of
from tests.deployment import ADD, COMMAND, deployment
from tests.integration.test_exactly_once import (
    all_answered,
    answered,
    fill,
    verifies,
)

if TYPE_CHECKING:
    from tests.deployment import Executor, TestDeployment

RELEASES = Path(__file__).parents[1] / "releases"
EACH = 400


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the release before this one; give its command."""
    (wheel,) = RELEASES.glob("*.whl")
    home = tmp_path_factory.mktemp("release")
    python = [sys.executable, "-m"]
    subprocess.run([*python, "venv", "--without-pip", home], check=True)
    subprocess.run(
        [
            *python, "pip", "--quiet", "--disable-pip-version-check",
            "--python", home / "bin" / "python",
            "install", "--no-deps", "--no-index", wheel,
        ],
        check=True,
    )  # fmt: skip
    (own,) = home.glob("lib/python*/site-packages")
    borrowed = sysconfig.get_path("purelib")
    # Searched after its own packages; .pth files in there (ours is one) are not read.
    (own / "borrowed.pth").write_text(f"{borrowed}\n", encoding="utf-8")
    return home / "bin" / "wasm-executor"


def version(command: Path) -> str:
    shown = subprocess.run(
        [command, "--version"], capture_output=True, text=True, check=True
    )
    return shown.stdout.split()[1]


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_lanes_go_from_release_to_release_and_back(
    kafka_bootstrap: str, tmp_path: Path, before: Path
) -> None:
    """N-1, N killed, N-1 again, N: each goes on where the other stopped."""
    assert version(COMMAND) == __version__ != version(before)
    async with deployment(kafka_bootstrap, tmp_path, 2) as made:
        await made.publish("add@1", ADD)
        total = 0
        for command, killed in (
            (before, False),
            (COMMAND, True),
            (before, True),
            (COMMAND, False),
        ):
            executor = await ready(made, command)
            total += EACH
            await fill(made, EACH)
            if killed:
                await answered(made, total - EACH // 2)
                executor.kill()
            else:
                await all_answered(made)
                assert await executor.stop() == 0
        history = await all_answered(made)

        assert history.faults == {}
        assert (history.requests, history.answered) == (total, total)
        await verifies(made, total)
        code, out, err = await made.command("audit", "verify", command=before)
        assert code == 0, out + err
        old, new = version(before), version(COMMAND)
        terms = [release for release, _ in groupby(await releases(made, 0))]
        assert terms == [old, new, old, new]


async def releases(made: TestDeployment, partition: int) -> list[str]:
    """The releases that acquired a lane, in order, as its log tells."""
    topic = made.topics.audit
    told: list[str] = []
    async with PartitionReader(made.connection) as reader:
        end = await reader.end_offset(topic, partition)
        async for records in reader.read(topic, partition, 0, end):
            told += [
                CODECS[LaneAcquired].decode(value).release
                for value in (record.value or b"" for record in records)
                if class_of(value) is LaneAcquired
            ]
    return told


async def ready(made: TestDeployment, command: Path) -> Executor:
    """Start a release as the deployment's only host; its lanes are its own at once."""
    executor = made.start(command, WASM_EXECUTOR_INSTANCE_ID=f"{made.prefix}-host")
    await executor.ready()
    return executor
